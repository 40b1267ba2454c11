"""Soft k-means: class means that take in unlabelled examples.

Mengye Ren, Eleni Triantafillou, Sachin Ravi, Jake Snell, Kevin Swersky, Joshua Tenenbaum, Hugo Larochelle, Richard
Zemel: "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018, arXiv 1803.00676.

    c_k <- (sum of f(x_i), y_i = k, + sum over unlabelled j of z_jk f(x_j)) / (number of y_i = k + sum of z_jk)

from c_k = the mean of the labelled ones, `steps` times; p(y = k | x) = softmax_k( -||f(x) - c_k||^2 ). What an
unlabelled example counts, d_jk = ||f(x_j) - c_k||^2:

    kmeans               z_jk = softmax_k( -d_jk )
    distractor_cluster   the same with one more cluster: the origin, of a learned radius r,  -||f(x_j)||^2 / r^2 - log r
    masked               z_jk = softmax_k( -d_jk ) sigmoid( gamma_k (beta_k - d_jk / mean_j d_jk) )

(section 3; log beta_k and log gamma_k are a small network's outputs for minimum, maximum, variance, skewness and
kurtosis over j of d_jk / mean_j d_jk, which are constants in the gradient). All is trained together. Without a step it
is algo=protonet. `task.distractors` adds unlabelled images of other classes.

Differs from the paper in: an image may have its label in one task and none in another, where theirs has one or not in
all of them (10% of the images of a class have it, 40% on miniImageNet). Queries are compared with the classes alone,
not with the distractors' cluster. As in the authors' code batch norm takes support, unlabelled and query together in
training, and the factor of d_jk / r^2 is that of the paper, where their code has a half of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update, init_body
from metalearn_cli.algorithms.features import members, squared_distance
from metalearn_cli.algorithms.protonet import prototypes
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.layers import init_linear, linear
from metalearn_cli.system.limits import Count, Natural, Positive
from metalearn_cli.tasks.base import Batch, Support

STATISTICS = 5  # of the distances to a class
RADIUS = "soft_kmeans:log_radius"


class Variant(Enum):
    kmeans = "kmeans"
    distractor_cluster = "distractor_cluster"  # takes what is far from all classes
    masked = "masked"  # leaves out what is far from a class


@dataclass(frozen=True)
class SoftKMeans(Algorithm):
    variant: Variant = Variant.kmeans
    steps: Natural = 1
    radius: Positive = 100.0  # of the distractors' cluster, where training begins
    hidden: Count = 20  # of the small network

    batch_norm = BatchNorm.running
    is_metric = True
    needs_unlabelled = True

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body("soft_kmeans", net, rng)
        if self.variant is Variant.distractor_cluster:
            params[RADIUS] = torch.tensor(math.log(self.radius))
        if self.variant is Variant.masked:
            for layer, sizes in enumerate(((STATISTICS, self.hidden), (self.hidden, 2))):
                name = f"soft_kmeans:{layer}"
                params[f"{name}.weight"], params[f"{name}.bias"] = init_linear(*sizes, 0.01, rng)
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.logits, meta.params, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, with_unlabelled(support), scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        scorer = partial(self.logits, meta.params, batch.support, net.spec.train_outputs)
        both = with_unlabelled(batch.support)
        batch = batch._replace(support_x=both.x, support_y=both.y, support_mask=both.mask)
        return embedding_update(net, meta, batch, scorer)

    def learned(self, meta: Meta) -> dict[str, float]:
        return {"radius": meta.params[RADIUS].exp().item()} if RADIUS in meta.params else {}

    def logits(self, params: Params, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] of the features of the labelled and unlabelled examples [T, S + U, F] and the query [T, Q, F]."""
        labelled, unlabelled = features.tensor_split([support.y.shape[1]], dim=1)
        means, member = prototypes(labelled, support, way), members(support, way).to(features.dtype)
        limits = self.limits(params, squared_distance(unlabelled, means)) if self.variant is Variant.masked else None
        for _ in range(self.steps):
            shares = torch.cat([member, self.shares(params, limits, unlabelled, means)], 1)
            means = shares.mT @ features / shares.sum(1).unsqueeze(-1)
        return -squared_distance(query, means)

    def shares(self, params: Params, limits: Tensor | None, x: Tensor, means: Tensor) -> Tensor:
        """z [T, U, way] of unlabelled features x [T, U, F] for means [T, way, F]."""
        distance = squared_distance(x, means)
        if self.variant is Variant.distractor_cluster:
            others = -x.square().sum(-1, keepdim=True) * (-2 * params[RADIUS]).exp() - params[RADIUS]
            return torch.cat([-distance, others], -1).softmax(-1)[..., :-1]
        shares = (-distance).softmax(-1)
        if limits is None:
            return shares
        border, steepness = limits.exp().unsqueeze(1).unbind(-1)
        return shares * torch.sigmoid(steepness * (border - distance / distance.mean(1, keepdim=True)))

    def limits(self, params: Params, distance: Tensor) -> Tensor:
        """log beta and log gamma of each class [T, way, 2]: distance [T, U, way]."""
        relative = (distance / distance.mean(1, keepdim=True)).detach()
        variance, mean = torch.var_mean(relative, 1, correction=0, keepdim=True)
        scaled = (relative - mean) / torch.where(variance > 0, variance, 1).sqrt()
        moments = (scaled**3).mean(1), (scaled**4).mean(1) - 3
        statistics = torch.stack([relative.amin(1), relative.amax(1), variance.squeeze(1), *moments], -1)
        return linear(params, "soft_kmeans:1", linear(params, "soft_kmeans:0", statistics).tanh())


def with_unlabelled(support: Support) -> Support:
    """The support set with the unlabelled examples behind it, whose label -1 is that of no class: x [T, S + U, *input].
    Raises UserError where there are none."""
    if support.unlabelled is None:
        raise UserError(
            "algo=soft_kmeans refines class means by unlabelled examples, and here are none: give unlabelled=FOLDER to "
            "metalearn predict, `unlabelled` to adapt, or task.unlabelled=5 to any other command"
        )
    added = (0, support.unlabelled.shape[1])
    mask = None if support.mask is None else F.pad(support.mask, added, value=True)
    x, y = torch.cat([support.x, support.unlabelled], 1), F.pad(support.y, added, value=-1)
    return support._replace(x=x, y=y, mask=mask)
