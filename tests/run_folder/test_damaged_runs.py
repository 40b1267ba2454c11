"""Files of a run that are cut off, changed or missing: a sentence with the file's name, or a warning with the line's;
never a traceback, and nothing is left out silently."""

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_run

from metalearn_cli.cli import main
from metalearn_cli.report import page
from metalearn_cli.run_folder.series import read_lines, read_series, read_timing

ODD: list[Any] = [None, "x", math.nan, math.inf, -1, [], {}, True, 10**400, 1.5, "é", [[]], {"a": 1}, 0]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1)):
        write_run(tmp_path / name, np.linspace(0, 1, 8) + seed, seed, metric="mse", overrides={"steps": 20})
        (tmp_path / name / "choices.json").write_text('{"threads": 1}')
    return tmp_path


def change_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def check_refused(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that the commands which read runs end with this sentence."""
    for command in ("report", "compare"):
        assert main([command, "a", "b"]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"step": 20, "steps_per_', "is cut off"),
        (b"\xff\xfe\n", "is not JSON"),
        (b'{"step": 20}, {"step": 30}\n', "is not JSON"),
        (b"[1, 2]\n", "is not an object"),
        (b'{"steps_per_second": 1.0}\n', "has no step"),
        (b'{"step": true, "steps_per_second": 1.0}\n', "has the step True"),
        (b'{"step": 1e3, "steps_per_second": 1.0}\n', "has the step 1000.0"),
        (f'{{"step": {2**63}, "steps_per_second": 1.0}}\n'.encode(), f"has the step {2**63}"),
        (b'{"step": 20}\n', "has no steps_per_second"),
        (b'{"step": 20, "steps_per_second": 0}\n', "has the steps_per_second 0"),
        (b'{"step": 20, "steps_per_second": NaN}\n', "has the steps_per_second nan"),
        (b'{"step": 10, "steps_per_second": 1.0}\n', "has step 10 after step 10"),
        (b'{"step": 10, "steps_per_second": 1.0, "train/lr": 0.1}\n', "has step 10 after step 10"),
    ],
)
def test_a_line_that_is_left_out_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "timing.jsonl"
    path.write_bytes(b'{"step": 10, "steps_per_second": 10.0}\n' + line)
    curves, last, (damage,) = read_timing(path)
    assert (list(curves["steps_per_second"].steps), last) == ([10], 10)
    assert damage.startswith(f"{path} line 2 {said}")


def test_what_is_left_out_is_named_on_the_screen_and_on_the_page(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [b'{"step": 30, "train/loss": "low", "train/lr": 0.1}\n', b'{"step": 40, "train/lr": 0.1}\n', b"x\n"]
    change_lines(runs / "a/metrics.jsonl", lambda lines: [*lines, *odd])
    change_lines(runs / "a/timing.jsonl", lambda lines: lines[:1])
    assert main(["report", "a", "b"]) == 0
    screen = capsys.readouterr().err
    (page,) = runs.glob("report-a-b-*.html")
    shown = page.read_text().replace("<wbr>", "").replace("&#x27;", "'")
    for said in (
        "metrics.jsonl line 4: train/loss is 'low', and no finite number: left out",
        "metrics.jsonl line 5 has train/lr and no train/loss: left out",
        "metrics.jsonl line 6 is not JSON",
        "timing.jsonl ends at step 10, and the run's last line was of step 20",
    ):
        assert f"note: a/{said}" in screen
        assert f"a/{said}" in shown


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl", "overrides.txt", "environment.json"])
def test_a_file_that_is_missing_is_named(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "a" / name).unlink()
    assert main(["report", "a", "b"]) == 0
    assert f"note: a/{name} is missing" in capsys.readouterr().err


def test_of_many_damaged_lines_the_first_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_lines(runs / "a/metrics.jsonl", lambda lines: lines + [b"x\n"] * 30)
    assert main(["report", "a", "b"]) == 0
    said = capsys.readouterr().err
    assert said.count("is not JSON") == 5
    assert "note: a has 25 more such places" in said


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("results.json", ["mean"], math.nan, "results.json: mean is nan, and a finite number, or null is expected"),
        ("results.json", ["per_step"], [], "results.json: per_step is [], and a list of objects is expected"),
        ("results.json", ["per_step", 1, "diverged"], "x", "per_step[1].diverged is 'x', and a number from 0 to 1"),
        ("results.json", ["per_step", 0, "mean"], ..., "results.json has no per_step[0].mean"),
        ("results.json", ["learned"], {"rate": None}, "learned.rate is None, and a finite number is expected"),
        ("results.json", ["baselines"], {"oracle": 1}, "baselines.oracle is 1, and an object is expected"),
        ("results.json", ["metric"], "ece", "metric is 'ece', and one of accuracy, mse, log_likelihood is expected"),
        (
            "results.json",
            ["beside"],
            {"f1": {"mean": 1, "ci95": 1, "median": 1}},
            "beside.f1 is not one of accuracy, mse",
        ),
        ("results.json", ["episodes"], 7, "episodes.npz: metric is float64 of shape [8, 2]"),
        ("environment.json", ["choices"], "maml", "environment.json: choices is 'maml', and an object is expected"),
        ("environment.json", ["choices", "algo"], [], "environment.json: choices.algo is [], and a text is expected"),
    ],
)
def test_a_figure_that_cannot_be_trusted_is_a_sentence(
    runs: Path, name: str, place: list[Any], value: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((runs / "a" / name).read_text())
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    (runs / "a" / name).write_text(json.dumps(content))
    check_refused(said, capsys)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("overrides.txt", b"name=\xff\n", "a/overrides.txt cannot be read (it is not text in UTF-8)"),
        ("config.yaml", b"steps: 20\n", "a/config.yaml has no seed"),
        ("config.yaml", b"steps: 20\nseed: [0]\n", "a/config.yaml: seed is [0], and a whole number is expected"),
        ("results.json", b"[" * 100_000, "a/results.json cannot be read"),
        ("episodes.npz", b"", "a/episodes.npz cannot be read"),
    ],
)
def test_a_file_of_something_else_is_a_sentence(
    runs: Path, name: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "a" / name).write_bytes(content)
    check_refused(said, capsys)


def test_an_array_without_names_is_not_an_episodes_file(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(runs / "a/one.npy", np.zeros(8))
    (runs / "a/one.npy").rename(runs / "a/episodes.npz")
    check_refused("a/episodes.npz cannot be read (File is not a zip file): metalearn eval run=", capsys)


def test_examples_that_do_not_fit_together(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(runs / "a/examples.npz", predicted=np.zeros(3))
    assert main(["report", "a", "b"]) == 1
    assert "a/examples.npz does not hold a run's test tasks" in capsys.readouterr().err


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [*([above] if above else []), *(place for key, value in inside for place in places(value, (*above, key)))]


def changed(content: Any, rng: random.Random) -> Any:
    """Records with one place deleted, or of another type."""
    *above, key = rng.choice(places(content))
    inside = content
    for step in above:
        inside = inside[step]
    if rng.random() < 0.4:
        del inside[key]
    else:
        inside[key] = copy.deepcopy(rng.choice(ODD))
    return content


def damaged(data: bytes, name: str, rng: random.Random) -> bytes:
    how = rng.random()
    if how < 0.5 and name.endswith(".json"):
        return json.dumps(changed(json.loads(data), rng)).encode()
    if how < 0.5 and name.endswith(".jsonl"):
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng)).encode()
        return b"\n".join(lines) + b"\n"
    if how < 0.7:
        return data[: rng.randrange(len(data))]
    flipped = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        flipped[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(flipped)


@pytest.mark.parametrize(
    "name",
    [
        *("timing.jsonl", "metrics.jsonl", "results.json", "environment.json", "choices.json", "overrides.txt"),
        *("config.yaml", "episodes.npz"),
    ],
)
def test_whatever_is_damaged_no_traceback(
    runs: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_defaults", lambda chosen: None)  # it takes most of the time, and has its own test
    whole = (runs / "a" / name).read_bytes()
    rng = random.Random(name)
    for _ in range(15):
        (runs / "a" / name).write_bytes(damaged(whole, name, rng))
        for command in ("report", "compare"):
            code = main([command, "a", "b"])  # anything but a UserError is raised here
            error = capsys.readouterr().err
            assert code in (0, 1)
            assert code == 0 or (len(error.splitlines()) == 1 and "a/" in error)
    shutil.rmtree(runs / "a")


def test_choices_that_there_are_not(runs: Path) -> None:
    (runs / "a/environment.json").write_text('{"choices": {"algo": "maml=2", "task": "chess", "experiment": "x"}}')
    assert main(["report", "a"]) == 0


def test_a_run_goes_on_from_lines_that_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 2.0}\n{"step": 1, "val/mse": 1.0}\n{"step')
    series = read_series(path)
    assert {name: (list(steps), list(values)) for name, (steps, values) in series.curves.items()} == {
        "train/loss": ([1], [2.0]),
        "val/mse": ([1], [1.0]),
    }
    assert series.last == 1
    assert series.damage == [f"{path} line 3 is cut off"]
    assert read_series(tmp_path / "none") == read_timing(tmp_path / "none") == ({}, 0, [])
    assert list(read_lines(path)) == [{"step": 1, "train/loss": 2.0}, {"step": 1, "val/mse": 1.0}]
