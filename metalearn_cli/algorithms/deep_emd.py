"""DeepEMD: classes and queries as sets of places in an image, compared by the cost to carry one into the other.

Chi Zhang, Yujun Cai, Guosheng Lin, Chunhua Shen: "DeepEMD: Few-Shot Image Classification with Differentiable Earth
Mover's Distance and Structured Classifiers", CVPR 2020, arXiv 2003.06777.

    EMD(u, v) = min over flows x >= 0 of  sum_ij x_ij (1 - cos(u_i, v_j)),   sum_j x_ij = s_i,  sum_i x_ij = d_j
    s_i = max(u_i . mean of v, 0) + 0.001,  d_j = max(v_j . mean of u, 0) + 0.001,  each divided by its sum
    p(y = k | x) = softmax_k( temperature (1 - EMD(f(x), P_k)) ),      P_k the mean of f(x_i), y_i = k

(equations 1 to 8; u_i and v_j are the numbers at the places of the last images f, without their mean in the cosine). It
is the paper's DeepEMD-FCN. With `refine_steps`, P is moved by that many gradient steps on the loss of the support set
before (its structured fully connected layer), and the meta-gradient runs through the query alone. The paper starts f
from a network that is pre-trained on all training classes.

Differs from the paper in: Sinkhorn's algorithm (Cuturi 2013, arXiv 1306.0895) solves the problem with an added
blur KL(x || s d'), of which the minimum is EMD for blur -> 0, where the authors' code has a QP in training and OpenCV's
solver at test. Its slope is the flow, and the potentials in s and d (the envelope theorem): nothing is unrolled. The
steps on P see the whole support set, and the code's minibatches of 4 with momentum.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed, init_body, maps_of
from metalearn_cli.algorithms.losses import gradient_update, task_loss
from metalearn_cli.algorithms.protonet import prototypes
from metalearn_cli.nets.base import Net
from metalearn_cli.system.limits import Count, Natural, NonNegative, Positive
from metalearn_cli.tasks.base import Batch, Spec, Support

SHORTEST = 0.01  # the length from which a place counts fully: the angle of what is zero has no slope


@dataclass(frozen=True)
class DeepEMD(Algorithm):
    temperature: Positive = 12.5
    blur: Positive = 0.05
    iterations: Count = 100  # of Sinkhorn's algorithm
    refine_steps: Natural = 0  # on the classes' maps
    refine_lr: NonNegative = 0.1

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        params = init_body("deep_emd", net, rng)
        maps_of(net, "deep_emd")  # refuses a network without
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.logits, net.spec, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer, by=maps_of(net, "deep_emd"))

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        support, by = batch.support, maps_of(net, "deep_emd")
        maps, query, stats = embed(by, meta.params, support, batch.query_x, batch.query_mask, None)
        out = self.logits(net.spec, support, net.spec.train_outputs, maps, query)
        return gradient_update(meta, task_loss(net.spec, out, batch.query_y, batch.query_mask, batch.way), stats)

    def logits(self, spec: Spec, support: Support, way: int, maps: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] of the maps of the support [T, S, C, H, W] and of the query [T, Q, C, H, W]."""
        classes = prototypes(maps.flatten(2), support, way).view(-1, way, *maps.shape[2:])
        for _ in range(self.refine_steps):
            with torch.enable_grad():
                at = classes.requires_grad_()
                loss = task_loss(spec, self.compared(at, maps), support.y, support.mask, support.way)
                slope = torch.autograd.grad(loss.sum(), at)[0]  # the tasks' do not mix
            classes = at.detach() - self.refine_lr * slope
        return self.compared(classes, query)

    def compared(self, classes: Tensor, query: Tensor) -> Tensor:
        """temperature (1 - EMD) of each pair, [T, Q, way], of maps [T, way, C, H, W] and [T, Q, C, H, W]."""
        u, v = query.flatten(3).transpose(2, 3).unsqueeze(2), classes.flatten(3).transpose(2, 3).unsqueeze(1)
        weights = [F.relu((a * b.mean(3, keepdim=True)).sum(4)) + 1e-3 for a, b in ((u, v), (v, u))]
        s, d = (weight / weight.sum(3, keepdim=True) for weight in weights)  # [T, Q, way, H*W]
        u, v = (F.normalize(a - a.mean(4, keepdim=True), dim=4, eps=SHORTEST) for a in (u, v))
        cost = 1 - u @ v.transpose(3, 4)  # [T, Q, way, H*W, H*W]
        return self.temperature * (1 - transport(cost, s, d, self.blur, self.iterations))


def transport(cost: Tensor, s: Tensor, d: Tensor, blur: float, iterations: int) -> Tensor:
    """The minimum of sum_ij x_ij cost_ij + blur KL(x || s d') over x of row sums s and column sums d: cost [..., N, M],
    s [..., N] and d [..., M] positive, of sum 1 -> [...]. Its first derivative is that of the minimum.

    Sinkhorn's algorithm, in logarithms: each step is exact in the potential of the rows f, or of the columns g.
    """
    with torch.no_grad():
        log_s, log_d, f = s.log().unsqueeze(-1), d.log().unsqueeze(-2), torch.zeros_like(s).unsqueeze(-1)
        for _ in range(iterations):
            g = -blur * ((f - cost) / blur + log_s).logsumexp(-2, keepdim=True)
            f = -blur * ((g - cost) / blur + log_d).logsumexp(-1, keepdim=True)
        flow = ((f + g - cost) / blur + log_s + log_d).exp()
    by_potentials = (f.squeeze(-1) * s).sum(-1) + (g.squeeze(-2) * d).sum(-1)
    return by_potentials + (flow * (cost - cost.detach())).sum((-2, -1))
