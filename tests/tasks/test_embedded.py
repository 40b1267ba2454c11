"""Images as features of a frozen network: the same tasks, drawn from the same classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny
from problems import image_task

from metalearn_cli.backbones.encoder import encoder_of
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.augment import Augment
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.capabilities import draw_classes, label_names, make_ready
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.embedded import EmbeddedImages, embedded_images, pictured
from metalearn_cli.tasks.episodes import Rotations
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.quadratics import Quadratics
from metalearn_cli.tasks.resized import ResizedImages

CPU = torch.device("cpu")


def both(**keys: Any) -> tuple[CifarFS, EmbeddedImages]:
    task = image_task(CifarFS, query=1, **keys)
    return task, embedded_images(task, tiny())


def features(batch: Batch, name: str) -> torch.Tensor:
    """What the network makes of a batch of pictures, [T, S, F]."""
    x = getattr(batch, name)
    pixels = (x * 255).round().to(torch.uint8).flatten(0, 1)
    return encoder_of(tiny().backbone)(pixels).half().float().view(*x.shape[:2], -1)


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("keys", [{}, {"variable": True, "shot": 2}, {"train_splits": ("train", "val")}])
def test_a_task_has_the_features_of_its_pictures(keys: dict[str, Any]) -> None:
    task, shown = both(**keys)
    assert shown.spec == task.spec._replace(input_shape=(6,))
    assert (shown.fingerprint, shown.splits, shown.preparation) == (task.fingerprint, task.splits, task.preparation)
    for split in task.splits:
        draw = shown.draw(3, split, generator(0))
        assert all(torch.equal(value, draw[name]) for name, value in task.draw(3, split, generator(0)).items())
        pictures, vectors = task.gather(draw, CPU), shown.gather(draw, CPU)
        for name in ("support_x", "query_x"):
            assert torch.equal(getattr(vectors, name), features(pictures, name))
        assert torch.equal(vectors.query_y, pictures.query_y)
        assert label_names(shown, draw) == task.label_names(draw)


@pytest.mark.usefixtures("packed_images")
def test_batches_of_all_classes_are_of_features_too() -> None:
    task, shown = both()
    draw = draw_classes(shown, 2, 7, generator(0))
    assert torch.equal(shown.gather(draw, CPU).query_x, features(task.gather(draw, CPU), "query_x"))


@pytest.mark.usefixtures("packed_images")
def test_only_the_classes_that_are_drawn_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, shown = both()
    asked: list[int] = []
    monkeypatch.setattr(shown._cache, "_add", lambda classes: asked.extend(classes))
    monkeypatch.setattr("metalearn_cli.backbones.feature_cache.mapped", lambda *_: torch.zeros(2000, 12).byte())
    make_ready(shown, "test")
    assert len(asked) == len(set(asked)) == 20
    names = {shown.task.images.names[number] for number in asked}
    assert names >= set(label_names(shown, shown.draw(1, "test", generator(0))))


@pytest.mark.usefixtures("packed_images")
def test_vectors_of_splits_are_those_of_their_pictures_class_by_class() -> None:
    task, shown = both()
    vectors = shown.vectors(("val", "test"))
    assert vectors.names == tuple(sorted(vectors.names))
    assert (len(vectors.names), set(vectors.counts)) == (36, {20})
    assert vectors.split is not None
    assert vectors.split.count("test") == 20
    images = task.images
    for number, name in enumerate(vectors.names):
        start = int(images.start[images.names.index(name)])
        expected = encoder_of(tiny().backbone)(images.pixels[start : start + 20]).half()
        assert torch.equal(torch.from_numpy(vectors.x[20 * number : 20 * number + 20]), expected)
    assert vectors.group is not None  # superclasses
    assert shown.vectors(("test",)).split is None


def test_what_changes_pixels_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[crop,flip\] changes pixels.*: give task.augment=\[\], or model"):
        both(augment=(Augment.crop, Augment.flip))
    turned = image_task(Omniglot, rotations=Rotations.per_episode)
    with pytest.raises(UserError, match=r"task.rotations=per_episode changes pixels.*: give task.rotations=none"):
        embedded_images(turned, tiny())
    task = ResizedImages(image_task(CifarFS), (3, 8, 8))
    with pytest.raises(UserError, match="ResizedImages has no set"):
        embedded_images(task, tiny())


def test_a_person_sees_the_pictures(tmp_path: Path) -> None:
    task, shown = both()
    assert pictured(shown) is task
    assert pictured(task) is task
    assert isinstance(pictured(Quadratics()), Quadratics)
    assert shown.rule == "images of 3 x 32 x 32 become 6 features of tiny at 4 x 4 pixels"
