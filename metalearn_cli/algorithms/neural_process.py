"""Neural processes: a distribution of each value from a mean over the support set, or from attention to it.

Marta Garnelo, Dan Rosenbaum, Chris Maddison, Tiago Ramalho, David Saxton, Murray Shanahan, Yee Whye Teh, Danilo
Rezende, Ali Eslami: "Conditional Neural Processes", ICML 2018, arXiv 1807.01613 (algo=cnp); Marta Garnelo, Jonathan
Schwarz, Dan Rosenbaum, Fabio Viola, Danilo Rezende, Ali Eslami, Yee Whye Teh: "Neural Processes", 2018, arXiv
1807.01622 (algo=np); Hyunjik Kim, Andriy Mnih, Jonathan Schwarz, Marta Garnelo, Ali Eslami, Dan Rosenbaum, Oriol
Vinyals, Yee Whye Teh: "Attentive Neural Processes", ICLR 2019, arXiv 1901.05761 (algo=anp).

    without a latent variable:  loss = -mean over support and query of log p(y | x, support)
    with one:                   loss = -log( 1/K sum_k p(y | x, z_k, support) p(z_k | support) / q(z_k) ) / (S + Q)
                                over the points of support and query together,
                                z_k ~ q(z) = p(z | support and query),  k = 1 ... K = `samples`
    prediction:                 the mixture of p(y | x, z_k, support), z_k ~ p(z | support), of `test_samples` samples

The importance-weighted loss is that of the code of Transformer Neural Processes (Nguyen and Grover 2022, arXiv
2207.04179), whose sizes are the defaults. With K = 1 it is Garnelo's bound on the likelihood, with the divergence
estimated by the same sample. Adapting is encoding the support set; there are no inner steps.

Differs from the papers in: the network is that of the code named above, whose CNP has two encoders side by side, as
many as a neural process has; there an attention layer adds to the projected query, here to the query, and has an MLP
of two layers. Each value is scored by the mixture, as there, and not by a bound.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed, mask_of_both
from metalearn_cli.algorithms.in_context import context_of, init_sets, require_density
from metalearn_cli.algorithms.losses import gradient_update, task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.neural_process import Latent, NeuralProcessNet
from metalearn_cli.nets.set_net import Context
from metalearn_cli.seeding import normals
from metalearn_cli.system.limits import Count
from metalearn_cli.tasks.base import Batch, Spec, Support

_DRAWN = -4  # the salt of z


@dataclass(frozen=True)
class NeuralProcess(Algorithm):
    attention: bool = False  # of each point to the others, and of each query to the support set
    latent: bool = False  # whether z is drawn
    width: Count = 128
    layers: Count = 4  # of the encoder of a point
    decoder_layers: Count = 3
    heads: Count = 8  # of the attention
    samples: Count = 4  # K
    test_samples: Count = 50

    batch_norm = BatchNorm.running

    def __post_init__(self) -> None:
        if self.attention and (self.width % self.heads or self.layers < 3):
            raise UserError(
                f"algo.attention=true needs algo.layers of 3 or more and algo.width as a multiple of algo.heads, and "
                f"they are {self.layers}, {self.width} and {self.heads}"
            )

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        if self.latent:
            require_density(net, "algo.latent=true")
        return init_sets(net, self._over_sets(net.spec), rng)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.predicted, net.spec, meta.params, support)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        support, params, over_sets = batch.support, meta.params, self._over_sets(net.spec)
        features, query, stats = embed(net.features, params, support, batch.query_x, batch.query_mask, None)
        context, mask = context_of(support, features), mask_of_both(support, query, batch.query_mask)
        both = Context(torch.cat([features, query], 1), torch.cat([batch.support_y, batch.query_y], 1), mask)
        if not self.latent:
            loss = task_loss(net.spec, over_sets(params, context, both.x), both.y, mask)
            return gradient_update(meta, loss, stats)
        prior, posterior = over_sets.latent_of(params, context), over_sets.latent_of(params, both)
        z = drawn(posterior, batch.key, self.samples)
        out = over_sets.decode(params, context, z, both.x)
        losses = [task_loss(net.spec, out[:, :, k], both.y, mask) for k in range(self.samples)]
        number = both.x.shape[1] if mask is None else mask.sum(1, keepdim=True)
        log_weight = log_density(prior, z) - log_density(posterior, z) - number * torch.stack(losses, 1)  # [T, K]
        bound = torch.logsumexp(log_weight, 1, keepdim=True) - math.log(self.samples)
        return gradient_update(meta, (-bound / number).squeeze(1), stats)

    def predicted(self, spec: Spec, params: Params, support: Support, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, outputs] of the features of the support [T, S, F] and of the query [T, Q, F]; with a latent variable
        the mixture [T, Q, test_samples, outputs]."""
        over_sets, context = self._over_sets(spec), context_of(support, features)
        if not self.latent:
            return over_sets(params, context, query)
        z = drawn(over_sets.latent_of(params, context), support.key, self.test_samples)
        return over_sets.decode(params, context, z, query)

    def _over_sets(self, spec: Spec) -> NeuralProcessNet:
        sizes = self.width, self.layers, self.decoder_layers
        return NeuralProcessNet(spec.targets, spec.outputs, *sizes, self.attention, self.latent, self.heads)


def drawn(latent: Latent, key: Tensor, number: int) -> Tensor:
    """Draw z from each task's own key [T] -> [T, number, W]."""
    mean, deviation = latent
    assert deviation is not None
    normal = normals(key, _DRAWN, count=number * mean.shape[-1]).view(len(key), number, -1)
    return mean + deviation * normal.to(mean.dtype)


def log_density(latent: Latent, z: Tensor) -> Tensor:
    """log p(z) of z [T, K, W] -> [T, K]."""
    mean, deviation = latent
    assert deviation is not None
    return -(0.5 * ((z - mean) / deviation).square() + deviation.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
