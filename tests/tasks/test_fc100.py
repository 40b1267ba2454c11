"""FC100: its split of CIFAR-100's classes. What is read is tested with CIFAR-FS."""

from pathlib import Path

import pytest
import torch
from commands import run
from problems import image_task

from metalearn_cli.seeding import generator
from metalearn_cli.tasks import cifar_fs
from metalearn_cli.tasks.base import draw_sha256
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.fc100 import FC100

# As the authors' code lists them.
SUPERCLASSES = {
    "val": ["large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals"],
    "test": ["aquatic_mammals", "insects", "medium_mammals", "people"],
}


def test_the_split_is_by_superclass() -> None:
    parts = FC100().split_classes
    assert {name: len(part) for name, part in parts.items()} == {"train": 60, "val": 20, "test": 20}
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(100))
    groups = {name: {cifar_fs.classes()[c].group for c in part.tolist()} for name, part in parts.items()}
    assert {name: sorted(groups[name]) for name in SUPERCLASSES} == SUPERCLASSES
    assert len(groups["train"]) == 12
    assert not groups["train"] & {*SUPERCLASSES["val"], *SUPERCLASSES["test"]}


@pytest.mark.usefixtures("packed_images")
def test_it_has_cifar_fs_images_and_other_episodes() -> None:
    one, other = image_task(CifarFS, query=5), image_task(FC100, query=5)
    assert other.fingerprint == one.fingerprint
    hashes = [draw_sha256([task.draw(64, "test", generator(0, "test", 0))], "")[:16] for task in (one, other)]
    assert hashes[0] != hashes[1]
    assert hashes[1] == "21e17dd30e95b1be"


def test_it_has_classes_that_cifar_fs_trains_on() -> None:
    assert len(CifarFS().identities("train") & FC100().identities("test")) == 11
    assert not FC100().identities("train") & FC100().identities("test")


@pytest.mark.usefixtures("packed_images")
def test_a_run_on_cifar_fs_is_not_tested_on_it(tmp_path: Path) -> None:
    keys = ["algo=protonet", "task=cifar_fs", "model.filters=4", "task.query=2", "debug=quick", "threads=1", "name=one"]
    assert run(tmp_path, "train", *keys).code == 0
    refused = run(tmp_path, "eval", "run=outputs/one", "task=fc100", "task.query=2")
    assert refused.code == 1
    assert "11 of the 20 classes of this test were trained on by outputs/one, e.g. CIFAR-100's bee" in refused.err
