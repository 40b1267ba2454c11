"""`metalearn reproduce`: a paper's row, trained and tested, beside what was published."""

import json
import math
from pathlib import Path

import pytest

from metalearn_cli.cli import main
from metalearn_cli.commands.completion import completions
from metalearn_cli.config import conf_folder
from metalearn_cli.errors import UserError
from metalearn_cli.papers import reproduce
from metalearn_cli.papers.tables import COLUMNS, table
from metalearn_cli.papers.verdict import Published, mean_of, measured, parse_published, verdict

RIGHT = ("paper", "ours", "+- 95%", "over seeds")  # whose cells end together
SHORT = ["reproduce", "pretrain/sinusoid", "--budget", "2s", "threads=1"]


WORDS = {"metric": "mse", "published": "2.41", "length": "10 steps"}
LINE: dict[str, object] = {"row": "maml/sinusoid", "seed": 0, "cell": "c", "mean": 1, "ci95": 0.1, **WORDS}


@pytest.fixture(autouse=True)
def a_clock_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 10 ms, and a validation 125 ms, on any machine: 75 steps fit into 2 s beside ten validations."""
    monkeypatch.setattr(reproduce, "timed", lambda device, calls, work: ([work(call) for call in range(calls)], 0.01))


def lines(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_budget_fixes_the_steps_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--seeds", "0,1"]) == 0
    shown = capsys.readouterr().out
    found = lines("outputs/reproduce/results.jsonl")
    assert [line["seed"] for line in found] == [0, 1]
    assert found[0]["steps"] == found[1]["steps"] == 75
    assert str(found[0]["length"]).startswith("short run: ")
    assert "a short run, worse by" in shown
    assert "paper    2.41" in shown
    assert f"steps={found[0]['steps']}" in str(found[0]["command"])
    results = json.loads(Path("outputs/reproduce/pretrain/sinusoid-2s/seed=0/results.json").read_text())
    assert found[0]["mean"] == results["per_step"][1]["mean"]  # the published figure is that after one step
    assert found[0]["episodes_sha256"] == results["episodes_sha256"][:16]

    monkeypatch.setattr(reproduce, "timed", lambda *given: pytest.fail("the steps are fixed: nothing is timed again"))
    assert main([*SHORT, "--seeds", "0,1"]) == 0
    again = capsys.readouterr()
    assert again.err.count("already finished") == 2
    assert again.out == shown
    assert lines("outputs/reproduce/results.jsonl") == found  # no line twice


def test_in_a_checkout_the_authors_lines_are_read_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    papers, own = Path("benchmarks/papers/results.jsonl"), Path("outputs/reproduce/results.jsonl")
    papers.parent.mkdir(parents=True)
    papers.write_text(json.dumps({**LINE, "cell": "1 step", "mean": 0.615}) + "\n")
    assert main(SHORT) == 0
    assert lines(str(papers)) == [{**LINE, "cell": "1 step", "mean": 0.615}]
    assert len(lines(str(own))) == 1
    assert f"  in       {own}" in capsys.readouterr().out
    assert main(["reproduce", "--table", "sinusoid"]) == 0
    shown = capsys.readouterr().out
    assert "1 step  " in shown
    assert "  0.615  " in shown
    assert shown.rstrip().endswith(f"from {papers} and {own}")
    assert main([*SHORT, f"results={papers}"]) == 0  # whoever keeps that file names it
    assert len(lines(str(papers))) == 2
    assert len(lines(str(own))) == 1
    capsys.readouterr()
    assert main([*SHORT, "results=nowhere/x.jsonl"]) == 1
    assert "results=nowhere/x.jsonl: there is no folder nowhere: make it first" in capsys.readouterr().err
    assert main(["reproduce", "--table", "sinusoid", "results=x.jsonl"]) == 1
    assert "results=x.jsonl: there is no such file" in capsys.readouterr().err


def test_the_table_of_what_was_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(SHORT) == 0
    capsys.readouterr()
    assert main(["reproduce", "--table", "sinusoid"]) == 0
    shown = capsys.readouterr().out
    header, *rows = shown.splitlines()
    (measured_row,) = (row for row in rows if row.startswith("pretrain/sinusoid "))
    starts = [header.index(name) for name in COLUMNS if name not in RIGHT]
    assert all(row[start - 2 : start] == "  " for row in rows[:-1] for start in starts if start)  # it is aligned
    line = lines("outputs/reproduce/results.jsonl")[0]
    for part in ("reproduce 2s after 1 inner step", "2.41", f"{line['mean']:.4g}", f"{line['ci95']:.4g}", "none"):
        assert f"  {part}  " in measured_row, part
    assert "  a short run, worse by " in measured_row
    assert measured_row.endswith("  short run: 75 of 70,000 steps  metalearn reproduce pretrain/sinusoid --budget 2s")
    (other,) = (row for row in rows if row.startswith("maml/sinusoid "))
    assert other.split()[1] == "0.67"
    assert other.endswith("metalearn reproduce maml/sinusoid")
    assert "  not measured here  " in other
    assert rows[-1].startswith("ours is the mean over seeds")
    assert "omniglot" not in shown


def test_a_long_budget_is_the_row_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = conf_folder.paper_of("maml/omniglot_quick")
    assert "short run" in whole["source"]  # a preset that is short itself is never called the paper's length
    assert verdict(Published(0.987, 0.004), [0.9865], 0.006, True, "2,500 steps") == "within the intervals"
    assert main(["reproduce", "maml/sinusoid", "--budget", "1s", "threads=1"]) == 1
    assert "--budget 1s is too short for this row here: give" in capsys.readouterr().err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["maml/sinusod"], "maml/sinusod is no row with a published figure: did you mean maml/sinusoid?"),
        (["learned_optimizer/quadratics"], "is no row with a published figure"),
        (["maml/sinusoid", "algo.inner_lr=1"], "algo.inner_lr would make another row of it"),
        (["maml/sinusoid", "--seeds", "0,0"], "--seeds 0,0 names a seed twice: give each once"),
        (["maml/sinusoid", "name=mine"], "name would make another row of it"),
        (["maml/sinusoid", "--budget", "soon"], "--budget soon must be a time, e.g. 90s, 30m or 2h"),
        (["--table", "chess"], "no row is on the task chess: there are rows on"),
    ],
)
def test_mistakes(
    given: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *given]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not Path("outputs").exists()


@pytest.mark.parametrize("given", [[], ["--list", "x"], ["x", "--seeds", "a"], ["x", "--fast"], ["--table"]])
def test_unknown_options(given: list[str]) -> None:
    assert main(["reproduce", *given]) == 2


def test_the_list_has_every_published_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["row", "metric", "paper", "after", "what", "it", "is"]
    listed = [row.split()[0] for row in rows]
    maml = rows[listed.index("maml/omniglot_5w1s")]
    assert maml[header.index("metric") :].startswith("accuracy, %  98.70 +- 0.40  3 inner steps   MAML on Omniglot")
    sinusoid = rows[listed.index("maml/sinusoid")][header.index("metric") :]
    assert sinusoid.split()[:5] == ["mse", "0.67", "1", "inner", "step"]
    assert listed == list(conf_folder.published())
    assert "protonet/omniglot_20w1s" in listed
    assert "meta_lstm/sinusoid" not in listed
    assert "maml/sinusoid " in completions(["reproduce", "maml/sin"])


def test_a_preset_of_ones_own_needs_no_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsteps: 5\n")
    monkeypatch.setattr(conf_folder, "conf_dir", lambda: tmp_path)
    assert conf_folder.published() == {}


def test_of_a_row_measured_twice_the_newest_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    old = {**LINE, "row": "a"}
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in (old, {**old, "seed": 1}, {**old, "mean": 2})) + '{"row'
    )
    assert [(line["seed"], line["mean"]) for line in measured(path)] == [(0, 2), (1, 1)]


@pytest.mark.parametrize("change", [{"mean": "x"}, {"row": None}, {"seed": None}, {"published": 1}, {"ci95": math.nan}])
def test_a_line_that_is_no_result_is_named(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (LINE, {**LINE, **change})))
    with pytest.raises(UserError, match=r"results.jsonl line 2 is no result of a row"):
        measured(path)


def test_a_damaged_line_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("outputs/reproduce/results.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text("{\n")
    for command in (["pretrain/sinusoid"], ["--table", "sinusoid"]):
        assert main(["reproduce", *command]) == 1
        assert f"metalearn: {path} line 1 is not JSON" in capsys.readouterr().err
    assert [entry.name for entry in path.parent.iterdir()] == ["results.jsonl"]


def test_a_line_that_a_killed_process_left_unfinished_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("outputs/reproduce/results.jsonl")
    path.parent.mkdir(parents=True)
    path.write_text('{"row": "maml/sinu')
    reproduce._append([LINE], path)
    assert lines(str(path)) == [LINE]
    assert f"{path} line 1 is cut off, by a process that was killed: it is removed" in capsys.readouterr().err


def test_seeds_of_a_row_are_one_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("outputs/reproduce/results.jsonl")
    path.parent.mkdir(parents=True)
    accuracy = {**LINE, "row": "maml/omniglot_5w1s", "metric": "accuracy", "published": "98.70 +- 0.40", "ci95": 0.002}
    accuracy |= {"cell": "reproduce", "length": "2,500 of 60,000 steps", "batch_norm": "transductive"}
    found = [{**accuracy, "seed": seed, "mean": mean} for seed, mean in ((1, 0.97), (0, 0.95))]
    path.write_text("".join(json.dumps(line) + "\n" for line in found))
    (row,) = (line for line in table("omniglot", path).splitlines() if line.startswith("maml/omniglot_5w1s "))
    for part in ("98.70 +- 0.40", "96.00", "0.20", "12.71", "0,1", "transductive", "short run: 2,500 of 60,000 steps"):
        assert f"  {part}  " in row, part  # 12.71 of Student's t with one degree of freedom times 1 %
    assert "  a short run, within the intervals  " in row
    assert row.endswith("  metalearn reproduce maml/omniglot_5w1s --seeds 0,1")


def test_published_figures_as_texts() -> None:
    assert parse_published("98.7 +- 0.4", True) == Published(0.987, 0.004)
    assert parse_published("1.17 +- 0.16 [M]", False) == Published(1.17, 0.16)
    assert parse_published("2.41", False) == Published(2.41, None)
    assert parse_published("none", True) is None


def test_verdicts() -> None:
    paper = Published(0.90, 0.01)
    assert verdict(paper, [0.905], 0.01, True, "100 steps") == "within the intervals"
    assert verdict(paper, [0.93], 0.01, True, "100 steps") == "better by 3.00"
    assert verdict(paper, [0.85], 0.01, True, "short run: 10 of 100 steps") == "a short run, worse by 5.00"
    assert verdict(Published(2.0, None), [1.5], 0.1, False, "100 steps") == "better by 0.5"  # an error
    assert verdict(paper, [None, 0.9], None, True, "100 steps") == "diverged"
    assert mean_of([1.0, None]) is None
    assert (
        verdict(paper, [0.86, 0.88], 0.001, True, "100 steps") == "within the intervals"
    )  # t of one degree of freedom
    # Seeds far apart say little, and the verdict says no more.
    assert verdict(paper, [0.84, 0.94], 0.001, True, "100 steps") == "within the intervals"
    wide = "no verdict: the interval is wider than the published figure"
    assert verdict(Published(0.35, None), [0.36, 1.6e28, 24400.0], 0.04, False, "100 steps") == wide
    assert verdict(Published(0.35, None), [11000.0], 22000.0, False, "100 steps") == wide
    assert verdict(paper, [0.8699, 0.8701], 0.001, True, "100 steps").startswith("worse by")
