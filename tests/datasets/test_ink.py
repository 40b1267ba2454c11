"""Ink that was photographed: paper in any light becomes white, ink black, and a scan stays what it is."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image, ImageDraw

import metalearn_cli
from metalearn_cli.datasets.ink import Ink, evened
from metalearn_cli.datasets.pictures import Preparation, Resize
from metalearn_cli.errors import UserError
from metalearn_cli.system.typed_json import from_json, to_json
from metalearn_cli.tasks.base import draw_slice
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.example_format import Examples, examples_of, with_ink, with_ink_of
from metalearn_cli.tasks.image_folder import ImageFolder
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.tones import Tones, outside, warnings
from metalearn_cli.training.eval_job import load_eval_job

SMALL = ["model.filters=2", "task.query=1", "debug=quick", "steps=2", "other_batch_norm=[]", "threads=1", "name=one"]
SIDE = 105


def scan(seed: int) -> Image.Image:
    """Black strokes on white."""
    points = [tuple(point) for point in np.random.default_rng(seed).integers(15, 90, (4, 2)).tolist()]
    picture = Image.new("L", (SIDE, SIDE), 255)
    ImageDraw.Draw(picture).line(points, fill=0, width=4)
    return picture


def photograph(picture: Image.Image, paper: float = 140, ink: float = 60, shadow: float = 0.5) -> Image.Image:
    """The same on grey paper, with noise, darker to the right and in the shadow of something below."""
    share = np.asarray(picture.convert("L")) / 255
    y, x = np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j]
    light = (1.2 - 0.5 * x) * (1 - shadow / (1 + np.exp(-(y - 0.6) / 0.03)))
    noise = np.random.default_rng(0).normal(0, 2, (SIDE, SIDE))
    return Image.fromarray((light * (ink + (paper - ink) * share) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("seed", range(3))
def test_a_scan_stays_as_it_is(seed: int) -> None:
    picture = scan(seed)
    assert np.array_equal(np.asarray(evened(picture)), np.asarray(picture))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("light", [{}, {"paper": 235, "ink": 30}, {"paper": 110, "ink": 70}, {"shadow": 0.0}])
def test_paper_in_any_light_becomes_what_the_scan_is(seed: int, light: dict[str, float]) -> None:
    picture, preparation = scan(seed), Omniglot().preparation
    expected = preparation.read(picture).float()
    evened_out = preparation.read(photograph(picture, **light)).float()
    before = dataclasses.replace(preparation, ink=Ink.as_is).read(photograph(picture, **light)).float()
    assert (evened_out - expected).abs().mean() < 8
    assert (before - expected).abs().mean() > 25


@pytest.mark.parametrize(("grey", "wanted"), [(0, 0), (1, 255), (128, 255), (255, 255)])
def test_a_page_without_ink_is_not_a_fault(grey: int, wanted: int) -> None:
    """Where all is black there is no paper."""
    assert evened(Image.new("L", (SIDE, SIDE), grey)).getextrema() == (wanted, wanted)


def test_lines_of_a_writing_pad_go() -> None:
    pad = np.asarray(scan(0)).copy()
    lines = pad[::12]
    lines[lines == 255] = 200
    assert np.abs(np.asarray(evened(Image.fromarray(pad))).astype(int) - np.asarray(scan(0))).mean() < 1


def test_what_a_preparation_does_with_ink_is_kept_and_an_earlier_version_did_nothing() -> None:
    examples = examples_of(Omniglot())._replace(tones=Tones((0.0, 0.5), (0.25, 0.75)))
    content = json.loads(json.dumps(to_json(examples)))
    assert from_json(Examples, content, Path()) == examples
    assert "evened out, so that paper in any light is white" in str(examples.preparation)
    del content["preparation"]["ink"], content["tones"]
    before = from_json(Examples, content, Path())
    assert before.preparation == dataclasses.replace(examples.preparation, ink=Ink.as_is)  # type: ignore[type-var]
    assert str(before.preparation).endswith("stay as they are (ink=evened evens them out)")
    assert with_ink(before, Ink.evened).preparation == examples.preparation
    assert with_ink(before, None) == before
    assert with_ink_of(examples, before).preparation == before.preparation  # an earlier run goes on as it began
    assert with_ink_of(examples, examples) == examples
    for tones in ({"brightness": [0.0, "x"], "spread": [0.0, 1.0]}, {"brightness": [0.0], "spread": [0.0, 1.0]}):
        with pytest.raises(UserError):
            from_json(Examples, {**content, "tones": tones}, Path())


def test_colours_are_never_evened() -> None:
    examples = examples_of(CifarFS())
    assert examples.preparation is not None
    assert examples.preparation.ink is Ink.as_is
    assert "ink" not in str(examples.preparation)
    with pytest.raises(UserError, match=r"ink=evened needs a run on grey pictures of ink"):
        with_ink(examples, Ink.evened)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"ink": Ink.evened}, "task.ink=evened needs task.channels=1, not 3"),
        ({"ink": Ink.evened, "channels": 1, "resize": Resize.pad}, "and not task.resize=pad"),
        ({"resample": "sharp"}, "task.resample=sharp must be one of nearest, "),
        ({"margin": -1}, "task.margin=-1 must be a whole number, 0 or above"),
        ({"by_way_of": 4}, "task.by_way_of=4 must be a whole number of pixels, 8 or above"),
    ],
)
def test_keys_that_say_nothing_are_a_sentence(keys: dict[str, Any], sentence: str, own_images: Path) -> None:
    with pytest.raises(UserError) as caught:
        ImageFolder(root=str(own_images), **keys)
    assert sentence in str(caught.value)


def test_pictures_unlike_the_training_in_brightness_or_spread_are_named() -> None:
    x = torch.zeros(3, 1, 4, 4)
    x[:, :, :2] = torch.tensor([0.2, 1.0, 0.25])[:, None, None, None]
    known = Tones((0.1, 0.2), (0.1, 0.2))
    assert outside(x, known).tolist() == [False, True, False]
    (sentence,) = warnings(x, known, "query", ["a", "b", "c"])
    assert sentence.startswith(
        "warning: 1 of 3 pictures in query are unlike the training's in brightness or spread, first b with "
        "brightness 0.5, where those had 0.1 to 0.2 and spread 0.52"
    )
    assert warnings(x[:1], known, "query", ["a"]) == []


def draw_folder(root: Path, classes: int = 15, pictures: int = 3) -> Path:
    """Photographs of strokes, of a size and a mode each."""
    for number in range(classes * pictures):
        path = root / f"class{number // pictures:02}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = photograph(scan(number)).resize((200 + number, 170))
        (picture if number % 2 else picture.convert("RGB")).save(path)
    return root


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("ink", ["evened", "as_is"])
def test_eval_gives_the_network_the_pixels_that_predict_gives_it(
    ink: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, "train", "algo=protonet", "task=omniglot", *SMALL).code == 0
    photos = draw_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    on_folder = ["task=image_folder", f"task.root={photos}", "task.query=1"]
    _, job = load_eval_job(["run=outputs/one", *on_folder, *([] if ink == "evened" else [f"task.ink={ink}"])])
    task = job.task
    assert isinstance(task, ImageFolder)
    files = [path for name in task._names for path in sorted((photos / name).iterdir())]
    draw = draw_slice(task.draw(2, "test", torch.Generator()), 0, 1)
    batch = task.gather(draw, torch.device("cpu"))
    model = metalearn_cli.load("outputs/one", ink=ink)
    for part, x in (("support", batch.support_x), ("query", batch.query_x)):
        assert torch.equal(x[0], model.read([files[place] for place in draw[f"{part}_image"][0].tolist()]))
    assert ("evened out" in job.notes[-1]) == (ink == "evened")
    assert "each picture is prepared as in training" in job.notes[-1]
    config = job.config["task"]
    assert (config["size"], config["by_way_of"], config["inverted"], config["ink"]) == (28, 105, True, ink)


@pytest.mark.usefixtures("packed_images")
def test_a_run_on_ink_evens_out_and_warns_unless_told_otherwise(tmp_path: Path) -> None:
    assert run(tmp_path, "train", "algo=protonet", "task=omniglot", *SMALL).code == 0
    task = json.loads((tmp_path / "outputs/one/task.json").read_text())
    assert task["preparation"]["ink"] == "evened"
    low, high = task["tones"]["brightness"]
    assert 0 < low < high < 1
    photos = draw_folder(tmp_path / "photos", 2)
    words = ["predict", "run=outputs/one", f"support={photos}", f"query={photos / 'class00'}", "threads=1"]
    done = run(tmp_path, *words)
    assert done.code == 0, done.err
    assert "evened out, so that paper in any light is white" in done.err
    assert "warning: 3 of 3 pictures in query are unlike the training's" in done.err  # which is noise here
    other = run(tmp_path, *words, "ink=as_is")
    assert other.code == 0, other.err
    assert "grey paper, shadows and faint ink stay as they are (ink=evened" in other.err
    assert "ink=black must be" in run(tmp_path, *words, "ink=black").err
    folder = ["task=image_folder", f"task.root={draw_folder(tmp_path / 'more')}", "task.query=1", "test_episodes=4"]
    tested = run(tmp_path, "eval", "run=outputs/one", *folder)
    assert tested.code == 0, tested.err
    assert "pictures in a sample of the test are unlike the training's" in tested.err
    assert "images of 3 x 84 x 84" not in tested.err


@pytest.mark.usefixtures("packed_images")
def test_what_is_given_to_eval_stands(tmp_path: Path, own_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ["task=image_folder", f"task.root={own_images}", "task.query=1"]
    assert run(tmp_path, "train", "algo=protonet", *folder, "task.size=16", "task.resize=stretch", *SMALL).code == 0
    monkeypatch.chdir(tmp_path)
    assert load_eval_job(["run=outputs/one", *folder])[1].config["task"]["resize"] == "stretch"
    _, job = load_eval_job(["run=outputs/one", *folder, "task.size=20"])
    assert (job.config["task"]["size"], job.config["task"]["resize"]) == (20, "stretch")
    assert job.task.spec.input_shape == (3, 16, 16)


def test_pixels_that_are_prepared_otherwise_are_packed_under_another_name() -> None:
    plain = Preparation(28, 1, Resize.crop)
    assert plain.word == "28x28x1-crop"  # as before there was more to say
    words = {Omniglot().preparation.word, dataclasses.replace(plain, inverted=True).word, plain.word}
    assert len(words) == 3
