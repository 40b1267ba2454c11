"""Fine-tuning after training on all classes at once: Baseline and Baseline++.

Wei-Yu Chen, Yen-Cheng Liu, Zsolt Kira, Yu-Chiang Frank Wang, Jia-Bin Huang: "A Closer Look at Few-shot
Classification", ICLR 2019, arXiv 1904.04232.

    training:  theta, H <- the minimum of -log softmax( H(f(x; theta)) )[y],  y of all training classes
    test:      H <- steps of SGD on -log softmax( H(f(x_i; theta)) )[y_i] over minibatches of the support set

(section 3.2). H(z) = W z + b is Baseline, a linear probe; `head=cosine` is Baseline++,  H(z)_k = scale g_k cos(w_k, z)
with a learned length g_k for each class, as the authors' code has it. The test starts with a head that is drawn from
the task's key, or from the class means c_k (`start=means`: w_k = 2 c_k, b_k = -||c_k||^2, so that without a pass it is
algo=protonet; of cosines w_k = c_k, g_k = 1). `adapted=all` takes theta along, under the running averages of batch
norm. Training is that of algo=pretrain; a run that starts from another one needs none, with steps=0.

Differs from the paper in: a minibatch of the support set may end in the next pass through it. A batch of training
classes is drawn with each image equally likely.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, init_body
from metalearn_cli.algorithms.features import feature_size
from metalearn_cli.algorithms.inner_loop import minibatch
from metalearn_cli.algorithms.losses import call_on, gradient_update, task_loss
from metalearn_cli.algorithms.pretrain import class_loss
from metalearn_cli.algorithms.protonet import nearest_mean_head, prototypes
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params, Pass, per_task
from metalearn_cli.nets.layers import linear
from metalearn_cli.seeding import uniform
from metalearn_cli.system.limits import Count, Natural, NonNegative, Positive, Share
from metalearn_cli.tasks.base import Batch, Spec, Support

Embed = Callable[[Params, Tensor], Tensor]  # parameters, x [T, B, ...] -> features [T, B, F]


class Classifier(Enum):
    linear = "linear"  # Baseline
    cosine = "cosine"  # Baseline++


class Tuned(Enum):
    head = "head"
    all = "all"  # and the network before it


class HeadStart(Enum):
    random = "random"  # as torch starts a linear layer
    means = "means"  # at the mean feature of each class


@dataclass(frozen=True)
class FineTune(Algorithm):
    head: Classifier = Classifier.linear
    scale: Positive = 2.0  # of cosines
    images: Count = 16  # of a batch in training; there are tasks_per_step batches
    adapted: Tuned = Tuned.head
    start: HeadStart = HeadStart.random
    passes: Natural = 100  # through the support set
    batch_size: Count | None = 4  # None: the whole support set
    lr: NonNegative = 0.01
    momentum: Share = 0.9
    dampening: Share = 0.9
    weight_decay: NonNegative = 1e-3

    batch_norm = BatchNorm.running

    def images_in_batch(self, spec: Spec) -> int | None:
        return None if spec.base is None else self.images

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body("fine_tune", net, rng, each_class=self.start is HeadStart.means)
        self.require_equal_sizes(net.spec, "batch_size")
        if net.spec.base is not None:
            sizes = feature_size(net, params), 1
            params |= self._random_head(*(torch.rand(net.spec.base, size, generator=rng) for size in sizes))
        return Meta(params, net.init_stats())

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        if net.spec.base is None:
            raise UserError(
                "algo=fine_tune trains on all training classes at once, and this task's have other labels in each "
                "task: take task=omniglot, or start from a run of another algorithm with init=outputs/RUN steps=0"
            )
        features, stats = net.features(meta.params, batch.query_x, call_on(batch, Pass.query, batch.query_mask))
        return gradient_update(meta, class_loss(self.logits(meta.params, features), batch.query_y, 0.0), stats)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        theta = {name: value for name, value in meta.params.items() if not name.startswith("head.")}
        if self.adapted is Tuned.head:

            def tuned_logits(features: Tensor, query: Tensor) -> Tensor:
                start = self.start_of_head(net.spec, support, features)
                return self.logits(self.tuned(net.spec, start, support._replace(x=features), lambda _, x: x), query)

            yield PredictorByEmbedding(net, theta, meta.buffers, support, tuned_logits)
            return

        def embed(phi: Params, x: Tensor) -> Tensor:
            return net.features(phi, x, Call(stats=meta.buffers))[0]

        start = per_task(theta, len(support.key)) | self.start_of_head(net.spec, support, embed(theta, support.x))
        phi = self.tuned(net.spec, start, support, embed)
        yield PredictorByEmbedding(net, phi, meta.buffers, support, lambda _, query: self.logits(phi, query))

    def logits(self, params: Params, features: Tensor) -> Tensor:
        """features [T, B, F] -> [T, B, K] for K classes; the head's parameters are [K, ...] or [T, K, ...]."""
        if self.head is Classifier.linear:
            return linear(params, "head", features)
        rows = F.normalize(params["head.weight"], dim=-1) * params["head.length"].unsqueeze(-1)
        return self.scale * F.normalize(features, dim=-1) @ rows.mT

    def start_of_head(self, spec: Spec, support: Support, features: Tensor) -> Params:
        """Where each task's head [T, way, ...] starts; features of the support set [T, S, F]."""
        way, size = spec.outputs, features.shape[-1]
        if self.start is HeadStart.random:
            draws = (uniform(support.key, salt, shape=(way, width)) for salt, width in ((-1, size), (-2, 1)))
            return {name: value.to(features.dtype) for name, value in self._random_head(*draws).items()}
        means = prototypes(features, support, way)
        if self.head is Classifier.cosine:
            return {"head.weight": means, "head.length": torch.ones_like(means[..., 0])}
        return nearest_mean_head(means)

    def _random_head(self, weight: Tensor, bias: Tensor) -> Params:
        """A head as torch starts it, of uniform numbers in 0..1: weight [..., K, F], bias [..., K, 1]."""
        bound = weight.shape[-1] ** -0.5
        weight, bias = ((2 * part - 1) * bound for part in (weight, bias))
        if self.head is Classifier.cosine:
            return {"head.weight": weight, "head.length": weight.norm(dim=-1)}
        return {"head.weight": weight, "head.bias": bias.squeeze(-1)}

    def tuned(self, spec: Spec, start: Params, support: Support, embed: Embed) -> Params:
        """The parameters [T, *shape] after the passes."""
        phi = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
        sgd = SGD(phi.values(), self.lr, self.momentum, self.dampening, self.weight_decay)
        size = self.batch_size or support.y.shape[1]
        for step in range(math.ceil(self.passes * support.y.shape[1] / size)):
            examples = minibatch(support, self.batch_size, step)
            with torch.enable_grad():
                out = self.logits(phi, embed(phi, examples.x))
                total = task_loss(spec, out, examples.y, examples.mask, support.way).sum()  # the tasks' do not mix
            sgd.zero_grad()
            torch.autograd.backward(total)
            sgd.step()
        return {name: value.detach() for name, value in phi.items()}
