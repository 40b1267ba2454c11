"""The notebook of docs/ runs from top to bottom, and shows what it says that it shows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

DOCS = ROOT / "docs"


def test_every_cell_runs_in_a_fresh_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "METALEARN_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, DOCS / "run_notebook.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    by_hand, kept = (
        json.loads((tmp_path / "outputs" / name / "results.json").read_text()) for name in ("trained", "maml")
    )
    assert by_hand["mean"] > 0.5
    assert len(kept["per_step"]) == 6


def test_it_is_a_notebook_that_jupyter_opens() -> None:
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}


@pytest.mark.parametrize("word", ["!metalearn nothing", "1 / 0"])
def test_a_cell_that_fails_ends_it(tmp_path: Path, word: str) -> None:
    (tmp_path / "run_notebook.py").write_text((DOCS / "run_notebook.py").read_text())
    cell = {"cell_type": "code", "source": [word], "outputs": []}
    (tmp_path / "notebook.ipynb").write_text(json.dumps({"cells": [cell]}))
    command = [sys.executable, tmp_path / "run_notebook.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
