"""Prototypical Networks.

Jake Snell, Kevin Swersky, Richard Zemel: "Prototypical Networks for Few-shot Learning", NeurIPS 2017, arXiv 1703.05175.

    c_k = mean of f(x) over the support examples of class k,   p(y = k | x) = softmax_k( -||f(x) - c_k||^2 )

(equations 1 and 2; squared Euclidean distance). There are no inner steps: adapting is taking means.

`metric=cosine` is Meta-Baseline (Yinbo Chen, Zhuang Liu, Huijuan Xu, Trevor Darrell, Xiaolong Wang, ICCV 2021, arXiv
2003.04390):  p(y = k | x) = softmax_k( scale cos(f(x), c_k) )  with a learned scale. After pre-training, FEAT's authors
divide the distances by a `temperature` (Ye, Hu, Zhan, Sha, CVPR 2020, arXiv 1812.03664). `normalise=l2` divides each
f(x) by its length first, `centre=base` subtracts the mean f of the training classes before that (SimpleShot's L2N and
CL2N: Wang, Chao, Weinberger, van der Maaten 2019, arXiv 1911.04623).

Differs from the paper in: the running variance averages the biased one of each batch. As in the authors' code, batch
norm uses the statistics of support and query together in training and running averages at test, and the training way
may be higher than the test's (`task.train_way`). The mean of `centre=base` is a running average over the episodes of
training, as their batch norm sees them; training subtracts it too.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update, init_body
from metalearn_cli.algorithms.features import BASE_MEAN, Centre, Normalise, members, prepared, squared_distance
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.system.limits import Positive
from metalearn_cli.tasks.base import Batch, Support


class Nearness(Enum):
    euclid = "euclid"  # squared distances
    cosine = "cosine"  # of angles, times a learned scale


@dataclass(frozen=True)
class ProtoNet(Algorithm):
    metric: Nearness = Nearness.euclid
    normalise: Normalise = Normalise.none
    centre: Centre = Centre.none
    scale: Positive = 10.0  # of cosines, where training begins
    temperature: Positive = 1.0  # by which squared distances are divided

    batch_norm = BatchNorm.running
    is_metric = True

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        if self.metric is Nearness.cosine and self.temperature != 1:
            raise UserError(
                f"algo.temperature={self.temperature:g} divides squared distances, and cosines have a learned "
                "algo.scale instead: give algo.temperature=1"
            )
        params = init_body("protonet", net, rng)
        learned = {"scale": torch.tensor(self.scale)} if self.metric is Nearness.cosine else {}
        return Meta(params | learned, net.init_stats() | self.centre.buffers(net, params))

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.logits, meta, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, partial(self.logits, meta, batch.support, net.spec.train_outputs))

    def learned(self, meta: Meta) -> dict[str, float]:
        return {"scale": meta.params["scale"].item()} if self.metric is Nearness.cosine else {}

    def prepared(self, meta: Meta, *features: Tensor) -> Iterator[Tensor]:
        """Features [T, B, F] as they are compared."""
        return (prepared(part, self.normalise, meta.buffers.get(BASE_MEAN)) for part in features)

    def logits(self, meta: Meta, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] of the features of the support [T, S, F] and of the query [T, Q, F]."""
        features, query = self.prepared(meta, features, query)
        means = prototypes(features, support, way)
        if self.metric is Nearness.cosine:
            return meta.params["scale"] * F.normalize(query, dim=-1) @ F.normalize(means, dim=-1).transpose(1, 2)
        return -squared_distance(query, means) / self.temperature


class OnProtoNet(Algorithm):
    """A head that predicts all queries of a task together, on features that are trained as those of ProtoNet."""

    algo: ClassVar[str]  # the name of its yaml file

    batch_norm = BatchNorm.running
    transductive_head = True

    @property
    @abstractmethod
    def protonet(self) -> ProtoNet:
        """What trains the features, and prepares them."""

    @abstractmethod
    def joint_logits(self, support: Support, way: int, query: Tensor, mask: Tensor | None) -> Tensor:
        """[T, Q, way] of prepared features: the support's are support.x [T, S, F], the query's [T, Q, F], of which mask
        [T, Q] tells the real ones."""

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body(self.algo, net, rng)
        return Meta(params, net.init_stats() | self.protonet.centre.buffers(net, params))

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return self.protonet.meta_gradient(net, meta, batch, step)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        def logits(features: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
            features, query = self.protonet.prepared(meta, features, query)
            return self.joint_logits(support._replace(x=features), net.spec.outputs, query, mask)

        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, logits, sees_all=True)


def prototypes(features: Tensor, support: Support, way: int) -> Tensor:
    """The mean feature of each class: features [T, S, F] -> [T, way, F]; 0 for a class that a task lacks."""
    member = members(support, way).to(features.dtype)
    return member.transpose(1, 2) @ features / member.sum(1).clamp(min=1).unsqueeze(-1)


def nearest_mean_head(means: Tensor) -> Params:
    """The linear head w_k = 2 c_k, b_k = -||c_k||^2 that predicts as the distances to means [T, way, F] do (section
    2.4): what its outputs lack, -||f(x)||^2, is the same for every class."""
    return {"head.weight": 2 * means, "head.bias": -means.square().sum(-1)}
