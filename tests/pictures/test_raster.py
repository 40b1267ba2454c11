import numpy as np
import pytest
import torch
from problems import DOUBLE, gaussian_points, images, points
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.neural_process import NeuralProcess
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.pictures.arrays import GROUND, Arrays, of_classes, of_pixels, of_values
from metalearn_cli.pictures.raster import BLUE, GREEN, ORANGE, RED, SKY, heading, picture
from metalearn_cli.pictures.terminal import plot
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Gaussian, SquaredError


def arrays(algorithm: Algorithm, spec: Spec, batch: Batch) -> Arrays:
    learner = Learner(algorithm, MLP(spec, hidden=[8]), Optimizer(), generator(0, "init"), DOUBLE)
    mode = BatchNorm.transductive
    tensors = of_classes(learner, batch, mode, batch) if spec.kind == "classes" else of_values(learner, batch, mode)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def drawn(shown: Arrays) -> Tensor:
    """The picture, uint8 [H, W, 3]."""
    return torch.from_numpy(np.array(picture(shown)))


def panel(*heights: float) -> Tensor:
    """A task with a horizontal line after each step, without the legend."""
    shown = arrays(MAML(test_steps=len(heights) - 1), *points(tasks=1))
    shown["line_y"][:], shown["errors"][:] = np.array(heights)[:, None, None], np.array(heights)[:, None]
    return drawn(shown)[60:]


def where(image: Tensor, colour: str) -> Tensor:
    """The pixels of that colour, [H, W]."""
    return (image == torch.tensor(list(bytes.fromhex(colour[1:])))).all(-1)


