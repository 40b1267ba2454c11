"""Training on everything at once, without tasks: the baselines that meta-learning has to beat.

Values: Chelsea Finn, Pieter Abbeel, Sergey Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
ICML 2017, arXiv 1703.03400: "pretrained on all tasks" in section 5.1 and Table 2.

    theta <- theta - beta grad L(theta, all examples of all tasks),   at test  phi_{k+1} = phi_k - alpha grad L(phi_k)

There is no inner step in training: one network learns the mean of all tasks. At test it is fine-tuned like MAML's, with
a step size that has to be tuned (`algo.inner_lr`; a sweep finds it).

Classes: Yan Wang, Wei-Lun Chao, Kilian Weinberger, Laurens van der Maaten: "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning", 2019, arXiv 1911.04623.

    theta <- theta - beta grad -log p(y | x; theta),  y of all training classes;   at test the nearest class mean of f

The network learns to tell all training classes apart, and its head is left out at test: ProtoNet's prediction. With
`normalise=l2` that is SimpleShot's L2N, and with `centre=base` as well its CL2N: f minus its mean over training images.

Differs from the papers in: MAML's does not print the step sizes that its tuning found. A batch of classes is drawn with
each image equally likely, where the code goes through all images in passes. The mean of `centre=base` is a running
average over the batches, of which each step counts a tenth, under the running statistics of batch norm (one forward
more in each step); the code takes it over all training images once training is over.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.features import BASE_MEAN, Centre, Normalise
from metalearn_cli.algorithms.inner_loop import Descent, adapted_nets, query_update
from metalearn_cli.algorithms.losses import call_on, gradient_update
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Pass, per_task, with_outputs
from metalearn_cli.system.limits import Count, NonNegative, Share
from metalearn_cli.tasks.base import Batch, Spec, Support


@dataclass(frozen=True)
class Pretrain(Algorithm):
    inner_lr: NonNegative = 0.02  # values: alpha, at validation and test
    test_steps: Count | None = None  # values: None is 10; classes take none
    images: Count = 64  # classes: of a batch; there are tasks_per_step batches
    label_smoothing: Share = 0.0  # classes: the share of the target that all classes have alike
    normalise: Normalise = Normalise.none  # classes: of features, at validation and test
    centre: Centre = Centre.none  # classes: likewise

    batch_norm = BatchNorm.transductive
    is_metric = True

    def steps_at_test(self, spec: Spec) -> int:
        return 0 if spec.kind == "classes" else self.test_steps or 10

    def batch_norm_at_test(self, spec: Spec) -> BatchNorm:
        return BatchNorm.running if spec.kind == "classes" else self.batch_norm

    def images_in_batch(self, spec: Spec) -> int | None:
        return self.images if spec.kind == "classes" else None

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        spec = net.spec
        if spec.kind == "values":
            return Meta(net.init(rng), net.init_stats())
        if spec.base is None or not spec.complete:
            raise UserError(
                "algo=pretrain learns all training classes at once, and this task's have other labels in each task: "
                "take task=omniglot, or algo=protonet"
            )
        if self.test_steps:
            raise UserError(
                f"algo.test_steps={self.test_steps} is for values, and algo=pretrain takes no inner steps for classes: "
                "leave it out"
            )
        params = with_outputs(net, spec.base).init(rng)
        return Meta(params, net.init_stats() | self.centre.buffers(net, params))

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        if net.spec.kind == "classes":
            yield from ProtoNet(normalise=self.normalise, centre=self.centre).adapt(net, meta, support, steps)
            return
        phi = per_task(meta.params, len(support.key))
        start = Descent(phi, dict.fromkeys(phi, self.inner_lr))
        yield from adapted_nets(net, meta, support, start, steps, second_order=False)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        if net.spec.kind == "classes":
            return self._gradient_of_classes(with_outputs(net, net.spec.base or 0), meta, batch)
        x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
        mask = None
        if batch.support_mask is not None and batch.query_mask is not None:
            mask = torch.cat([batch.support_mask, batch.query_mask], 1)
        return query_update(net, meta, meta.params, batch._replace(query_x=x, query_y=y, query_mask=mask), 0)

    def _gradient_of_classes(self, net: Net, meta: Meta, batch: Batch) -> Update:
        """grad -log p(y | x) of images query_x [T, Q, *input] with their labels among all training classes."""
        out, stats = net(meta.params, batch.query_x, call_on(batch, Pass.query, batch.query_mask))
        if self.centre is Centre.base:
            with torch.no_grad():
                stats = stats | {
                    BASE_MEAN: net.features(meta.params, batch.query_x, Call(stats=meta.buffers))[0].mean(1)
                }
        return gradient_update(meta, class_loss(out, batch.query_y, self.label_smoothing), stats)


def class_loss(out: Tensor, y: Tensor, label_smoothing: float) -> Tensor:
    """The mean cross-entropy of each batch [T]: out [T, Q, classes], y [T, Q]."""
    loss = F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none", label_smoothing=label_smoothing)
    return loss.view(y.shape).mean(1)
