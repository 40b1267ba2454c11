"""Meta-Curvature.

Eunbyung Park, Junier B. Oliva: "Meta-Curvature", NeurIPS 2019, arXiv 1902.03356.

    phi_{k+1} = phi_k - alpha MC(grad L(phi_k, support)),    MC(G) = G x_1 M_o x_2 M_i x_3 M_f

(section 3.1) where x_n multiplies a gradient G [out, in, kernel] by a matrix along its dimension n, so that
vec(MC(G)) = (M_o (x) M_i (x) M_f) vec(G). The matrices of each tensor begin as identities and are learned with its
start. A vector has a learned factor for each number. With identities this is MAML, and with diagonal matrices Meta-SGD
whose rates are products.

Differs from the paper in: the rows of the head have no matrix between them, since a class has another label in each
task: so a model serves any way.
"""

from dataclasses import dataclass

import torch

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import Descent, DescentAlgorithm, Rate
from metalearn_cli.nets.base import Net, Params, per_task
from metalearn_cli.system.limits import Count, NonNegative

CURVATURE = "curvature"  # what multiplies the gradient of a parameter: "curvature:NAME", or "curvature0:NAME", ...


@dataclass(frozen=True)
class MetaCurvature(DescentAlgorithm):
    inner_lr: NonNegative = 0.01  # alpha
    inner_steps: Count = 5
    test_steps: Count = 5
    remat: bool = False  # compute each inner step again in the backward pass: less memory, more time

    batch_norm = BatchNorm.transductive
    memory_savers = ("remat",)

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        theta = net.init(rng)
        curvature: Params = {}
        for name, value in theta.items():
            if value.dim() < 2:
                curvature[f"{CURVATURE}:{name}"] = torch.ones_like(value)
            for place, size in enumerate(self._sizes(net, name, value.shape)):
                curvature[f"{CURVATURE}{place}:{name}"] = torch.eye(size)
        return Meta(theta | curvature, net.init_stats())

    def _sizes(self, net: Net, name: str, shape: torch.Size) -> list[int]:
        """The sizes of the matrices along the last dimensions of a parameter: all but the classes of a head."""
        if len(shape) < 2:
            return []
        sizes = [*shape[:2], shape[2:].numel()] if len(shape) > 2 else [*shape]
        return sizes[1:] if name in net.class_rows else sizes

    def start(self, net: Net, meta: Meta, tasks: int) -> Descent:
        theta = {name: value for name, value in meta.params.items() if not name.startswith(CURVATURE)}
        alpha = {name: self._rate(net, meta.params, name) for name in theta}
        return Descent(per_task(theta, tasks), alpha)

    def _rate(self, net: Net, params: Params, name: str) -> Rate:
        places = range(len(self._sizes(net, name, net.shapes[name])))
        if not places:
            return self.inner_lr * params[f"{CURVATURE}:{name}"]
        first, *others = (params[f"{CURVATURE}{place}:{name}"] for place in places)
        return self.inner_lr * first, *others
