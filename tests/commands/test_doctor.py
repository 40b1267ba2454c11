"""`metalearn doctor`: it names what is wrong, and only that."""

from pathlib import Path
from typing import Any

import pytest
import torch

from metalearn_cli.cli import main
from metalearn_cli.commands import doctor
from metalearn_cli.errors import UserError
from metalearn_cli.system import ranks as parallel


@pytest.fixture
def look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:  # -> (exit code, {what: (level, sentence)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALEARN_DATA", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def call() -> tuple[int, dict[str, tuple[str, str]]]:
        code = main(["doctor"])
        *lines, last = capsys.readouterr().out.splitlines()
        findings = {words[1]: (words[0], words[2]) for words in (line.split(maxsplit=2) for line in lines)}
        wrong = sum(level == "WRONG" for level, _ in findings.values())
        assert last == (f"{wrong} thing(s) to mend" if code else "nothing is wrong")
        return code, findings

    return call


def test_all_is_well_and_nothing_is_left_behind(look: Any, tmp_path: Path) -> None:
    code, findings = look()
    assert code == 0
    assert {"metalearn", "python", "torch", "hydra-core", "device", "threads", "training"} <= findings.keys()
    assert findings["training"][0] == findings["outputs"][0] == "ok"
    assert findings["data"] == ("note", findings["data"][1])  # no data is no fault: sinusoids need none
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_found(look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    (tmp_path / "omniglot").mkdir()
    for name in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / "omniglot" / name).touch()
    code, findings = look()
    assert code == 0
    assert findings["omniglot"][0] == "ok"
    assert "not packed yet" in findings["omniglot"][1]
    assert findings["cifar_fs"][0] == "note"
    assert "cifar100.zip" in findings["cifar_fs"][1]  # how to get it


@pytest.mark.parametrize("key", ["METALEARN_DATA", "METALEARN_CACHE"])
def test_a_folder_that_cannot_be_used(look: Any, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(key, str(tmp_path / "file" / "below"))
    code, findings = look()
    assert code == 1
    level, sentence = findings[key.removeprefix("METALEARN_").lower()]
    assert level == "WRONG"
    assert key in sentence


def test_packages_that_lack_or_are_too_old(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, version_of = {"torch": "2.1.0", "tqdm": None}, doctor._version_of
    monkeypatch.setattr(doctor, "_version_of", lambda name: versions[name] if name in versions else version_of(name))
    code, findings = look()
    assert code == 1
    assert findings["torch"][0] == findings["tqdm"][0] == "WRONG"
    assert "metalearn needs >=" in findings["torch"][1]
    assert "pip install 'tqdm>=" in findings["tqdm"][1]
    assert findings["hydra-core"][0] == "ok"


def test_a_step_that_fails(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: object) -> None:
        raise UserError("the device is on fire")

    monkeypatch.setattr("metalearn_cli.config.assemble.new_learner", fail)
    code, findings = look()
    assert code == 1
    assert findings["training"] == ("WRONG", "the device is on fire")


def test_more_threads_than_cores(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    assert "set threads=" in look()[1]["threads"][1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(parallel, "cores", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS=1 keeps it from the others" in look()[1]["threads"][1]


def test_a_containers_quota_is_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_QUOTA", tmp_path / "cpu.max")
    whole = parallel.cores()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert parallel.cores() == whole
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert parallel.cores() == 1


def test_a_full_disk_is_noted(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1e6}))
    code, findings = look()
    assert code == 0
    assert findings["outputs"][0] == "note"
    assert "0.00 GB left" in findings["outputs"][1]
