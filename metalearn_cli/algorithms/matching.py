"""Matching Networks.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra: "Matching Networks for One Shot
Learning", NeurIPS 2016, arXiv 1606.04080.

    p(y | x, S) = sum_i a(x, x_i) y_i,   a(x, x_i) = softmax_i( temperature * cosine(f(x), g(x_i)) )

(equation 1 and section 2.1.1; y_i as one-hot vectors). Full context embeddings (`fce`) let f and g depend on the whole
support set S (appendix A; f' = g' is the network, H = F the size of its features):

    g(x_i, S) = h>_i + h<_i + g'(x_i),  h> and h< the outputs of two LSTMs that read g'(S) forwards and backwards
    f(x, S) = h_K,  h_k = LSTM(f'(x), [h_{k-1}, r_{k-1}]) + f'(x),  r_{k-1} = sum_i softmax_i(h_{k-1} . g(x_i)) g(x_i)

with h_0 = 0, hence r_0 = the mean of g(S). `reads` is K.

Differs from the paper in: the temperature, which is 1 there and trains badly on cosines: they are within -1..1 (0..1
after a ReLU), so that the nearest of 5 examples gets at most 65% (40%) of the attention. Dot product and Euclidean
distance (minus its square) are offered beside the cosine; `vote=sum` is the code of Ravi and Larochelle 2017, whose
logits are the sums of each class's cosines, without a softmax over the support. That code also embeds support and query
in two passes with a batch norm each, and adds the backward LSTM's outputs in reversed order; here batch norm has the
statistics of both together in training, as ProtoNet's, and running averages at test. Fine-tuning at test (`test_steps`,
`fine_tune_lr`) takes gradient steps on the network's weights with the matching loss of the support set on itself, under
the running averages; the paper spells out neither the loss nor the steps.
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
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, Scorer, embedding_update, init_body
from metalearn_cli.algorithms.features import feature_size, members, squared_distance
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params, per_task
from metalearn_cli.nets.layers import init_lstm, lstm_cell
from metalearn_cli.system.limits import Natural, NonNegative, Positive
from metalearn_cli.tasks.base import Batch, Support


class Kernel(Enum):
    """The similarity c(f, g) of a query's and a support example's embedding."""

    cosine = "cosine"
    dot = "dot"
    euclidean = "euclidean"  # minus the squared distance


class Vote(Enum):
    """How the similarities to the support examples become those to the classes."""

    softmax = "softmax"  # attention over the support set, summed over the examples of a class
    sum = "sum"  # the similarities themselves, summed over the examples of a class


@dataclass(frozen=True)
class Matching(Algorithm):
    kernel: Kernel = Kernel.cosine
    temperature: Positive = 10.0  # multiplies the similarities: above 1 makes the attention sharper
    learn_temperature: bool = False  # from `temperature` on
    vote: Vote = Vote.softmax
    fce: bool = False  # full context embeddings
    reads: Natural = 3  # K of the attention LSTM; 0: f = f'
    test_steps: Natural = 0  # of fine-tuning at validation and test
    fine_tune_lr: NonNegative = 0.01

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body("matching", net, rng)
        self.require_equal_sizes(net.spec, "fce")
        if self.test_steps and not params:
            raise UserError(
                f"algo.test_steps={self.test_steps} fine-tunes the network, and this one has no parameters but its "
                "head: set algo.test_steps=0"
            )
        if self.fce:
            size = feature_size(net, params)
            params |= init_lstm("fce:forward", size, size, rng) | init_lstm("fce:backward", size, size, rng)
            if self.reads:
                params |= init_lstm("fce:query", 2 * size, size, rng)
        if self.learn_temperature:
            params["matching:log_temperature"] = torch.tensor(math.log(self.temperature))
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.log_probabilities, meta.params, support, net.spec.outputs)
        for params in self.fine_tune(net, meta, support, scorer, steps):
            yield PredictorByEmbedding(net, params, meta.buffers, support, scorer)

    def learned(self, meta: Meta) -> dict[str, float]:
        name = "matching:log_temperature"
        return {"temperature": meta.params[name].exp().item()} if self.learn_temperature else {}

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        scorer = partial(self.log_probabilities, meta.params, batch.support, net.spec.train_outputs)
        return embedding_update(net, meta, batch, scorer)

    def log_probabilities(self, params: Params, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """log p(y | x, S) [T, Q, way] for the features of the support [T, S, F] and of the query [T, Q, F].

        With vote=sum it is that up to a term that all classes share.
        """
        if self.fce:
            features = contextual_support(params, features)
            query = contextual_query(params, query, features, self.reads)
        temperature = params["matching:log_temperature"].exp() if self.learn_temperature else self.temperature
        scores = temperature * similarity(self.kernel, query, features)
        member = members(support, way)
        if self.vote is Vote.sum:
            return scores @ member.to(scores.dtype)
        return log_attention(scores, member, support.mask)

    def fine_tune(self, net: Net, meta: Meta, support: Support, scorer: Scorer, steps: int) -> Iterator[Params]:
        """phi_0, phi_1, ... phi_steps: the network's weights of every task [T, *shape] after gradient steps on the
        matching loss of its support set; phi_0 are the shared ones [*shape]."""
        yield meta.params
        body = [name for name in meta.params if not name.startswith("fce:") and name != "matching:log_temperature"]
        phi = per_task({name: meta.params[name] for name in body}, len(support.key))
        for _ in range(steps):
            recording = torch.is_grad_enabled()
            with torch.enable_grad():
                if not recording:
                    phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
                features, _ = net.features(phi, support.x, Call(meta.buffers))
                out = scorer(features, features)
                total = task_loss(net.spec, out, support.y, support.mask, support.way).sum()  # the tasks' do not mix
            gradient = torch.autograd.grad(total, list(phi.values()), create_graph=recording)
            phi = {name: phi[name] - self.fine_tune_lr * g for name, g in zip(body, gradient, strict=True)}
            yield phi


def similarity(kernel: Kernel, query: Tensor, support: Tensor) -> Tensor:
    """c(f, g) of every pair: query [T, Q, F], support [T, S, F] -> [T, Q, S]."""
    if kernel is Kernel.euclidean:
        return -squared_distance(query, support)
    if kernel is Kernel.cosine:
        query, support = F.normalize(query, dim=-1), F.normalize(support, dim=-1)
    return query @ support.transpose(1, 2)


def log_attention(scores: Tensor, member: Tensor, mask: Tensor | None = None) -> Tensor:
    """log sum_i a(x, x_i) y_i: scores [T, Q, S] before the softmax over i, and which support example belongs to which
    class [T, S, way] -> [T, Q, way]; over the real examples of mask [T, S] only.

    It is a logsumexp: far from every example of a class its attention is 0 in floating point, and the logarithm of that
    would be minus infinity.
    """
    if mask is not None:
        # Very low, not minus infinity: of a class without an example the logsumexp would have no slope.
        scores = scores.masked_fill(~mask.unsqueeze(1), torch.finfo(scores.dtype).min / 4)
    attention = scores.log_softmax(-1).unsqueeze(2)  # [T, Q, 1, S]
    least = -math.inf if mask is None else torch.finfo(scores.dtype).min / 2
    return attention.masked_fill(~member.transpose(1, 2).unsqueeze(1), least).logsumexp(-1)


def contextual_support(params: Params, support: Tensor) -> Tensor:
    """g(x_i, S): features [T, S, F], in the random order of the support set -> [T, S, F]."""
    forward = lstm(params, "fce:forward", support)
    backward = lstm(params, "fce:backward", support.flip(1)).flip(1)
    return forward + backward + support


def lstm(params: Params, name: str, x: Tensor) -> Tensor:
    """The outputs h_1 ... h_S of a cell that reads x [T, S, F] from a zero state: [T, S, H = F]."""
    state = (torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]))
    outputs = []
    for features in x.unbind(1):
        state = lstm_cell(params, name, features, state)
        outputs.append(state[0])
    return torch.stack(outputs, 1)


def contextual_query(params: Params, query: Tensor, context: Tensor, reads: int) -> Tensor:
    """f(x, S): features [T, Q, F], and the context g(S) [T, S, F] that is read -> [T, Q, F].

    The paper hands [h, r] to the LSTM as its previous output. Here r stands beside the input instead: both enter the
    gates by weights of their own, so that it is the same function.
    """
    h, c = torch.zeros_like(query), torch.zeros_like(query)
    for _ in range(reads):
        read = (h @ context.transpose(1, 2)).softmax(-1) @ context
        h, c = lstm_cell(params, "fce:query", torch.cat([query, read], -1), (h, c))
        h = h + query
    return h if reads else query
