"""LEO: gradient steps on a few latent numbers for each class, from which its weights are made.

Andrei Rusu, Dushyant Rao, Jakub Sygnowski, Oriol Vinyals, Razvan Pascanu, Simon Osindero, Raia Hadsell: "Meta-Learning
with Latent Embedding Optimization", ICLR 2019, arXiv 1807.05960.

    z_k ~ N(the mean of g([e(f(x_i)), e(f(x_j))]) over x_i of class k and all x_j),     w_k ~ N(decode(z_k))
    z <- z - alpha grad_z L(w(z), support) a few times,   then   w <- w - beta grad_w L(w, support) a few times
    p(y = k | x) = softmax_k( w_k f(x) )
    loss = -log p(y | x) + kl_weight KL(z || N(0, I)) + encoder_penalty ||stopgrad(z') - z||^2
           + l2 ||e, g, decode||^2 / 2 + orthogonality ||correlations of decode's columns - I||^2

(equations 4 to 9, and 10 in the code's form). L is the sum over the support set, divided by the number of shots; alpha
and beta are learned, one for each dimension; e and decode are linear, g has three layers; f(x) is divided by its
length, as in the authors' code. Only training draws: at validation and test z and w are the means. f is what comes
before: task=features, model=pretrained, or a network that learns with the rest. The meta-gradient runs through all
steps.

Differs from the paper in: there is one z for each class, as in its algorithm 1, where the code draws one for each
support example and averages their predictions (equal at validation and test, and with one shot). A step whose loss is
not finite stops the run, where the code decays the weights. The published figures are of the authors' own features.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed, init_body
from metalearn_cli.algorithms.features import feature_size, members
from metalearn_cli.algorithms.losses import call_on, gradient_update, mean_of_real, task_loss
from metalearn_cli.nets.base import Net, Params, Pass
from metalearn_cli.nets.layers import linear
from metalearn_cli.nets.noise import dropped
from metalearn_cli.seeding import normals
from metalearn_cli.system.limits import Count, Natural, NonNegative, Share
from metalearn_cli.tasks.base import Batch, Spec, Support

RELATION = ("leo:relation1", "leo:relation2", "leo:relation3")
LAYERS = ("leo:encoder", *RELATION, "leo:decoder")
_DRAWN = -3  # the salt of z and w; a minibatch's are 0 and above, that of what is dropped is -2


class Adapted(NamedTuple):
    """What LEO makes of the support sets."""

    weights: Tensor  # [T, way, F]
    divergence: Tensor  # [T], of z from the standard normal distribution
    moved: Tensor  # [T], the mean square of how far the steps moved z


@dataclass(frozen=True)
class LEO(Algorithm):
    latents: Count = 64  # numbers of z
    latent_steps: Natural = 5  # on z
    tuning_steps: Natural = 5  # on w
    latent_lr: NonNegative = 1.0  # alpha, where training begins
    tuning_lr: NonNegative = 1e-3  # beta, likewise
    dropout: Share = 0.3  # of the features
    kl_weight: NonNegative = 0.1
    encoder_penalty: NonNegative = 1e-6
    l2: NonNegative = 1e-8
    orthogonality: NonNegative = 0.1

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        """Draw as the authors' code does: uniform within sqrt(6 / (inputs + outputs))."""
        params = init_body("leo", net, rng)
        size, latents = feature_size(net, params), self.latents
        rates = {"leo:latent_lr": torch.full((latents,), self.latent_lr)}
        rates |= {"leo:tuning_lr": torch.full((size,), self.tuning_lr)}
        sizes = [(latents, size), *[(2 * latents, 2 * latents)] * len(RELATION), (2 * size, latents)]
        for name, (outputs, inputs) in zip(LAYERS, sizes, strict=True):
            uniform = 2 * torch.rand(outputs, inputs, generator=rng) - 1
            params[f"{name}.weight"] = math.sqrt(6 / (inputs + outputs)) * uniform
        return Meta(params | rates, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        def logits(features: Tensor, query: Tensor) -> Tensor:
            features, query = F.normalize(features, dim=2), F.normalize(query, dim=2)
            is_class = members(support, net.spec.outputs)
            return query @ self.adapted(net.spec, meta.params, support, is_class, features).weights.transpose(1, 2)

        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, logits)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        params, support, is_class = meta.params, batch.support, members(batch.support, net.spec.train_outputs)
        features, query, stats = embed(net.features, params, support, batch.query_x, batch.query_mask, None)
        features, query = F.normalize(features, dim=2), F.normalize(query, dim=2)
        weights, divergence, moved = self.adapted(net.spec, params, support, is_class, features)
        out = dropped(query, self.dropout, call_on(batch, Pass.query, None), -1) @ weights.transpose(1, 2)
        loss = task_loss(net.spec, out, batch.query_y, batch.query_mask, batch.way)
        loss = loss + self.kl_weight * divergence + self.encoder_penalty * moved
        square = torch.cat([params[f"{name}.weight"].flatten() for name in LAYERS]).square().sum()
        columns = F.normalize(params["leo:decoder.weight"], dim=0)
        overlap = columns.T @ columns - torch.eye(self.latents, dtype=loss.dtype, device=loss.device)
        loss = loss + self.l2 / 2 * square + self.orthogonality * overlap.square().mean()
        return gradient_update(meta, loss, stats)

    def adapted(self, spec: Spec, params: Params, support: Support, is_class: Tensor, features: Tensor) -> Adapted:
        """Take the steps on z, and then those on w: is_class [T, S, way] bool, features of the support [T, S, F]."""
        records, is_there = torch.is_grad_enabled(), is_class.any(1)  # [T, way]

        def slope(of: Tensor, weights: Tensor, step: int) -> Tensor:
            out = self.dropped(features, support, step) @ weights.transpose(1, 2)
            loss = task_loss(spec, out, support.y, support.mask, support.way) * is_there.sum(1)
            return torch.autograd.grad(loss.sum(), of, create_graph=records)[0]  # the tasks' do not mix

        def decoded(z: Tensor, step: int) -> Tensor:
            offset = math.sqrt(2 / (is_class.shape[2] + features.shape[2]))
            return drawn(linear(params, "leo:decoder", z), offset, support, step + 1)[0]

        codes = encoded(params, is_class, self.dropped(features, support, -1))
        z, divergence = drawn(codes, 0.0, support, 0)
        with torch.enable_grad():
            z = start = z if records else z.detach().requires_grad_()
            for step in range(self.latent_steps):
                z = z - params["leo:latent_lr"] * slope(z, decoded(z, step), step)
            weights = decoded(z, self.latent_steps)
            for step in range(self.latent_steps, self.latent_steps + self.tuning_steps):
                weights = weights - params["leo:tuning_lr"] * slope(weights, weights, step)
        moved = (z.detach() - start).square().mean(2)
        weights = weights if records else weights.detach()
        return Adapted(weights, mean_of_real(divergence, is_there), mean_of_real(moved, is_there))

    def dropped(self, features: Tensor, support: Support, step: int) -> Tensor:
        """Features of the support [T, S, F] in this step, -1 being the encoder's, without what training drops."""
        return dropped(features, self.dropout, call_on(support, Pass.support, None, step), -1)


