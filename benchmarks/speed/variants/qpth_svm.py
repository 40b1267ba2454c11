"""MetaOptNet with qpth 0.0.18, as its authors' code has it: 15 points of an interior-point solver, batched."""

import sys
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed import losses, nets, workloads
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import SVM, Workload

sys.modules.setdefault("cvxpy", ModuleType("cvxpy"))  # qpth imports it for a solver that is not used here
from qpth.qp import QPFunction  # noqa: E402


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "metaoptnet":
        raise Unsupported("is a solver of quadratic programs alone")
    params = {name: nets.tensor(value, setting).requires_grad_() for name, value in workloads.parameters(w).items()}
    optimizer = torch.optim.Adam(params.values(), 1e-3)
    xs, ys, xq, yq = nets.batch(w, setting)

    def step() -> None:
        optimizer.zero_grad()
        parts = [
            losses.features(params, torch.cat(both)).tensor_split([w.support]) for both in zip(xs, xq, strict=True)
        ]
        support, query = (torch.stack(part) for part in zip(*parts, strict=True))
        dual = dual_by_qpth(support, F.one_hot(ys, w.way).to(support.dtype))
        out = params["metaoptnet:scale"] * (query @ (support.mT @ dual))
        F.cross_entropy(out.flatten(0, 1), yq.flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return nets.runner(step, list(params.values()), setting)


def dual_by_qpth(x: Tensor, y: Tensor) -> Tensor:
    """x [T, S, F], y [T, S, K] -> [T, S, K]: min_a sum_k a_k' (X X' + I) a_k / 2 - y . a, where a <= C y and
    sum_k a_ik = 0, as one quadratic program of S K numbers."""
    tasks, shots, way = y.shape
    eye = torch.eye(way, dtype=x.dtype, device=x.device)
    gram = x @ x.mT
    system = torch.einsum("tij,kl->tikjl", gram, eye).reshape(tasks, shots * way, -1)
    system = system + torch.eye(shots * way, dtype=x.dtype, device=x.device)
    bounds = torch.eye(shots * way, dtype=x.dtype, device=x.device).expand(tasks, -1, -1)
    sums = torch.kron(
        torch.eye(shots, dtype=x.dtype, device=x.device), torch.ones(1, way, dtype=x.dtype, device=x.device)
    )
    wanted = y.reshape(tasks, -1)
    solved = QPFunction(verbose=False, maxIter=SVM.iterations)(
        *(system, -wanted, bounds, SVM.bound * wanted, sums.expand(tasks, -1, -1), wanted.new_zeros(tasks, shots))
    )
    return solved.view(tasks, shots, way)
