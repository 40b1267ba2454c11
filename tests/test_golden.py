"""Losses of the first steps in float64, as the first right version had them: speed may not change them.

tests/golden.json was written at commit 74c20a4, by torch's own layers, before any of them was made faster. A change of
maths writes it anew (`python tests/test_golden.py`), in a commit that says so.
"""

import json
from pathlib import Path

import pytest
import torch
from problems import ALGORITHMS, images, points

from metalearn_cli.algorithms.base import Algorithm
from metalearn_cli.algorithms.maml import MAML, Adapted
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.learner import Learner
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
    "ANIL": MAML(inner_lr=0.1, adapted=Adapted.head),
}
FOR_CLASSES, FOR_VALUES = ("ProtoNet", "Matching"), ("Pretrain",)
PAIRS: dict[str, tuple[Algorithm, Net]] = {
    f"{label}, {name}": (algorithm, net)
    for name, net in NETS.items()
    for label, algorithm in ALL.items()
    if label not in (FOR_CLASSES if net.spec.kind == "values" else FOR_VALUES)
}


def first_losses(algorithm: Algorithm, net: Net) -> list[float]:
    """The mean loss of five steps."""
    learner = Learner(algorithm, net, Optimizer(), torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = POINTS if net.spec.kind == "values" else IMAGES
    return [learner.step(batch, step).mean().item() for step in range(5)]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.row("D2")
def test_the_first_losses_are_the_golden_ones(pair: str) -> None:
    assert first_losses(*PAIRS[pair]) == pytest.approx(json.loads(FILE.read_text())[pair], rel=1e-9)


def test_every_golden_loss_belongs_to_a_pair() -> None:
    assert json.loads(FILE.read_text()).keys() == PAIRS.keys()


if __name__ == "__main__":
    FILE.write_text(json.dumps({pair: first_losses(*PAIRS[pair]) for pair in PAIRS}, indent=1) + "\n")
