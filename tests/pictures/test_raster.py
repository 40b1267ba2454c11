from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from problems import DOUBLE, images, points
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Predictor, Update
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.pictures.arrays import Arrays, of_classes, of_values
from metalearn_cli.pictures.raster import BLUE, GREEN, ORANGE, RED, SKY, heading, picture
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Spec, Support

MODE = BatchNorm.transductive


@dataclass(frozen=True)
class Answers(Algorithm):
    """Says what it is told to: answers[k], [T, Q, outputs] or a number, after k steps."""

    answers: tuple[Any, ...]
    batch_norm = MODE

    @property
    def test_steps(self) -> int:  # type: ignore[override]
        return len(self.answers) - 1

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        return Meta(net.init(rng), {})

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        for answer in self.answers[: steps + 1]:
            yield (
                lambda x, mode, mask=None, answer=answer: (
                    answer if isinstance(answer, Tensor) else torch.full_like(x, answer)
                )
            )

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        raise NotImplementedError


def learner(algorithm: Algorithm, spec: Spec) -> Learner:
    return Learner(algorithm, MLP(spec, hidden=[8]), Optimizer(), generator(0, "init"), DOUBLE)


def arrays(algorithm: Algorithm, spec: Spec, batch: Batch) -> Arrays:
    tensors = (of_classes if spec.kind == "classes" else of_values)(learner(algorithm, spec), batch, MODE)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def drawn(algorithm: Algorithm, spec: Spec, batch: Batch) -> Tensor:
    """The picture, uint8 [H, W, 3]."""
    return torch.from_numpy(np.array(picture(arrays(algorithm, spec, batch))))


def where(image: Tensor, colour: str) -> Tensor:
    """The pixels of that colour, [H, W]."""
    return (image == torch.tensor(list(bytes.fromhex(colour[1:])))).all(-1)


def box(mask: Tensor) -> tuple[int, int, int, int]:
    """The rows and the columns between which everything that is True lies."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def logits(batch: Batch, wrong: list[int]) -> Tensor:
    """Right for every query image of the first task but those, which are taken for the next class."""
    y = batch.query_y[:1].clone()
    y[0, wrong] = (y[0, wrong] + 1) % 3
    return 5 * torch.nn.functional.one_hot(y, 3).double()


@pytest.mark.parametrize(("tasks", "height"), [(1, 370), (2, 370), (3, 680), (6, 680)])
def test_curves_of_any_number_of_tasks(tasks: int, height: int) -> None:
    image = drawn(MAML(), *points(tasks=tasks))
    assert image.shape == (height, 1040, 3)
    assert image.dtype == torch.uint8


def test_each_line_is_drawn_at_its_height() -> None:
    panel = drawn(Answers((-0.5, 0.0, 0.25, 0.5)), *points(tasks=1))[60:]
    before, first, last = (box(where(panel, colour))[:2] for colour in (ORANGE, SKY, BLUE))
    assert last[1] < first[0]  # rows count downwards
    assert first[1] < before[0]


def test_one_inner_step_draws_two_lines() -> None:
    image = drawn(MAML(test_steps=1), *points())
    assert not where(image, SKY).any()
    assert where(image, BLUE).any()


def test_a_run_of_an_earlier_version_has_no_errors_and_no_conditions() -> None:
    shown = arrays(MAML(), *points())
    later = picture(shown)
    del shown["errors"]
    assert heading(shown) == "5 support points"
    assert picture(shown).size == later.size
    assert np.array(picture(shown)).tolist() != np.array(later).tolist()


@pytest.mark.parametrize("value", [1e30, float("inf"), float("nan")])
def test_a_learner_that_diverged_still_shows_the_truth(value: float) -> None:
    panel = drawn(Answers((0.0, value)), *points(tasks=1))[60:]
    top, bottom, left, right = box(where(panel, "#000000")[30:])  # support points, below the title
    assert bottom - top > 40
    assert right - left > 200


@pytest.mark.parametrize("wrong", [0, 4, 8])
def test_a_wrong_prediction_changes_the_frame_of_its_image_and_nothing_else(wrong: int) -> None:
    spec, batch = images(query=3, size=14)
    y = batch.query_y[0].tolist()
    none, one = (drawn(Answers((logits(batch, w),)), spec, batch)[89:] for w in ([], [wrong]))  # below the legend
    assert not where(none, RED).any()
    top, bottom, left, right = box((none != one).any(-1))
    assert top == 82 * y[wrong]  # a row for each class
    assert left == box(where(none, GREEN))[2] + 66 * y[:wrong].count(y[wrong])  # its images in their order
    assert bottom - top < 82
    assert right - left < 66
    frame = where(none, GREEN)[top : top + 62, left : left + 62]  # 14 pixels times 4, and twice 3
    assert torch.equal(frame, where(one, RED)[top : top + 62, left : left + 62])


@pytest.mark.parametrize(
    ("way", "shot", "query", "size", "channels"),
    [(2, 1, 1, 16, 1), (3, 7, 17, 28, 3), (22, 1, 2, 20, 1), (2, 2, 2, 84, 3), (2, 1, 1, 224, 3)],
)
def test_episodes_of_any_size(way: int, shot: int, query: int, size: int, channels: int) -> None:
    image = drawn(ProtoNet(), *images(1, way, shot, query, size, channels))
    assert image.shape[2] == 3
    assert max(image.shape) < 2000


def test_more_images_than_fit_do_not_widen_the_picture() -> None:
    many, some = (arrays(ProtoNet(), *images(1, 2, shot, query)) for shot, query in ((40, 40), (6, 16)))
    assert picture(many).size == picture(some).size
    assert heading(many).startswith(f"{many['right']} of 80 query images right (")
    assert heading(many).endswith(" (30 are shown)")
