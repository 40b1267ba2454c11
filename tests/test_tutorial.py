"""Every command of docs/tutorial.md, in the order of the page, in a checkout of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def blocks() -> list[tuple[str | None, str, str]]:
    """(the file that it is saved as, the language, the text) of each block of code."""
    matches = re.findall(r"(?:^`([\w./]+)`:\n\n)?^```(\w+)\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
    return [(name or None, language, text) for name, language, text in matches]


def test_the_algorithm_imports_what_there_is() -> None:
    (algorithm,) = (text for name, _, text in blocks() if name and name.endswith("/cosine.py"))
    exec(algorithm, {"__name__": "cosine"})


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_every_command(tmp_path: Path) -> None:
    for name in ("metalearn_cli", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    # The command of this interpreter and of the copy, whatever is installed.
    (tmp_path / "bin" / "metalearn").write_text(f'#!/bin/sh\nexec {sys.executable} -m metalearn_cli "$@"\n')
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for path in (tmp_path / "bin").iterdir():
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "METALEARN_CACHE": str(tmp_path / "cache"),
    }
    commands = 0
    for name, language, text in blocks():
        if name is not None:
            (tmp_path / name).write_text(text)
        elif language == "sh":
            done = subprocess.run(
                ["bash", "-euc", text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            commands += text.count("metalearn ")
        else:
            pytest.fail(f"a block of {language} that is neither saved nor run: {text[:80]}")
    assert commands > 8
    assert (tmp_path / "outputs" / "cosine" / "results.json").exists()
