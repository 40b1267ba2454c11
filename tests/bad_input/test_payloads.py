"""Rows C10 and C11 of the fault matrix: a run folder may come from anywhere. Nothing in it is run: not by a file that
poses as a checkpoint, and not by the classes that its config.yaml names."""

import builtins
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refuse
from places import MAML as GOLDEN
from safetensors.torch import save

from metalearn_cli.run_folder import checkpoint

TRAIN = ["train", *(GOLDEN / "overrides.txt").read_text().splitlines()]


class Calls:
    """What unpickling would call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def zipped(payload: Any, folder: Path) -> bytes:
    """A file as torch.save writes it."""
    torch.save(payload, folder / "payload")
    return (folder / "payload").read_bytes()


def crafted(record: Any, tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    return save(tensors or {"params.w": torch.zeros(2)}, {"metalearn": json.dumps(record)})


def header(content: bytes, length: int | None = None) -> bytes:
    return (len(content) if length is None else length).to_bytes(8, "little") + content


GOOD = {"format": 1, "step": 20, "best": None, "to_validate": False}
RUN = "__import__('pathlib').Path('it-ran').touch()"


def attacks(folder: Path) -> dict[str, bytes]:
    system, evaluated = Calls(__import__("os").system, "touch it-ran"), Calls(builtins.eval, RUN)
    nested = Calls(torch.storage._load_from_bytes, zipped(evaluated, folder))
    array = np.asarray([evaluated], dtype=object)
    huge = {"params.w": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}
    huge |= {"__metadata__": {"metalearn": json.dumps(GOOD)}}  # type: ignore[dict-item]
    return {
        "os.system": pickle.dumps(system),
        "builtins.eval": pickle.dumps(evaluated),
        "torch.save": zipped({"params": evaluated}, folder),
        "_load_from_bytes": pickle.dumps(nested),
        "numpy _reconstruct": pickle.dumps(array),
        "40 GB": header(json.dumps(huge).encode()),
        "a header of 2**63 bytes": header(b"{}", 2**63),
        "deep json": header(b"[" * 100_000),
        "a list": header(b"[1]"),
        "no record": save({"params.w": torch.zeros(2)}),
        "record of a word": crafted("word"),
        "record of null": crafted(None),
        "format of a word": crafted({**GOOD, "format": "word"}),
        "format of a list": crafted({**GOOD, "format": [1]}),
        "another step": crafted({**GOOD, "step": 21}),
        "best of a word": crafted({**GOOD, "best": "word"}),
        "best without a value": crafted({**GOOD, "best": {"step": 3}}),
        "no word on validation": crafted({key: value for key, value in GOOD.items() if key != "to_validate"}),
    }


@pytest.fixture
def posing(tmp_path: Path) -> Path:
    """A folder with a run, whose checkpoints are gone."""
    shutil.copytree(GOLDEN, tmp_path / "outputs" / "run")
    shutil.rmtree(tmp_path / "outputs" / "run" / "checkpoints")
    (tmp_path / "outputs" / "run" / "checkpoints").mkdir()
    return tmp_path


def pose(folder: Path, content: bytes) -> Path:
    """Save it under the name that its hash makes, so that only the content can be refused."""
    name = f"step-00000020-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    path = folder / "outputs" / "run" / "checkpoints" / name
    path.write_bytes(content)
    return path


@pytest.mark.row("C10")
@pytest.mark.parametrize("attack", attacks(Path("/tmp")))
def test_a_file_in_a_checkpoints_place_is_not_run(posing: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(posing)
    path = pose(posing, attacks(posing)[attack])
    with pytest.raises(checkpoint.Damaged, match="not a checkpoint of this program"):
        checkpoint.load_checkpoint(path)
    assert not (posing / "it-ran").exists()


@pytest.mark.row("C10")
def test_the_payloads_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "builtins.eval", "_load_from_bytes", "numpy _reconstruct"):
        pickle.loads(attacks(tmp_path)[name])
        (tmp_path / "it-ran").unlink()


@pytest.mark.row("C10")
def test_the_commands_refuse_it_too(posing: Path) -> None:
    pose(posing, attacks(posing)["builtins.eval"])
    for command in (["eval", "run=outputs/run"], [*TRAIN, "steps=25"]):
        assert "not a checkpoint of this program" in refuse(posing, *command)
    assert not (posing / "it-ran").exists()


# Neither is an algorithm, task, network or optimizer.
OURS = ("metalearn_cli.__main__.evil", "metalearn_cli.learning.learner.Learner")
TARGETS = (
    *OURS,
    *("os.system", "logging.os.system", "builtins.exec", "builtins.eval", "evil.Algorithm", "evil", ""),
    *("metalearn_cli", "metalearn_cli.nowhere.evil", "metalearn_cli.cli.os.system", "metalearn_cli..evil"),
    *("metalearn_cli.config.job.importlib.import_module", "metalearn_cli_evil.Algorithm", "../evil", "${oc.env:HOME}"),
)


@pytest.mark.row("C11")
@pytest.mark.parametrize("group", ["algo", "task", "model", "optimizer"])
def test_a_class_that_a_run_folder_names_is_not_imported(tmp_path: Path, group: str) -> None:
    """Also for `train`, which takes its classes from the command line and the run folder's for text alone."""
    for module in ("evil", "metalearn_cli_evil"):
        (tmp_path / f"{module}.py").write_text("open('it-ran', 'w')\nclass Algorithm: pass\n")
    path = shutil.copytree(GOLDEN, tmp_path / "outputs" / "run") / "config.yaml"
    good = path.read_text()
    (line,) = [line for line in good.partition(f"\n{group}:\n")[2].splitlines() if "_target_" in line][:1]
    for target in TARGETS:
        path.write_text(good.replace(line, f"  _target_: {target or repr('')}"))
        commands = [["eval", "run=outputs/run"]]
        if target == "evil.Algorithm":
            commands += [["eval", "run=outputs/run", "trust=no"], [*TRAIN, "steps=25"]]
        for command in commands:
            refused = refuse(tmp_path, *command)
            said = "has a reference" if "${" in target else f"{group}._target_"
            assert said in refused, (target, command)
        if target in OURS:
            assert "importing it would run its code" in refused
        assert not (tmp_path / "it-ran").exists(), target


@pytest.mark.row("C11")
@pytest.mark.parametrize("key", ["seed", "device", "algo.inner_lr", "task.shot", "name"])
def test_a_reference_in_a_run_folder_is_not_resolved(tmp_path: Path, key: str) -> None:
    path = shutil.copytree(GOLDEN, tmp_path / "outputs" / "run") / "config.yaml"
    group, _, name = key.rpartition(".")
    before, _, after = path.read_text().partition(f"\n{group}:\n" if group else "\n")
    rows = after if group else f"{before}\n{after}"
    old = next(row for row in rows.splitlines() if row.strip().startswith(f"{name}:"))
    path.write_text(path.read_text().replace(old, f"{old.partition(':')[0]}: ${{oc.env:HOME}}", 1))
    line = next(number for number, row in enumerate(path.read_text().splitlines(), 1) if "oc.env" in row)
    for command in (["eval", "run=outputs/run"], ["export", "run=outputs/run", "out=x"]):
        said = f"outputs/run/config.yaml line {line} has a reference, which no run writes: mend the file"
        assert said in refuse(tmp_path, *command)
