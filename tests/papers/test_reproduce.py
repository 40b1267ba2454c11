"""`metalearn reproduce`: a paper's row, trained and tested, beside what was published."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from metalearn_cli.cli import main
from metalearn_cli.commands.completion import completions
from metalearn_cli.config import conf_folder
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.papers import reproduce, work
from metalearn_cli.papers.tables import ALIGN, COLUMNS, listing, measured_table
from metalearn_cli.papers.verdict import OURS, RowResult, mean_of, read_measured, verdict
from metalearn_cli.papers.work import Speed

RIGHT = [name for name, side in zip(COLUMNS, ALIGN, strict=True) if side == "r"]
SHORT = ["reproduce", "pretrain/sinusoid", "--budget", "2s", "threads=1"]


WIDE = "no verdict: the interval is wider than the published figure"
WORDS = {"metric": "mse", "published": "2.41", "length": "10 steps"}
LINE: dict[str, object] = {"row": "maml/sinusoid", "seed": 0, "cell": "c", "mean": 1, "ci95": 0.1, **WORDS}


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_clock_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 10 ms, and a validation 125 ms, on any machine: 75 steps fit into 2 s beside ten validations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "timed", lambda device, calls, work: ([work(call) for call in range(calls)], 0.01))


def lines(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def measured(text: str) -> Path:
    """The file of measured rows, with this content."""
    path = Path("outputs/reproduce/results.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_a_budget_fixes_the_steps_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--seeds", "0,1"]) == 0
    shown = capsys.readouterr().out
    rows = lines("outputs/reproduce/results.jsonl")
    assert [line["seed"] for line in rows] == [0, 0, 0, 1, 1, 1]
    assert [line["inner_steps"] for line in rows] == [1, 5, 10] * 2
    assert [line["published"] for line in rows[:3]] == ["2.41", "2.23", "2.19"]
    assert {line["steps"] for line in rows} == {75}
    assert str(rows[0]["length"]).startswith("short run: ")
    assert "a short run, worse by" in shown
    assert "paper    2.41" in shown
    assert f"steps={rows[0]['steps']}" in str(rows[0]["command"])
    results = json.loads(Path("outputs/reproduce/pretrain/sinusoid-2s/seed=0/results.json").read_text())
    assert rows[0]["mean"] == results["per_step"][1]["mean"]  # the published figure is that after one step
    assert rows[2]["mean"] == results["mean"]
    assert rows[0]["episodes_sha256"] == results["episodes_sha256"][:16]

    monkeypatch.setattr(reproduce, "timed", lambda *given: pytest.fail("the steps are fixed: nothing is timed again"))
    assert main([*SHORT, "--seeds", "0,1"]) == 0
    again = capsys.readouterr()
    assert again.err.count("already finished") == 2
    assert again.out == shown
    assert lines("outputs/reproduce/results.jsonl") == rows  # no line twice


def test_a_row_is_tested_in_each_way_that_was_published() -> None:
    assert main(["reproduce", "maml/sinusoid_frequency_20s", "--budget", "2s", "threads=1"]) == 0
    rows = lines("outputs/reproduce/results.jsonl")
    keys = ["", "task.shot=5", "task.shot=10"]
    folder = Path("outputs/reproduce/maml/sinusoid_frequency_20s-2s/seed=0")
    assert [line["test"] for line in rows] == ["", *(f"metalearn eval run={folder} {key}" for key in keys[1:])]
    assert [line["published"] for line in rows] == ["0.48 +- 0.08", "1.29 +- 0.2", "0.76 +- 0.12"]
    evaluated = {json.loads(path.read_text())["mean"] for path in folder.glob("eval/*/results.json")}
    assert {line["mean"] for line in rows[1:]} == evaluated


@pytest.mark.nightly
def test_in_a_checkout_the_authors_lines_are_read_and_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    papers, users = Path("benchmarks/papers/results.jsonl"), Path("outputs/reproduce/results.jsonl")
    papers.parent.mkdir(parents=True)
    papers.write_text(json.dumps({**LINE, "cell": "1 step", "mean": 0.615}) + "\n")
    assert main(SHORT) == 0
    assert lines(str(papers)) == [{**LINE, "cell": "1 step", "mean": 0.615}]
    assert len(lines(str(users))) == 3
    assert f"  in       {users}" in capsys.readouterr().out
    assert main(["reproduce", "--table", "sinusoid"]) == 0
    shown = capsys.readouterr().out
    assert "1 step  " in shown
    assert "  0.615  " in shown
    assert shown.rstrip().endswith(f"from {papers} and {users}")
    assert main([*SHORT, f"results={papers}"]) == 0  # written to, since it is named
    assert len(lines(str(papers))) == 4
    assert len(lines(str(users))) == 3
    capsys.readouterr()
    assert main([*SHORT, "results=nowhere/x.jsonl"]) == 1
    assert "results=nowhere/x.jsonl: there is no folder nowhere: make it first" in capsys.readouterr().err
    assert main(["reproduce", "--table", "sinusoid", "results=x.jsonl"]) == 1
    assert "results=x.jsonl: there is no such file" in capsys.readouterr().err


def test_the_table_of_what_was_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SHORT) == 0
    capsys.readouterr()
    assert main(["reproduce", "--table", "sinusoid"]) == 0
    shown = capsys.readouterr().out
    header, *rows = shown.splitlines()
    measured_row, *others = (row for row in rows if row.startswith("pretrain/sinusoid "))
    assert [" ".join(row.split()[1:5]) for row in others] == ["reproduce 2s, step 5", "reproduce 2s, step 10"]
    starts = [header.index(name) for name in COLUMNS if name not in RIGHT]
    assert all(row[start - 2 : start] == "  " for row in rows[:-3] for start in starts if start)  # it is aligned
    line = lines("outputs/reproduce/results.jsonl")[0]
    for part in ("reproduce 2s after 1 inner step", "2.41", f"{line['mean']:.4g}", f"{line['ci95']:.4g}", "none"):
        assert f"  {part}  " in measured_row, part
    assert "  a short run, worse by " in measured_row
    assert "  short run: 75 of 70,000 steps  " in measured_row
    assert measured_row.endswith("  metalearn reproduce pretrain/sinusoid --budget 2s")
    (other,) = (row for row in rows if row.startswith("maml/sinusoid "))
    assert other.split()[1] == "0.67"
    assert other.endswith("metalearn reproduce maml/sinusoid")
    assert "  not measured here  " in other
    assert rows[-1].startswith("ours is the mean over seeds")
    assert "omniglot" not in shown


def test_a_long_budget_is_the_row_itself(capsys: pytest.CaptureFixture[str]) -> None:
    whole = conf_folder.paper_of("maml/omniglot_quick")
    assert "short run" in whole["source"]  # a preset that is short itself is never called the paper's length
    assert main(["reproduce", "maml/sinusoid", "--budget", "1s", "threads=1"]) == 1
    assert "--budget 1s is too short for this row here: give" in capsys.readouterr().err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["maml/sinusod"], "maml/sinusod is not a row with a published figure: did you mean maml/sinusoid?"),
        (["learned_optimizer/quadratics"], "is not a row with a published figure"),
        (["maml/sinusoid", "algo.inner_lr=1"], "algo.inner_lr would make another row of it"),
        (["maml/sinusoid", "--seeds", "0,0"], "--seeds 0,0 names a seed twice: give each once"),
        (["maml/sinusoid", "name=mine"], "name would make another row of it"),
        (["maml/sinusoid", "--budget", "soon"], "--budget soon must be a time, e.g. 90s, 30m or 2h"),
        (["--table", "chess"], "no row is on the task chess: there are rows on"),
    ],
)
def test_mistakes(given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *given]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not Path("outputs").exists()


@pytest.mark.parametrize("given", [[], ["--list", "x"], ["x", "--seeds", "a"], ["x", "--fast"], ["--table"]])
def test_unknown_options(given: list[str]) -> None:
    assert main(["reproduce", *given]) == 2


def test_the_list_has_every_published_figure_and_what_a_row_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work, "measured_speed", lambda: Speed(1e11, 2e5, "2 CPU threads"))
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path))
    (tmp_path / "omniglot").mkdir()
    for name in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / "omniglot" / name).touch()
    assert main(["reproduce", "--list"]) == 0
    output = capsys.readouterr()
    assert "timing this machine" in output.err
    header, *lines = output.out.splitlines()
    assert header.split() == ["row", "paper", "time", "data", "needs", "after", "what", "it", "is"]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[: len(conf_folder.published_papers())]}
    assert list(rows) == list(conf_folder.published_papers())
    assert re.match(r"98.70 \+- 0.40 % [\d.]+ h omniglot 0.1 GB 3 inner steps MAML on Omn", rows["maml/omniglot_5w1s"])
    assert re.match(r"0.67 mse [\d.]+ min 0.1 GB 1 inner step", rows["maml/sinusoid"])  # a formula: without data
    assert re.search(r"(days|years) mini_imagenet: absent [\d.]+ GB, 1 stage first", rows["feat/mini_imagenet_5w1s"])
    assert rows["cnp/rbf"].startswith("0.26 log_likelihood ")
    notes = " ".join(lines[len(rows) :])
    assert "time: an estimate for 2 CPU threads" in notes
    assert "over the 100 GFLOP/s and 200,000 calls/s that were timed now" in notes
    assert f"data: omniglot in {tmp_path}/omniglot; absent: cifar_fs, " in notes
    narrow = listing(Speed(1e11, 2e5, "2 CPU threads"), 80).splitlines()
    assert max(map(len, narrow)) == 80
    assert narrow[1].endswith("…")
    listed = list(rows)
    assert "protonet/omniglot_20w1s" in listed
    assert "meta_lstm/sinusoid" not in listed
    assert "maml/sinusoid " in completions(["reproduce", "maml/sin"])


def test_a_preset_of_ones_own_needs_no_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsteps: 5\n")
    monkeypatch.setattr(conf_folder, "conf_dir", lambda: tmp_path)
    assert conf_folder.published_papers() == {}


def test_of_a_row_measured_twice_the_newest_counts() -> None:
    path = measured("".join(json.dumps(LINE | more) + "\n" for more in ({}, {"seed": 1}, {"mean": 2})) + '{"row')
    assert [(line.seed, line.mean) for line in read_measured(path)] == [(0, 2), (1, 1)]


@pytest.mark.parametrize("change", [{"mean": "x"}, {"row": None}, {"seed": None}, {"published": 1}, {"ci95": math.nan}])
def test_a_line_that_is_not_a_result_is_named(change: dict[str, object]) -> None:
    path = measured(f"{json.dumps(LINE)}\n{json.dumps(LINE | change)}\n")
    (key,) = change
    with pytest.raises(UserError, match=rf"results.jsonl line 2: {key} is .*, and .* is expected"):
        read_measured(path)


def test_a_damaged_line_is_named_before_anything_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    path = measured("{\n")
    for command in (["pretrain/sinusoid"], ["--table", "sinusoid"]):
        assert main(["reproduce", *command]) == 1
        assert f"metalearn: {path} line 1 is not JSON" in capsys.readouterr().err
    assert [entry.name for entry in path.parent.iterdir()] == ["results.jsonl"]


def test_a_line_that_a_killed_process_left_unfinished_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    path = measured('{"row": "maml/sinu')
    (line,) = a_row("2.41", [1.0], 0.1)
    reproduce._append([line], path)
    assert read_measured(path) == [line]
    assert (
        f"the last line of {path} was cut off, by a process that was killed: it is removed" in capsys.readouterr().err
    )


def test_seeds_of_a_row_are_one_line_of_the_table() -> None:
    accuracy = {**LINE, "row": "maml/omniglot_5w1s", "metric": "accuracy", "published": "98.70 +- 0.40", "ci95": 0.002}
    accuracy |= {"cell": "reproduce", "length": "2,500 of 60,000 steps", "batch_norm": "transductive"}
    found = [{**accuracy, "seed": seed, "mean": mean} for seed, mean in ((1, 0.97), (0, 0.95))]
    path = measured("".join(json.dumps(line) + "\n" for line in found))
    (row,) = (line for line in measured_table("omniglot", path).splitlines() if line.startswith("maml/omniglot_5w1s "))
    for part in ("98.70 +- 0.40", "96.00", "0.20", "12.71", "0,1", "transductive", "short run: 2,500 of 60,000 steps"):
        assert f"  {part}  " in row, part  # 12.71 of Student's t with one degree of freedom times 1 %
    assert "  a short run, within the intervals  " in row
    assert row.endswith("  metalearn reproduce maml/omniglot_5w1s --seeds 0,1")


def a_row(published: str, means: list[float | None], ci95: float | None, **more: object) -> list[RowResult]:
    keys: dict[str, Any] = {"row": "r", "cell": "c", "metric": "accuracy", "length": "100 steps", **more}
    return [RowResult(seed=n, published=published, mean=mean, ci95=ci95, **keys) for n, mean in enumerate(means)]


def test_published_figures_as_texts() -> None:
    for text, metric, expected in (
        *(("98.7 +- 0.4", "accuracy", (0.987, 0.004)), ("1.17 +- 0.16 [M]", "mse", (1.17, 0.16))),
        *(("2.41", "mse", (2.41, 0)), ("none", "accuracy", None)),
    ):
        (result,) = a_row(text, [0.5], None, metric=metric)
        assert result.paper == expected


@pytest.mark.parametrize(
    ("means", "ci95", "more", "expected"),
    [
        ([0.905], 0.01, {}, "within the intervals"),
        ([0.93], 0.01, {}, "better by 3.00"),
        ([0.85], 0.01, {"length": "short run: 10 of 100 steps"}, "a short run, worse by 5.00"),
        ([1.5], 0.1, {"published": "2", "metric": "mse"}, "better by 0.5"),  # an error
        ([None, 0.9], None, {}, "diverged"),
        ([0.86, 0.88], 0.001, {}, "within the intervals"),  # t of one degree of freedom
        ([0.84, 0.94], 0.001, {}, "within the intervals"),  # seeds far apart say little, and the verdict says no more
        ([0.8699, 0.8701], 0.001, {}, "worse by 3.00"),
        ([0.36, 1.6e28, 24400.0], 0.04, {"published": "0.35", "metric": "mse"}, WIDE),
        ([11000.0], 22000.0, {"published": "0.35", "metric": "mse"}, WIDE),
        ([0.9865], 0.006, {"published": "none"}, "nothing to compare with"),
    ],
)
def test_verdicts(means: list[float | None], ci95: float | None, more: dict[str, Any], expected: str) -> None:
    seeds = a_row(**{"published": "90 +- 1", "means": means, "ci95": ci95} | more)
    assert verdict(seeds) == expected
    assert (mean_of(means) is None) == (None in means)


def test_the_tables_of_benchmarks_are_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = [" ".join(line.split()) for line in (ROOT / "benchmarks/papers/README.md").read_text().splitlines()]
    for task in ("sinusoid", "omniglot", "cifar_fs"):
        printed = [" ".join(line.split()) for line in measured_table(task, OURS).splitlines()]
        assert [line for line in printed if "not measured here" not in line and line not in page] == []


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ("maml/sinusoid_code_start", ["step 5", "step 10"]),  # those of the preset that it is made from
        ("maml/sinusoid_frequency_10s", ["task.shot=5", "task.shot=20"]),
        ("protonet/omniglot_20w1s", []),  # another row, with its own figure
        ("reptile/omniglot_5w1s", ["transductive"]),
    ],
)
def test_the_other_published_tests_of_a_row(row: str, labels: list[str]) -> None:
    assert [reproduce.Cell(**test).label for test in conf_folder.paper_of(row).get("tests", [])] == labels
    assert "tests" not in (load_job([f"experiment={row}"]).run.paper or {})
