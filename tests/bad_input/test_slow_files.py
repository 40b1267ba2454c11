"""Row C25 of the fault matrix: files that nobody could read to their end, or that take long to read, are a sentence
before they are read. Each process here is killed after some seconds of work, or after minutes of waiting."""

import hashlib
import json
import os
import resource
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import refuse, run
from foreign import COMMANDS, copy, forge

from metalearn_cli.errors import UserError
from metalearn_cli.system import files, yaml_files

RECORDS = [
    *(("report", name) for name in ("config.yaml", "environment.json", "results.json", "overrides.txt")),
    *(("report", name) for name in ("metrics.jsonl", "timing.jsonl", "episodes.npz", "examples.npz", "outcome.json")),
    *(("train on", name) for name in ("lock", "train.log", "config.yaml", "choices.json", "metrics.jsonl")),
    *(("train", "results.json"), ("eval", "environment.json"), ("eval", "results.json"), ("predict", "task.json")),
    *(("predict", "unlike.json"), ("predict", "config.yaml"), ("predict of an export", "../../exported/model.json")),
]


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    signal.alarm(200)


def check_refused(folder: Path, command: list[str], words: str) -> None:
    assert words in refuse(folder, *command, first=limited)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_endless(path: Path) -> None:
    """A terabyte that takes no room on the disk."""
    path.touch()
    os.truncate(path, 1 << 40)


def make_deep(path: Path) -> None:
    path.write_bytes(b"[" * 60_000)


def make_long_number(path: Path) -> None:
    path.write_bytes(b'{"step": ' + b"1" * 100_000 + b"}")


def make_many(path: Path) -> None:
    path.write_bytes(b"{" + b",".join(b'"a": 1' for _ in range(200_000)) + b"}")


MAKERS = (make_pipe, make_endless, make_deep, make_long_number, make_many)
KINDS = [(command, name, make) for make in MAKERS for command, name in RECORDS]


@pytest.mark.row("C25", ci=5, full=len(KINDS))
def test_a_record_that_is_slow_to_read(attempt: int, made: Path, tmp_path: Path) -> None:
    """A log may hold anything: it is added to, or its lines are left out."""
    command, name, make = KINDS[attempt * 17 % len(KINDS)]
    folder = copy(made, tmp_path)
    path = folder / "outputs/run" / name
    path.unlink(missing_ok=True)
    make(path)
    done = run(folder, *COMMANDS[command], first=limited)
    assert "Traceback" not in done.err
    assert done.code in (0, 1), (command, name, make.__name__, done)
    if make in (make_pipe, make_endless) and name not in ("outcome.json", "lock", "train.log"):
        assert done.code == 1, done
        # Without these a folder is not a run's or an export.
        named = {"config.yaml": "outputs/run", "../../exported/model.json": "exported"}.get(name, name)
        assert named in done.err.splitlines()[-1], done.err


@pytest.mark.row("C25")
@pytest.mark.parametrize("kind", [pytest.param("pipe", marks=pytest.mark.nightly), "endless", "tensors"])
def test_a_checkpoint_that_is_slow_to_read(made: Path, kind: str, tmp_path: Path) -> None:
    """The file has 200,000 tensors, and each is empty."""
    folder = copy(made, tmp_path)
    checkpoints = folder / "outputs/run/checkpoints"
    for path in checkpoints.iterdir():
        path.unlink()
    record = json.dumps({"format": 1, "step": 20, "best": None, "to_validate": False})
    header = {f"params.{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(200_000)}
    text = json.dumps({"__metadata__": {"metalearn": record}, **header}).encode()
    content = len(text).to_bytes(8, "little") + text
    path = checkpoints / f"step-00000020-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if kind == "tensors":
        path.write_bytes(content)
    else:
        (make_pipe if kind == "pipe" else make_endless)(path)
    check_refused(folder, COMMANDS["eval"], "outputs/run/checkpoints")
    (weights,) = (folder / "exported").glob("*.safetensors")
    path.rename(weights)
    model = folder / "exported/model.json"
    forge(model, {**json.loads(model.read_text()), "sha256": hashlib.sha256(content).hexdigest()})
    check_refused(folder, COMMANDS["predict of an export"], "exported/weights-")


YAMLS = {
    "levels": "x: " + "[" * 60_000,
    "levels and an alias": "x: " + "[" * 60_000 + " *a",
    "closed levels": "x: [" + ("[" * 900 + "]" * 900 + ",") * 70 + "]",
    "block levels": "x:\n" + "- " * 30_000,
    "mappings": "x: " + "{a: " * 4_500,
    "references": "x: " + "${" * 9_000,
    "a long reference": "x: ${a:" + "a," * 60_000 + "}",
    "an alias": "x: &a [1]\ny: [" + "*a," * 9_000 + "]",
    "a key again and again": "a: 1\n" * 3_600,
    "keys again and again": "{" + "a: {a: 1, a: 1}, " * 1_000 + "}",
    "large": "# " + "x" * 200_000,
}


@pytest.mark.row("C25")
@pytest.mark.parametrize("kind", YAMLS)
def test_a_configuration_that_is_slow_to_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAMLS[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(UserError, match=r"config\.yaml") as refused:
        yaml_files.load_yaml(path)
    assert ("more than 50 levels" in str(refused.value)) == (kind in ("mappings", *(k for k in YAMLS if "levels" in k)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5


def npz_of(shape: str, path: Path) -> None:
    """An .npz whose arrays claim to be of this shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 64
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("metric", "loss", "episode"):
            archive.writestr(f"{name}.npy", data)


@pytest.mark.row("C25")
@pytest.mark.parametrize(
    "shape",
    [
        f"({10**30},)",
        f"({2**62}, 4)",
        f"({10**10},)",
        "(-1,)",
        "(0, 10)",
        pytest.param("bomb", marks=pytest.mark.nightly),
    ],
)
def test_arrays_of_a_shape_that_none_has(made: Path, shape: str, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    path = folder / "outputs/run/episodes.npz"
    if shape == "bomb":
        np.savez_compressed(path, metric=np.zeros(1 << 28))  # 2 GB in 2 MB
    else:
        npz_of(shape, path)
    check_refused(folder, COMMANDS["compare"], "outputs/run/episodes.npz")


@pytest.mark.row("C25")
def test_tables_of_the_user_that_nobody_fills(made: Path, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    for name in ("p.csv", "p.npz", "p.json"):
        os.mkfifo(folder / name)
    sets = (["support=s.csv", "query=p.csv"], ["support=p.csv", "query=q.csv"])
    commands = [["predict", "run=outputs/run", *names] for names in sets]
    commands += [["train", "task=table", f"task.root={name}"] for name in ("p.csv", "p.npz")]
    for command in commands:
        check_refused(folder, command, "it is not a plain file")


@pytest.mark.row("C25")
def test_no_more_is_read_than_a_record_has(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"1234")
    assert files.read_bytes(path, 4) == b"1234"
    with pytest.raises(OSError, match="it has 4 bytes, and 3 are read at most"):
        files.read_bytes(path, 3)
    path.write_bytes(b"\xff")
    with pytest.raises(OSError, match="it is not text in UTF-8"):
        files.read_text(path)