def encoded(params: Params, is_class: Tensor, features: Tensor) -> Tensor:
    """mu and log sigma of z [T, way, 2 latents], from features [T, S, F]; is_class [T, S, way] bool."""
    codes = linear(params, "leo:encoder", features)
    pairs = [part.expand(-1, codes.shape[1], codes.shape[1], -1) for part in (codes.unsqueeze(2), codes.unsqueeze(1))]
    x = torch.cat(pairs, 3)  # [T, S, S, 2 latents]
    for name in RELATION[:-1]:
        x = F.relu(linear(params, name, x))
    share = is_class.to(x.dtype) / is_class.sum(1, keepdim=True).clamp(min=1)  # of x_i in the mean of its class
    is_real = is_class.any(2, keepdim=True)
    of_all = is_real.to(x.dtype) / is_real.sum(1, keepdim=True)  # of x_j, [T, S, 1]
    return torch.einsum("tijc,tik,tjo->tkc", linear(params, RELATION[-1], x), share, of_all)


def drawn(codes: Tensor, offset: float, support: Support, number: int) -> tuple[Tensor, Tensor]:
    """Draw from the normal distributions of mean m and deviation max(exp(s) - 1 + offset, 1e-10), codes [T, way, N + N]
    being m and s -> [T, way, N], and the draw's mean log density over that of N(0, I), [T, way]. Only training draws;
    elsewhere it is m, and 0. `number` tells the draws of a task apart."""
    mean, log = codes.chunk(2, 2)
    if support.progress is None:
        return mean, torch.zeros_like(mean[..., 0])
    deviation = (log.exp() - 1 + offset).clamp(min=1e-10)
    noise = normals(support.key, _DRAWN, number, count=mean[0].numel()).view_as(mean).to(mean.dtype)
    draw = mean + deviation * noise
    return draw, ((draw.square() - noise.square()) / 2 - deviation.log()).mean(2)
