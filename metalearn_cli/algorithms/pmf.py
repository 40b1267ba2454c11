"""P>M>F: a pretrained network, meta-trained as a ProtoNet, fine-tuned on each task.

Shell Xu Hu, Da Li, Jan Stuehmer, Minyoung Kim, Timothy M. Hospedales: "Pushing the Limits of Simple Pipelines for
Few-Shot Learning: External Data and Fine-Tuning Make a Difference", CVPR 2022, arXiv 2204.07305.

    p(y = k | x; theta) = softmax_k( scale cos(f(x; theta), c_k(theta)) ),   c_k = mean of f(x_i; theta), y_i = k
    M:  theta <- the minimum over training tasks of -log p(y | x; theta) on their query sets
    F:  phi <- steps of Adam on -log p(y_i | A(x_i); phi) over the support set, from phi = theta

(section 3). A changes an image at random, in each step in another way, and the prototypes c_k(phi) are those of the
images as they are. P is `model=pretrained model.frozen=false`, or any other network. The rate of F is chosen on
validation tasks: `steps=0 eval_every=1` with `-m algo.lr=0,0.0001,0.001,0.01`; at 0 nothing is tuned, and this is
ProtoNet with cosines.

Differs from the paper in: an image is always changed (in the authors' code nine times out of ten), shifts mirror what
comes in at the edge, and the rate is one for all test tasks of a run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.optim import Adam

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, init_body
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.protonet import Nearness, ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params, per_task
from metalearn_cli.system.limits import Natural, NonNegative, Positive
from metalearn_cli.tasks.augment import Augment, changed_copies
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class PMF(Algorithm):
    scale: Positive = 10.0  # of cosines, where training begins
    tuning_steps: Natural = 50  # of F
    lr: NonNegative = 1e-3  # of F
    augment: tuple[Augment, ...] = (Augment.crop, Augment.jitter)  # A

    batch_norm = BatchNorm.running

    @cached_property
    def protonet(self) -> ProtoNet:
        return ProtoNet(Nearness.cosine, scale=self.scale)

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body("pmf", net, rng)
        if not params and self.lr > 0 and self.tuning_steps > 0:
            raise UserError(
                "algo=pmf tunes a network on each task, and here is none below the head: give model.frozen=false for "
                "a pretrained one, or take algo=protonet algo.metric=cosine"
            )
        if self.augment and len(net.spec.input_shape) != 3:
            raise UserError("algo.augment changes images, and this task has none: give algo.augment=[]")
        return Meta(params | {"scale": torch.tensor(self.scale)}, net.init_stats())

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return self.protonet.meta_gradient(net, meta, batch, step)

    def learned(self, meta: Meta) -> dict[str, float]:
        return self.protonet.learned(meta)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        if self.lr == 0 or self.tuning_steps == 0:
            yield from self.protonet.adapt(net, meta, support, steps)
            return

        def logits(features: Tensor, query: Tensor) -> Tensor:
            return self.protonet.logits(meta, support, net.spec.outputs, features, query)

        theta = {name: value for name, value in meta.params.items() if name != "scale"}
        phi = {
            name: value.detach().clone().requires_grad_() for name, value in per_task(theta, len(support.key)).items()
        }
        adam = Adam(phi.values(), self.lr)

        def embed(x: Tensor) -> Tensor:
            return net.features(phi, x, Call(stats=meta.buffers, mask=support.mask))[0]

        for step in range(self.tuning_steps):
            changed = changed_copies(support, 1, self.augment, step)
            with torch.enable_grad():
                out = logits(embed(support.x), embed(changed.x))
                total = task_loss(net.spec, out, support.y, support.mask, support.way).sum()  # the tasks' do not mix
            adam.zero_grad()
            torch.autograd.backward(total)
            adam.step()
        tuned: Params = {name: value.detach() for name, value in phi.items()}
        yield PredictorByEmbedding(net, tuned, meta.buffers, support, logits)
