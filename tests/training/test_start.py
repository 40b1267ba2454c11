"""`init`: a run begins with what another run, or a file, has of its names and shapes."""

import json
import shutil
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refuse, run, start, succeed, wait
from kills import send_at, what_must_be_equal
from safetensors.torch import save_file
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.training.start import start_from

TASK = ["train", "task=sinusoid", "model.hidden=[6]", "model.batch_norm=true", "tasks_per_step=2", "threads=1"]
TASK += ["steps=6", "save_every=2", "log_every=1", "eval_every=3", "eval_episodes=4", "test_episodes=8"]
MAML = [*TASK, "algo=maml", "algo.test_steps=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/first."""
    folder = tmp_path_factory.mktemp("home")
    succeed(folder, *MAML, "name=first")
    return folder


@pytest.fixture
def here(tmp_path: Path, home: Path) -> Path:
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    return tmp_path


def origin(folder: Path, name: str) -> Any:
    return json.loads((folder / "outputs" / name / "environment.json").read_text())["origin"]


def newest(folder: Path, name: str) -> dict[str, Tensor]:
    loaded, _ = checkpoint.load_newest(folder / "outputs" / name / "checkpoints")
    assert loaded is not None
    return loaded.tensors


def test_a_run_that_only_begins_is_the_run_that_it_began_with(here: Path) -> None:
    done = succeed(here, *MAML, "init=outputs/first", "steps=0", "name=run")
    tested = json.loads((here / "outputs/first/results.json").read_text())["step"]
    assert f"starting from outputs/first, step {tested}: 7 of 7 tensors are taken" in done.err
    arrays = [np.load(here / "outputs" / name / "episodes.npz")["metric"] for name in ("first", "run")]
    assert np.array_equal(*arrays)
    (path,) = (here / "outputs/first/checkpoints").glob(f"step-{tested:08d}-*")
    record = origin(here, "run")
    assert record["sha256"].startswith(path.stem.rpartition("-")[2])
    assert (record["init"], record["step"], len(record["taken"])) == ("outputs/first", tested, 7)
    slots = [value for name, value in newest(here, "run").items() if name.startswith("optimizer.")]
    assert slots
    assert not any(value.any() for value in slots)  # the optimizer starts afresh
    assert "origin" not in json.loads((here / "outputs/first/environment.json").read_text())


def test_a_file_is_taken_by_names_that_are_mended_and_all_else_is_said(tmp_path: Path) -> None:
    """As torch names the layers of somebody's module."""
    file = {
        "module.fc.weight": torch.full((6, 1), 0.5, dtype=torch.float64),
        "module.bn.running_mean": torch.full((6,), 0.25),
        "module.bn.num_batches_tracked": torch.tensor(3),
        "module.head.weight": torch.ones(7, 6),
        "classifier.weight": torch.ones(2),
    }
    save_file(file, tmp_path / "theirs.safetensors")
    (tmp_path / "link.safetensors").symlink_to("theirs.safetensors")
    names = "init_names=[module.:,fc:layer1,bn:norm1]"
    done = succeed(tmp_path, *MAML, "init=link.safetensors", names, "steps=0", "name=run")
    assert "starting from link.safetensors: 2 of 7 tensors are taken\n" in done.err
    assert "of another shape: head.weight [7, 6], here [1, 6]; drawn: " in done.err
    record, tensors = origin(tmp_path, "run"), newest(tmp_path, "run")
    assert record["step"] is None
    assert sorted(record["taken"]) == ["layer1.weight", "norm1.mean"]
    assert sorted(record["left"]) == ["classifier.weight", "module.bn.num_batches_tracked"]
    assert len(record["drawn"]) == 5
    assert (tensors["params.layer1.weight"] == 0.5).all()
    assert (tensors["buffers.norm1.mean"] == 0.25).all()
    succeed(tmp_path, *MAML, "steps=0", "name=drawn")
    drawn = newest(tmp_path, "drawn")
    assert all(torch.equal(tensors[f"params.{name}"], drawn[f"params.{name}"]) for name in ("head.weight", "head.bias"))


@pytest.mark.parametrize(
    ("tensors", "renames", "said"),
    [
        (
            {"a": torch.ones(2), "b": torch.ones(2)},
            ("a:x", "b:x"),
            "gives two names of .* the name x: give each its own",
        ),
        ({"x": torch.tensor([1.0, torch.nan])}, (), "x of .* is not finite, or too large: take another checkpoint"),
        (
            {"x": torch.tensor([1.0, 1e300], dtype=torch.float64)},
            (),
            "x of .* is not finite, or too large: take another checkpoint",
        ),
        ({"x": torch.ones(3)}, (), r"has nothing for this model: x \[3\], here \[2\]: take the model that it was"),
        (
            {"net.x": torch.ones(2)},
            (),
            r"net\.x is not one of its names, the nearest is x: give init_names=\[THEIRS:OURS",
        ),
        ({"x": torch.ones(2)}, ("x:y",), "y is not one of its names, the nearest is x"),
        ({"x": torch.ones(2, dtype=torch.int64)}, (), r"x of .* is of torch\.int64: write it as torch\.float32"),
        ({"optimizer.x": torch.ones(2)}, (), "there is nothing in it"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], renames: tuple[str, ...], said: str
) -> None:
    save_file(tensors, tmp_path / "file")
    with pytest.raises(UserError, match=said):
        start_from(str(tmp_path / "file"), renames, {"params.x": torch.zeros(2)})


HEADER = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a safetensors file"),
        (b"\x80\x04pickle", "is not a safetensors file"),
        (struct.pack("<Q", 2**63) + HEADER, "its header has more than 4,194,304 bytes"),
        (struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), "is not a safetensors file"),
        (struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[2]", b"[99999999999]") + bytes(8), "is not a safetensors"),
        (None, "cannot be read .No such file"),
        ("file", "cannot be read (it is a link, and a plain file is expected)"),  # to itself
    ],
)
def test_a_file_that_is_something_else_is_told_before_a_folder_is_made(
    tmp_path: Path, data: bytes | str, said: str
) -> None:
    if isinstance(data, str):
        (tmp_path / "file").symlink_to(data)
    elif data is not None:
        (tmp_path / "file").write_bytes(data)
    assert said.replace(" .No", " (No") in refuse(tmp_path, *MAML, "init=file", "name=run")
    assert not (tmp_path / "outputs").exists()


