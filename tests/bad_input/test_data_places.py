"""Rows C6 and C9 of the fault matrix: data that are not there, and data that are all alike."""

import json
from pathlib import Path

import pytest
from commands import succeed
from PIL import Image

from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.known_sets import about_sets


@pytest.mark.row("C6")
@pytest.mark.parametrize("kind", ["missing", "empty", "a file"])
@pytest.mark.parametrize("task", [*about_sets(), "image_folder", "table"])
def test_a_folder_without_its_data_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, kind: str
) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALEARN_DATA", raising=False)
    root = tmp_path / "data"
    if kind == "empty":
        root.mkdir()
    elif kind == "a file":
        root.write_bytes(b"")
    with pytest.raises(UserError) as refused:
        _ = load_job([f"task={task}", f"task.root={root}"]).task.fingerprint
    sentence = str(refused.value)
    assert str(root) in sentence
    assert "\n" not in sentence
    if task in about_sets():
        assert "metalearn data prepare " in sentence
        assert "; or set METALEARN_DATA to" in sentence
    assert not (tmp_path / "cache").exists()


@pytest.mark.row("C9")
@pytest.mark.parametrize("algo", ["maml", "protonet"])
def test_images_of_one_colour_give_finite_figures(tmp_path: Path, algo: str) -> None:
    """Their variance is nothing, by which batch norm divides."""
    for number in range(12):
        folder = tmp_path / "images" / f"c{number:02}"
        folder.mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (16, 16), (7, 7, 7 if number else 8)).save(folder / f"{image}.png")
    small = ["task=image_folder", "task.root=images", "task.way=2", "task.query=1", "task.size=16", "model.filters=2"]
    small += ["task.val_share=0.2", "task.test_share=0.2"]
    succeed(tmp_path, "train", f"algo={algo}", *small, "debug=quick", "steps=3", "name=run", "threads=1")
    content = json.loads((tmp_path / "outputs" / "run" / "results.json").read_text())
    assert content["mean"] is not None
    assert content["per_step"][-1]["diverged"] == 0
