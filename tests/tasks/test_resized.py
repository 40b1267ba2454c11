"""Evaluation across domains: images in the size and the channels that a run's network takes."""

import json
from pathlib import Path

import pytest
import torch
from commands import run
from omegaconf import OmegaConf
from PIL import Image
from problems import image_task

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.resized import ResizedImages, can_resize
from metalearn_cli.tasks.sinusoid import Sinusoid

CPU = torch.device("cpu")
RULE = "images of 3 x 32 x 32 become 1 x 28 x 28 (grey by luminance; bilinear, antialiased)"
SMALL = ["model.filters=2", "task.query=1", "debug=quick", "steps=2", "other_batch_norm=[]", "threads=1", "name=one"]


def as_image(x: torch.Tensor) -> Image.Image:
    """[C, H, W] in 0..1."""
    data = (x * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.frombytes("RGB" if len(x) == 3 else "L", data.shape[1::-1], bytes(data.flatten().tolist()))


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 14, 20), (1, 32, 32), (3, 48, 48)])
def test_images_of_colour_are_those_that_pillow_makes(shape: tuple[int, ...]) -> None:
    source = image_task(CifarFS, shot=2, query=1)
    task = ResizedImages(source, shape)
    draw = task.draw(2, "test", generator(0))
    before, after = source.gather(draw, CPU), task.gather(draw, CPU)
    for name in ("support_x", "query_x"):
        x, resized = getattr(before, name), getattr(after, name)
        assert resized.shape == (*x.shape[:2], *shape)
        for t, s in ((0, 0), (1, 3)):
            picture = as_image(x[t, s]).convert("RGB" if shape[0] == 3 else "L")
            expected = picture.resize(shape[:0:-1], Image.Resampling.BILINEAR)
            exact = torch.frombuffer(bytearray(expected.tobytes()), dtype=torch.uint8).view(*shape[1:], -1) / 255
            assert (resized[t, s].permute(1, 2, 0) - exact).abs().max() < 2 / 255  # Pillow rounds twice
    assert torch.equal(before.query_y, after.query_y)
    assert torch.equal(before.key, after.key)


@pytest.mark.usefixtures("packed_images")
def test_grey_becomes_colour_by_repeating() -> None:
    source = image_task(Omniglot, query=1)
    draw = source.draw(2, "test", generator(0))
    x, coloured = (task.gather(draw, CPU).query_x for task in (source, ResizedImages(source, (3, 28, 28))))
    assert coloured.shape == (2, 5, 3, 28, 28)
    assert all(torch.equal(coloured[:, :, channel], x[:, :, 0]) for channel in range(3))


@pytest.mark.usefixtures("packed_images")
def test_the_tasks_are_those_of_the_other_distribution() -> None:
    source = image_task(CifarFS, query=1, train_splits=("train", "val"))
    task = ResizedImages(source, (1, 28, 28))
    drawn, expected = (one.draw(3, "test", generator(0)) for one in (task, source))
    assert drawn.keys() == expected.keys()
    assert all(torch.equal(drawn[name], expected[name]) for name in drawn)
    assert task.spec == source.spec._replace(input_shape=(1, 28, 28))
    assert (task.splits, task.fingerprint) == (source.splits, source.fingerprint)
    assert task.rule == RULE
    assert ResizedImages(source, (3, 28, 28)).rule == "images of 3 x 32 x 32 become 3 x 28 x 28 (bilinear, antialiased)"


def test_only_images_are_made_fit() -> None:
    assert can_resize(image_task(Omniglot).spec, (3, 84, 84))
    assert not can_resize(image_task(Omniglot).spec, (1,))
    assert not can_resize(image_task(Omniglot).spec, (4, 28, 28))
    assert not can_resize(Sinusoid().spec, (1, 28, 28))


@pytest.mark.usefixtures("packed_images")
def test_a_run_is_tested_in_another_domain_and_says_how(tmp_path: Path) -> None:
    assert run(tmp_path, "train", "algo=protonet", "task=omniglot", *SMALL).code == 0
    command = ["eval", "run=outputs/one", "task=cifar_fs", "task.query=1", "task.way=4", "test_episodes=4"]
    done = run(tmp_path, *command)
    assert done.code == 0, done.err
    assert f"{RULE}, as the run's network takes them" in done.err
    (folder,) = (tmp_path / "outputs/one/eval").iterdir()
    assert folder.name.startswith("cifar_fs-")
    results = json.loads((folder / "results.json").read_text())
    assert (results["adapted"], results["task"], results["episodes"]) == (RULE, "cifar_fs", 4)
    config = OmegaConf.load(folder / "config.yaml")
    assert config.task._target_ == "metalearn_cli.tasks.cifar_fs.CifarFS"
    assert (config.task.way, config.model.filters) == (4, 2)
    assert (folder / "test.png").exists()
    again = run(tmp_path, *command)
    assert "holds the results of this very evaluation" in again.err
    assert len(list((tmp_path / "outputs/one/eval").iterdir())) == 1
    refused = run(tmp_path, "eval", "run=outputs/one", "task=sinusoid")
    assert (
        "task=sinusoid has values of examples of shape [1], and the model of outputs/one takes classes" in refused.err
    )
    own = json.loads((tmp_path / "outputs/one/results.json").read_text())
    assert own["adapted"] is None


@pytest.mark.usefixtures("packed_images")
def test_a_head_has_its_own_way(tmp_path: Path) -> None:
    """And classes that a run was trained on stay refused, whatever the shape."""
    assert run(tmp_path, "train", "algo=maml", "task=cifar_fs", *SMALL).code == 0
    done = run(tmp_path, "eval", "run=outputs/one", "task=omniglot", "task.query=1", "test_episodes=4")
    assert done.code == 0, done.err
    assert "images of 1 x 28 x 28 become 3 x 32 x 32 (grey repeated in each channel; bilinear" in done.err
    refused = run(tmp_path, "eval", "run=outputs/one", "task=omniglot", "task.query=1", "task.way=6")
    assert "the last layer of this checkpoint tells 5 classes apart, and not 6: give task.way=5" in refused.err


@pytest.mark.usefixtures("packed_images")
def test_a_folder_in_another_size_is_not_a_way_around_its_split(tmp_path: Path, own_images: Path) -> None:
    folder = ["task=image_folder", f"task.root={own_images}", "task.query=1"]
    assert run(tmp_path, "train", "algo=protonet", *folder, "task.size=16", *SMALL).code == 0
    other = ["eval", "run=outputs/one", "task.size=20", "task.channels=1", "test_episodes=4"]
    done = run(tmp_path, *other)
    assert done.code == 0, done.err
    assert "images of 1 x 20 x 20 become 3 x 16 x 16" in done.err
    refused = run(tmp_path, *other, "task.split_seed=1")
    assert "classes of this test were trained on by outputs/one" in refused.err
