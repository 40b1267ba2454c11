"""The machine's speed limit: matrix products. One step is some of them; there is nothing to check."""

import torch

from benchmarks.speed import nets
from benchmarks.speed.runner import Runner, Setting
from benchmarks.speed.workloads import SGEMM_PRODUCTS, SGEMM_SIDE, Workload


def build(w: Workload, setting: Setting) -> Runner:
    matrix = torch.randn(SGEMM_SIDE, SGEMM_SIDE, device=setting.device, dtype=nets.dtype(setting))
    out = torch.empty_like(matrix)

    def step() -> None:
        for _ in range(SGEMM_PRODUCTS):
            torch.mm(matrix, matrix, out=out)

    return nets.runner(step, [], setting)
