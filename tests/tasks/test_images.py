"""What all image sets share: which classes are drawn, and what they are called."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import load
from problems import image_task

from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import omniglot
from metalearn_cli.tasks.base import Draw, TaskDistribution
from metalearn_cli.tasks.capabilities import label_names
from metalearn_cli.tasks.episodes import Episodes, Rotations
from metalearn_cli.tasks.image_folder import ImageFolder
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.resized import ResizedImages
from metalearn_cli.tasks.sinusoid import Sinusoid


def drawn(task: TaskDistribution) -> Draw:
    return task.draw(2, "test", generator(0, "test", 0))


def check(task: TaskDistribution, images: ImageSet, whole: dict[str, str]) -> tuple[str, ...]:
    """Every support image of the first task, turned back, is one of the class that its label's name says."""
    draw = drawn(task)
    names, batch = task.label_names(draw), task.gather(draw, torch.device("cpu")).task(0)
    assert len(names) == len(set(names)) == int(batch.support_y.max()) + 1
    for x, label in zip(batch.support_x[0], batch.support_y[0].tolist(), strict=True):
        name, turn = re.fullmatch(r"(.*?)(?:, turned by (\d+)°)?", names[label]).groups()  # type: ignore[union-attr]
        position = images.names.index(whole[name])
        own = images.pixels[images.start[position] :][: images.count[position]]
        seen = (x.rot90(-int(turn or 0) // 90, (1, 2)) * 255).round().to(torch.uint8)
        assert any(torch.equal(seen, one) for one in own)
    return names


@pytest.mark.parametrize("rotations", list(Rotations))
@pytest.mark.parametrize("variable", [False, True])
@pytest.mark.usefixtures("packed_omniglot")
def test_omniglot(rotations: Rotations, variable: bool) -> None:
    task = Omniglot(Episodes(way=8, shot=3, query=2, rotations=rotations, variable=variable, min_way=3))
    whole = {name.partition("/")[2]: name for name in (one.name for one in omniglot.characters())}
    names = check(task, load(omniglot.source()), whole)
    turns = any("turned" in name for name in names)
    assert turns == (rotations in (Rotations.as_classes, Rotations.per_episode))


@pytest.mark.usefixtures("packed_omniglot")
def test_images_that_were_made_to_fit_keep_their_names() -> None:
    task = Omniglot(Episodes(way=3, query=2, rotations=Rotations.none))
    adapted = ResizedImages(task, (3, 20, 20))
    assert adapted.label_names(drawn(adapted)) == task.label_names(drawn(task)) != ()


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("name", about_sets())
def test_each_split_draws_all_its_classes_and_no_others(name: str) -> None:
    cls = next(cls for cls in ImageTask.__subclasses__() if cls.__module__ == f"metalearn_cli.tasks.{name}")

    def with_keys(**keys: object) -> Any:
        return image_task(cls, **{"query": 1, "rotations": Rotations.none} | keys)

    def classes_of(task: Any) -> torch.Tensor:
        images = task.draw(4000, split, generator(split))["support_image"]
        return torch.searchsorted(task.images.start, images, right=True) - 1

    task = with_keys(way=10)
    base = len(task.split_classes["train"])
    assert task.spec == (task.preparation.shape, 10, 10, Categorical(), False, True, base, False, False)
    for split in task.splits:
        expected = sorted(task.split_classes[split].tolist())
        assert classes_of(task).unique().tolist() == expected
        if task.groups is not None:
            chosen = classes_of(with_keys(way=2, within_group=True))
            assert set(chosen.unique().tolist()) <= set(expected)
            assert (task.groups[chosen] == task.groups[chosen][:, :1]).all()
    if task.groups is None:
        with pytest.raises(UserError, match="classes in groups, and those of this data set have none"):
            with_keys(within_group=True)
    most, fewest = len(expected), task.about.fewest
    with pytest.raises(UserError, match=rf"way={most + 1} is more than the {most} classes of the test split"):
        with_keys(way=most + 1)
    with pytest.raises(UserError, match=rf"query={fewest} together are more than the {fewest} images of a class"):
        with_keys(query=fewest)


def test_a_folder_of_ones_own(own_images: Path) -> None:
    task = ImageFolder(Episodes(way=3, shot=1, query=1), root=str(own_images), size=16)
    images = task.packed.images
    check(task, images, {name: name for name in images.names})


def test_curves_have_none() -> None:
    task = Sinusoid()
    assert label_names(task, drawn(task)) == ()
