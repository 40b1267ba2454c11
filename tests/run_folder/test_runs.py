"""The folder of a run: damaged, in use, of another version, or none at all."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from commands import TINY, run, start
from folders import rewrite


def test_a_run_folder_that_is_damaged_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    folder = tmp_path / "outputs" / "one"
    damages = (("config.yaml", "a: [1"), ("config.yaml", ""), ("results.json", "{"), ("environment.json", ""))
    for name, content in damages:
        good = (folder / name).read_bytes()
        (folder / name).write_text(content)
        for command in (["train", *TINY, "name=one", "steps=30"], ["eval", "run=outputs/one"]):
            refused = run(tmp_path, *command)
            if (name, command[0]) != ("environment.json", "eval"):
                assert refused.code == 1
            assert "Traceback" not in refused.err, refused.err
            assert refused.code == 0 or name in refused.err
        (folder / name).write_bytes(good)


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "one").mkdir(parents=True)
    (tmp_path / "outputs" / "one" / "thesis.tex").write_text("precious")
    refused = run(tmp_path, "train", *TINY, "name=one")
    assert refused.code == 1
    assert "thesis.tex" in refused.err
    assert [path.name for path in (tmp_path / "outputs/one").iterdir() if path.name != "lock"] == ["thesis.tex"]


@pytest.mark.row("C16")
def test_another_version_is_said_when_a_run_goes_on(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    path = tmp_path / "outputs" / "one" / "environment.json"
    rewrite(path, {**json.loads(path.read_text()), "torch": "1.0"})
    done = run(tmp_path, "train", *TINY, "name=one", "steps=30")
    assert done.code == 0
    assert "started with torch 1.0" in done.err


def test_a_run_in_use_is_refused_with_its_holder(tmp_path: Path) -> None:
    pid = start(tmp_path, "train", *TINY, "name=one", "steps=100000", "eval_every=0", "select=last")
    while not list(tmp_path.glob("outputs/one/checkpoints/step-*")):
        time.sleep(0.01)
    (tmp_path / "err").rename(tmp_path / "err-of-the-first")
    # With another seed it is refused also where nothing locks, and the test ends: but not in these words.
    refused = run(tmp_path, "train", *TINY, "name=one", "steps=100000", "eval_every=0", "select=last", "seed=1")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert refused.code == 1
    assert f"in use by pid {pid} on " in refused.err
    done = run(tmp_path, "train", *TINY, "name=one", "steps=100", "eval_every=0", "select=last")
    assert done.code == 1  # fewer steps than the killed run was started with
    assert "steps=100 is less" in done.err
