"""Row C23 of the fault matrix: a name in a record becomes a folder inside of the run's, or is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import refuse
from foreign import COMMANDS, copy, forge


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in ("out", "err")
    }


NAMES: list[Any] = ["../../../escaped", "{}/absolute", "a/b", "..", "x\n/y", "\x00", "x\x1b]0;title\x07"]
NAMES += [["a"], 3, None, ...]


@pytest.mark.row("C23", ci=4, full=len(NAMES))
def test_the_name_of_a_task_in_a_record_leads_nowhere(attempt: int, made: Path, tmp_path: Path) -> None:
    """An evaluation has a folder of its own, which it removes when it fails."""
    folder = copy(made, tmp_path / "copy")
    name = NAMES[attempt]
    name = name.format(tmp_path) if isinstance(name, str) else name
    path = folder / "outputs/run/environment.json"
    content = json.loads(path.read_text())
    if name is ...:
        del content["choices"]["task"]
    else:
        content["choices"]["task"] = name
    forge(path, content)
    before = files(tmp_path)
    refused = refuse(folder, *COMMANDS["eval"])
    assert "outputs/run/environment.json" in refused
    assert "choices.task" in refused
    assert "\x1b" not in refused
    assert files(tmp_path) == before
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "absolute").exists()


@pytest.mark.row("C23")
@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "", "weights/../../secret"])
def test_the_name_of_the_weights_leads_nowhere(made: Path, name: str, tmp_path: Path) -> None:
    folder = copy(made, tmp_path / "copy")
    (tmp_path / "secret").write_text("hunter2")
    path = folder / "exported/model.json"
    forge(path, {**json.loads(path.read_text()), "weights": name})
    refused = refuse(folder, *COMMANDS["predict of an export"])
    assert "exported" in refused
    assert "hunter2" not in refused
