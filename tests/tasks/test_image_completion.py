"""Completion of images: which pixels a task has, their places and values, and its splits."""

import pytest
import torch

from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Split
from metalearn_cli.tasks.image_completion import ImageCompletion, Images
from metalearn_cli.tasks.likelihood import Gaussian

CPU = torch.device("cpu")
SMALL = ImageCompletion(size=8, max_points=64)  # a set may have almost all pixels
TASKS = [ImageCompletion(), ImageCompletion(Images.cifar_fs), SMALL, ImageCompletion(bucket=64, size=8, max_points=64)]


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_support_and_query_are_different_pixels_of_one_image(task: ImageCompletion, split: Split) -> None:
    for seed in range(4):
        draw = task.draw(20, split, generator(seed))
        batch, whole = task.gather(draw, CPU), task.whole_images(draw, CPU)
        channels, height, width = task.image_shape
        assert whole.query_y.shape == (20, height * width, channels)
        for number in range(20):
            one, image = batch.task(number), whole.query_y[number].view(height, width, channels)
            x, y = (torch.cat(part, 1)[0] for part in ((one.support_x, one.query_x), (one.support_y, one.query_y)))
            assert 6 <= len(x) < task.max_points
            assert len(x.unique(dim=0)) == len(x)
            row, column = ((x + 1) / 2 * (height - 1)).round().long().unbind(-1)
            assert torch.equal(y, image[row, column])
            assert torch.equal(x, torch.linspace(-1, 1, height)[torch.stack([row, column], 1)])


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("images", Images)
def test_values_are_the_sets_pixels_of_the_splits_classes(images: Images) -> None:
    task = ImageCompletion(images)
    stored, seen = task.image_set.images.pixels, []
    for split in task.splits:
        draw = task.draw(300, split, generator(0))
        classes = task.image_set.classes_of(split)
        inside = (draw["image"][:, None] >= classes.start) & (draw["image"][:, None] < classes.start + classes.count)
        assert inside.any(1).all()
        seen.append({*draw["image"].tolist()})
        expected = stored[draw["image"]].flatten(2).mT / 255 - 0.5
        torch.testing.assert_close(task.whole_images(draw, CPU).query_y, expected, rtol=0, atol=1e-6)
        assert task.identities(split) == task.image_set.identities(split)
    assert len(seen) == 3
    assert not seen[0] & seen[2]
    assert len(seen[0]) > 100


@pytest.mark.usefixtures("packed_images")
def test_a_smaller_image_is_the_mean_of_its_pixels_places() -> None:
    """From 28 to 14 pixels antialiased interpolation weighs 1, 3, 3, 1."""
    task = ImageCompletion(size=14, max_points=100)
    draw = task.draw(3, "train", generator(0))
    small = task.whole_images(draw, CPU).query_y.view(3, 14, 14)
    x = task.image_set.images.pixels[draw["image"], 0, 1:-1, 1:-1].double() / 255 - 0.5
    weight = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    expected = torch.einsum("trsij,i,j->trs", x.unfold(1, 4, 2).unfold(2, 4, 2), weight, weight)
    torch.testing.assert_close(small[:, 1:-1, 1:-1].double(), expected, rtol=0, atol=1e-5)
    assert task.fingerprint != ImageCompletion().fingerprint


def test_what_it_is_and_what_it_refuses() -> None:
    spec = ImageCompletion(Images.cifar_fs).spec
    assert (spec.input_shape, spec.outputs, spec.targets, spec.likelihood) == ((2,), 6, 3, Gaussian(floor=0.05))
    assert ImageCompletion().columns.targets == ("grey",)
    with pytest.raises(UserError, match=r"task\.size=32 is more than the 28 pixels a side of Omniglot"):
        ImageCompletion(size=32)
    with pytest.raises(UserError, match=r"task\.max_points=200 is more than the 64 pixels .* give 64 or less"):
        ImageCompletion(size=8)
    with pytest.raises(UserError, match=r"task\.max_points=7 must be a whole number, 8 or above"):
        load_job(["task=image_completion", "task.max_points=7"])
