"""Losses of the first steps in float64, as the first right version had them: speed may not change them.

tests/golden.json was written at commit 74c20a4, by torch's own layers, before any of them was made faster. A change of
maths writes it again (`python tests/golden/test_golden.py`), in a commit that says so.
"""

import json
from pathlib import Path

import pytest
import torch
from problems import ALGORITHMS, DOUBLE, ON_EMBEDDINGS, images, points

from metalearn_cli.algorithms.base import Algorithm
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer

FILE = Path(__file__).parent / "golden.json"
SPEC, IMAGES = images(size=17)
VALUES_SPEC, POINTS = points()
NETS: dict[str, Net] = {
    "max_pool": Conv4(SPEC, filters=6),
    "stride": Conv4(SPEC, filters=6, downsample=Downsample.stride, spatial_mean=True),
    "no gamma": Conv4(SPEC, filters=6, gamma=False),
    "mlp": MLP(SPEC, hidden=(9, 8), batch_norm=True),
    "points": MLP(VALUES_SPEC, hidden=(9, 8)),
}
ALL: dict[str, Algorithm] = {type(algorithm).__name__: algorithm for algorithm in [*ALGORITHMS, Pretrain()]} | {
    "first-order MAML": MAML(inner_lr=0.1, inner_steps=2, first_order=True),
    "ANIL": MAML(inner_lr=0.1, adapted=AdaptedPart.head),
}
FOR_CLASSES, FOR_VALUES = [cls.__name__ for cls in ON_EMBEDDINGS], ["Pretrain"]
PAIRS: dict[str, tuple[Algorithm, Net]] = {
    f"{label}, {name}": (algorithm, net)
    for name, net in NETS.items()
    for label, algorithm in ALL.items()
    if label not in (FOR_CLASSES if net.spec.kind == "values" else FOR_VALUES)
}

# How far the last bits lead: against golden.json the five losses were off by at most 7.5e-13 under MKL_CBWR=COMPATIBLE,
# SSE4_2, AVX2 and AVX512, under ATEN_CPU_CAPABILITY=default, avx2 and avx512 with ONEDNN_MAX_CPU_ISA=SSE41, AVX2 and
# AVX512_CORE, with one thread and two, and with inputs moved by their last bit (Intel Xeon with AVX-512, torch 2.13.0,
# 2026-11-30). 1e-10 is 130 times that. Adam on points was off by 4.1e-11: 1e-9 is 24 times that. The optimizers of a
# network with batch norm, where weights of 0.01 make steep slopes, are chaotic: off by 3.6e-8 in five losses and by
# 4.1e-9 in two, and 1e-7 is 24 times that. FEAT and LEO start from normal numbers, whose logarithms torch takes in
# float32 by the processor's instructions: off by 4.2e-9 under ATEN_CPU_CAPABILITY=default; 1e-7 is 24 times that.
CHAOTIC = [f"{label}, {name}" for label in ("LearnedOptimizer", "HandOptimizer") for name in NETS if name != "points"]
NORMAL = [f"{label}, {name}" for label in ("FEAT", "LEO") for name in NETS if name != "points"]
TOLERANCE = {**dict.fromkeys(PAIRS, 1e-10), "HandOptimizer, points": 1e-9, **dict.fromkeys([*CHAOTIC, *NORMAL], 1e-7)}


def first_losses(algorithm: Algorithm, net: Net) -> list[float]:
    """The mean loss of five steps."""
    learner = Learner(algorithm, net, Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    batch = POINTS if net.spec.kind == "values" else IMAGES
    return [learner.step(batch, step).mean().item() for step in range(5)]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.row("D2")
def test_the_first_losses_are_the_golden_ones(pair: str) -> None:
    golden = json.loads(FILE.read_text())[pair]
    steps = 2 if pair in CHAOTIC else 5
    assert first_losses(*PAIRS[pair])[:steps] == pytest.approx(golden[:steps], rel=TOLERANCE[pair])


def test_every_golden_loss_belongs_to_a_pair() -> None:
    assert json.loads(FILE.read_text()).keys() == PAIRS.keys()


if __name__ == "__main__":
    FILE.write_text(json.dumps({pair: first_losses(*PAIRS[pair]) for pair in PAIRS}, indent=1) + "\n")