def box(mask: Tensor) -> tuple[int, int, int, int]:
    """The rows and the columns between which everything that is True lies."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_what_takes_no_inner_steps_is_drawn_before_and_after_most_points_arrive() -> None:
    spec, batch = gaussian_points()
    algorithm = NeuralProcess(width=8)
    shown = arrays(algorithm, spec, batch)
    learner = Learner(algorithm, MLP(spec, hidden=[8]), Optimizer(), generator(0, "init"), DOUBLE)
    first = batch.to(torch.float64).support
    first = first._replace(x=first.x[:, :3], y=first.y[:, :3])
    out = learner.adapt(first)(torch.from_numpy(shown["line_x"]).double().unsqueeze(-1), BatchNorm.transductive)
    mean, deviation = spec.likelihood.moments(out)
    assert deviation is not None
    torch.testing.assert_close(torch.from_numpy(shown["early_y"]), mean[..., 0].float())
    torch.testing.assert_close(torch.from_numpy(shown["early_deviation"]), deviation[..., 0].float())
    shown["line_y"][:], shown["early_y"][:], shown["early_deviation"][:] = 0, 0.5, 0.1
    line = {name: array for name, array in shown.items() if name != "early_deviation"}
    for kept, lines in ((line, 1), (shown, 3)):  # from one end of the first panel to the other; and one on each side
        is_line = where(drawn(kept)[60:370, :520], ORANGE).sum(1) > 300
        assert is_line.int().diff().clamp(min=0).sum() == lines
    plain = {name: array for name, array in shown.items() if not name.startswith("early")}
    assert not where(drawn(plain)[60:], ORANGE).any()
    assert "early" not in arrays(MAML(test_steps=1), spec, batch)  # its lines show how it adapts


@pytest.mark.parametrize(("tasks", "height"), [(1, 370), (2, 370), (3, 680), (6, 680)])
def test_curves_of_any_number_of_tasks(tasks: int, height: int) -> None:
    image = drawn(arrays(MAML(), *points(tasks=tasks)))
    assert image.shape == (height, 1040, 3)
    assert image.dtype == torch.uint8


def test_a_normal_distribution_has_two_lines_two_deviations_from_its_mean() -> None:
    shown = arrays(MAML(test_steps=1), *gaussian_points())
    assert shown["deviation"].shape == shown["line_x"].shape
    shown["line_y"][:], shown["deviation"][:] = 0.0, 0.1
    top, bottom, *_ = box(where(drawn(shown)[60:300], BLUE))
    shown["deviation"][:] = 0.2
    higher, lower, *_ = box(where(drawn(shown)[60:300], BLUE))
    assert lower - higher == pytest.approx(2 * (bottom - top), abs=4)


def test_each_line_is_drawn_at_its_height() -> None:
    before, first, last = (box(where(panel(-0.5, 0.0, 0.5), colour))[:2] for colour in (ORANGE, SKY, BLUE))
    assert last[1] < first[0]  # rows count downwards
    assert first[1] < before[0]
    after_one = panel(-0.5, 0.5)  # one inner step draws two lines
    assert not where(after_one, SKY).any()
    assert where(after_one, BLUE).any()


def test_a_run_of_an_earlier_version_has_no_errors_and_no_conditions() -> None:
    shown = arrays(MAML(), *points())
    later = picture(shown)
    del shown["errors"]
    assert heading(shown) == "5 support points"
    assert picture(shown).size == later.size
    assert np.array(picture(shown)).tolist() != np.array(later).tolist()


@pytest.mark.parametrize("value", [1e30, float("inf"), float("nan")])
def test_a_learner_that_diverged_still_shows_the_truth(value: float) -> None:
    top, bottom, left, right = box(where(panel(0.0, value), "#000000")[30:])  # support points, below the title
    assert bottom - top > 40
    assert right - left > 200


@pytest.mark.parametrize("wrong", [0, 4, 8])
def test_a_wrong_prediction_changes_the_frame_of_its_image_and_nothing_else(wrong: int) -> None:
    shown = arrays(ProtoNet(), *images(query=3, size=14))
    shown["predicted"] = shown["query_y"].copy()
    none = drawn(shown)[89:]  # below the legend
    shown["predicted"][wrong] = (shown["query_y"][wrong] + 1) % 3
    changed = drawn(shown)[89:]
    assert not where(none, RED).any()
    top, bottom, left, right = box((none != changed).any(-1))
    assert top == 82 * (wrong // 3)  # a row for each class
    assert left == box(where(none, GREEN))[2] + 66 * (wrong % 3)  # its images in their order
    assert bottom - top < 82
    assert right - left < 66
    frame = where(none, GREEN)[top : top + 62, left : left + 62]  # 14 pixels times 4, and twice 3
    assert torch.equal(frame, where(changed, RED)[top : top + 62, left : left + 62])


@pytest.mark.parametrize(
    ("way", "shot", "query", "size", "channels"),
    [(2, 1, 1, 16, 1), (3, 7, 17, 28, 3), (22, 1, 2, 20, 1), (2, 2, 2, 84, 3), (2, 1, 1, 224, 3)],
)
def test_episodes_of_any_size(way: int, shot: int, query: int, size: int, channels: int) -> None:
    image = drawn(arrays(ProtoNet(), *images(1, way, shot, query, size, channels)))
    assert image.shape[2] == 3
    assert max(image.shape) < 2000


def test_more_images_than_fit_do_not_widen_the_picture() -> None:
    many, few = (arrays(ProtoNet(), *images(1, 2, shot, query)) for shot, query in ((40, 40), (6, 16)))
    assert picture(many).size == picture(few).size
    assert heading(many).startswith(f"{many['right']} of 80 query images right (")
    assert heading(many).endswith(" (30 are shown)")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("likelihood", [Gaussian(), SquaredError()])
def test_a_completed_image_has_its_given_pixels_on_a_ground_and_the_truth_beside_it(
    channels: int, likelihood: Gaussian | SquaredError
) -> None:
    side, rng = 4, generator(0)
    places = torch.cartesian_prod(*[torch.linspace(-1, 1, side).double()] * 2).expand(2, -1, -1)
    levels = torch.randint(256, (2, side**2, channels), generator=rng)
    y = levels / 255.0 - 0.5
    chosen, mask = torch.tensor([[5, 2, 7], [0, 15, 9]]), torch.tensor([[True, True, False], [True] * 3])
    support_x, support_y = (torch.stack([row[c] for row, c in zip(part, chosen, strict=True)]) for part in (places, y))
    batch = Batch(support_x, support_y.double(), places, y.double(), torch.arange(2), mask)
    outputs = channels * likelihood.width
    learner = Learner(
        MAML(), MLP(Spec((2,), outputs, outputs, likelihood), hidden=[4]), Optimizer(), generator(0), DOUBLE
    )
    shown = {name: tensor.numpy() for name, tensor in of_pixels(learner, batch, BatchNorm.transductive).items()}
    given, *predicted, truth = torch.from_numpy(shown["completed"]).long().flatten(2, 3).unbind(1)
    assert len(predicted) == likelihood.width  # the mean, and a deviation where there is one
    assert torch.equal(truth, levels.expand(-1, -1, 3))
    out = learner.adapt(batch.support)(batch.query_x, BatchNorm.transductive)
    mean, deviation = likelihood.moments(out)
    for image, x in zip(predicted, [mean + 0.5, *([] if deviation is None else [2 * deviation])], strict=True):
        assert torch.equal(image, (255 * x.clamp(0, 1)).round().long().expand(-1, -1, 3))
    for task, real in enumerate((chosen[0, :2], chosen[1])):
        is_given = torch.zeros(side**2, dtype=torch.bool)
        is_given[real] = True
        assert torch.equal(given[task][is_given], truth[task][is_given])
        assert given[task][~is_given].unique(dim=0).tolist() == [list(GROUND)]
    assert heading(shown) == "2 to 3 support pixels"
    image = drawn(shown)
    assert image.shape[:2] == (62 + 2 * 124, 104 + (2 + likelihood.width) * 124 + 4)
    assert where(image[62:], "#{:02x}{:02x}{:02x}".format(*GROUND)).sum() == (14 + 13) * 28**2  # a pixel is 28 x 28


def test_marks_in_characters_stand_where_their_points_are_and_later_ones_on_top() -> None:
    x = np.array([0.0, 1.0, 2.0])
    lines = plot({".": (x, x), "o": (x[1:2], x[1:2])}, width=5, height=3).splitlines()
    assert lines[:3] == ["    2.00 |    .", "         |  o", "    0.00 |."]
    assert lines[3].split() == ["0.00", "2.00"]
    assert "*" in plot({"*": (np.zeros(3), np.zeros(3))})