def test_a_wrong_folder_names_the_right_one(here: Path) -> None:
    assert "init=outputs is the folder of a sweep: give one of its runs, e.g. init=outputs/first" in refuse(
        here, *MAML, "init=outputs", "name=run"
    )
    assert "must be a list of THEIRS:OURS, e.g. [encoder.:]" in refuse(here, *MAML, "init_names=[abc]")
    assert "init_names=[a:b] renames what init has, and there is no init" in refuse(here, *MAML, "init_names=[a:b]")
    assert "init= must be a text that is not empty" in refuse(here, *MAML, "init=", "name=run")
    (here / "export").mkdir()
    for name in ("model.json", "weights-1.safetensors"):
        (here / "export" / name).touch()
    said = refuse(here, *MAML, "init=export", "name=run")
    assert "give the folder of its run, or init=export/weights-1.safetensors" in said
    said = refuse(here, *MAML, "optimizer.rates=[head.*:1,blok*:0]", "name=run")
    assert "optimizer.rates: blok* fits no parameter; their names begin with layer1, norm1, head" in said
    edited = here / "outputs/first/config.yaml"
    edited.write_text(edited.read_text().replace("inner_lr: 0.01", "inner_lr: 0.02"))
    assert "config.yaml is not as it was written" in refuse(here, *MAML, "init=outputs/first", "name=run")


def test_killed_and_continued_it_reads_init_once_and_ends_with_the_same_bits(here: Path) -> None:
    command, killed = [*MAML, "init=outputs/first", "seed=1", "name=run"], here / "killed"
    shutil.copytree(here / "outputs", killed / "outputs")
    succeed(here, *command)
    with pytest.MonkeyPatch.context() as patch:
        send_at(patch, ("train", 5), signal.SIGKILL)
        assert wait(killed, start(killed, *command)).code == -signal.SIGKILL
    began = origin(killed, "run")
    shutil.rmtree(killed / "outputs/first")  # a checkpoint holds everything
    assert "init: outputs/first -> outputs/other" in refuse(killed, *command, "init=outputs/other")
    done = succeed(killed, *command)
    assert "starting from" not in done.err
    assert what_must_be_equal(killed) == what_must_be_equal(here)
    assert origin(killed, "run") == began


@pytest.mark.nightly
def test_a_sweep_takes_several(here: Path) -> None:
    succeed(here, *MAML, "seed=1", "name=a=b")
    succeed(here, *MAML, "-m", "init=outputs/first,outputs/a=b", "steps=0", "name=sweep")
    for other in ("first", "a=b"):
        assert origin(here, f"sweep/init=outputs_{other}")["init"] == f"outputs/{other}"
    done = run(here, "compare", "outputs/sweep")
    assert "init" in done.out, done


def test_another_algorithm_takes_what_has_its_names(here: Path) -> None:
    done = succeed(here, *TASK, "algo=meta_sgd", "init=outputs/first", "name=run")
    assert "7 of 12 tensors are taken" in done.err
    assert "drawn: rate:layer1.weight, rate:norm1.weight" in done.err


def test_a_centre_that_nothing_has_measured_is_refused(tmp_path: Path, own_images: Path) -> None:
    vectors = [f"task.root={own_images.with_name('vectors.npz')}", "task.way=2", "task.shot=1", "task.query=2"]
    short = ["test_episodes=4", "tasks_per_step=2", "threads=1", "eval_every=0", "select=last"]
    centred = ["train", "task=features", *vectors, *short, "algo=protonet", "algo.metric=cosine", "algo.centre=base"]
    for steps in (["steps=0"], ["steps=2", "stages=[{steps:0}]"], ["steps=0", "stages=[{algo.centre:none,steps:2}]"]):
        said = refuse(tmp_path, *centred, *steps, "name=new")
        assert (
            "algo.centre=base subtracts the mean feature of the training classes, which a run of steps=0 does" in said
        )
    assert not (tmp_path / "outputs").exists()
    succeed(tmp_path, *centred, "steps=2", "name=measured")
    succeed(tmp_path, *centred, "steps=0", "init=outputs/measured", "name=again")
    succeed(tmp_path, *centred, "steps=0", "stages=[{steps:2}]", "name=staged")
    for name in ("again", "staged/stage0", "staged"):
        assert newest(tmp_path, name)["buffers.base:mean"].abs().sum() > 0
    succeed(tmp_path, *centred, "steps=0", "init=outputs/measured", "name=again")  # it is finished


def test_a_run_whose_tested_checkpoint_is_gone_says_what_helps(here: Path) -> None:
    tested = json.loads((here / "outputs/first/results.json").read_text())["step"]
    for path in (here / "outputs/first/checkpoints").glob(f"step-{tested:08d}-*"):
        path.unlink()
    said = refuse(here, *MAML, "init=outputs/first", "steps=0", "name=run")
    assert "is not there): put it back, or give the run's command once more with select=last" in said
