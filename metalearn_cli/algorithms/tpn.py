"""TPN: labels spread over a graph of support and query.

Yanbin Liu, Juho Lee, Minseop Park, Saehoon Kim, Eunho Yang, Sung Ju Hwang, Yi Yang: "Learning to Propagate Labels:
Transductive Propagation Network for Few-shot Learning", ICLR 2019, arXiv 1805.10002.

    F = (I - alpha S)^-1 Y,   S = D^-1/2 W D^-1/2,   W_ij = exp( -1/2 mean over numbers d of (z_i/s_i - z_j/s_j)_d^2 )

(section 3.2), z = f(x) of all examples of a task, s_i = g(z_i) learned, and W_ij kept where i is one of the k
nearest of j, or j of i. Y has a row for each example, zero for a query; F is the fixed point of F = alpha S F + Y: each
example has the labels of its neighbours and its own. p = softmax(F), and the meta-gradient is that of -log p[y] over
support and query together. With alpha = 0 only the support knows its labels. All queries of a task are predicted
together; a class with many queries passes on more of its label than one with few.

Differs from the paper in: g is two layers of `hidden` numbers on the features, so that it takes vectors as well as
images, where theirs begins with two convolutions; log(1 + exp) makes s positive. The authors' code adds 2e-16 to every
entry of I - alpha S, which is left out. An example is one of its own k neighbours, as there.

g must be trained: it is for s as large as the distances between classes. Before that s is about 0.7, every W_ij of a
network's features may be alike, and with k above the images of a class the labels spread everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed, init_body, mask_of_both
from metalearn_cli.algorithms.features import feature_size, members
from metalearn_cli.algorithms.losses import gradient_update, task_loss
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.layers import init_linear, linear
from metalearn_cli.system.limits import Count, Share
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class TPN(Algorithm):
    alpha: Share = 0.99
    neighbours: Count = 20  # k
    hidden: Count = 8  # of g

    batch_norm = BatchNorm.running
    transductive_head = True

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body("tpn", net, rng, each_class=False)
        widths = (feature_size(net, params), self.hidden, 1)
        for layer in range(2):
            weight, bias = init_linear(widths[layer], widths[layer + 1], None, rng)
            params |= {f"tpn:{layer}.weight": weight, f"tpn:{layer}.bias": bias}
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        def logits(features: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
            return self.spread(meta.params, support, net.spec.outputs, features, query, mask)[:, features.shape[1] :]

        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, logits, sees_all=True)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        support, mask = batch.support, batch.query_mask
        features, query, stats = embed(net.features, meta.params, support, batch.query_x, mask, None)
        out = self.spread(meta.params, support, net.spec.train_outputs, features, query, mask)
        y, real = torch.cat([batch.support_y, batch.query_y], 1), mask_of_both(support, batch.query_x, mask)
        return gradient_update(meta, task_loss(net.spec, out, y, real, batch.way), stats)

    def spread(
        self, params: Params, support: Support, way: int, features: Tensor, query: Tensor, mask: Tensor | None
    ) -> Tensor:
        """F [T, S + Q, way] of the features of the support [T, S, F] and of the query [T, Q, F], whose real ones mask
        [T, Q] tells."""
        z = torch.cat([features, query], 1)
        closeness = self.graph(params, z, mask_of_both(support, query, mask))
        labels = F.pad(members(support, way).to(z.dtype), (0, 0, 0, query.shape[1]))
        system = torch.eye(z.shape[1], dtype=z.dtype, device=z.device) - self.alpha * closeness
        # As alpha S has eigenvalues below 1, this is positive.
        return torch.cholesky_solve(labels, torch.linalg.cholesky_ex(system).L)

    def graph(self, params: Params, z: Tensor, mask: Tensor | None) -> Tensor:
        """S of z [T, N, F] -> [T, N, N]; zero for examples that are not real, by mask [T, N]."""
        if mask is not None:
            z = z.where(mask.unsqueeze(2), 0)  # what is not real may be any number, and its scale 0
        scale = F.softplus(linear(params, "tpn:1", linear(params, "tpn:0", z).relu()))
        z = z / scale
        distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        weight = (-distance.square() / (2 * z.shape[-1])).exp()
        if mask is not None:
            weight = weight * (mask.unsqueeze(1) & mask.unsqueeze(2))
        is_near = weight >= weight.topk(min(self.neighbours, z.shape[1])).values[..., -1:]
        weight = weight * (is_near | is_near.mT)
        root = weight.sum(-1).clamp(min=1).rsqrt()  # a real example has weight 1 on itself
        return root.unsqueeze(1) * weight * root.unsqueeze(2)
