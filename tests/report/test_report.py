"""`metalearn report`, as a user gives it: the table, results.csv, and the page, which loads nothing."""

import json
import math
import os
import re
import shutil
import subprocess
from array import array
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from commands import TINY, run
from folders import write_lines, write_run
from tiny_runs import rows

from metalearn_cli.cli import main
from metalearn_cli.compare.groups import parts
from metalearn_cli.config.overrides import compose_config
from metalearn_cli.report import charts, figures, page
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.series import Curve
from metalearn_cli.run_folder.unfinished import NOT_ENDED

VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """The elements of a page; every one must be closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.html, self.text = html, ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Report(NamedTuple):
    """What a report prints, and where it says that the page and the table are."""

    out: str
    err: str
    html: Path | None
    csv: Path | None

    @property
    def page(self) -> Page:
        assert self.html is not None
        return Page(self.html.read_text())

    @property
    def rows(self) -> list[dict[str, str]]:
        assert self.csv is not None
        return rows(self.csv)


def report(folder: Path, *arguments: str) -> Report:
    done = run(folder, "report", *arguments)
    assert done.code == 0, done.err
    matches = (re.search(rf"^the {what} (.*)$", done.out, re.MULTILINE) for what in ("page is", "table is in"))
    return Report(done.out, done.err, *(folder / match[1] if match else None for match in matches))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, random_omniglot: Path) -> Path:
    """A sweep on sinusoids, and a classification run, whose results the tests read."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALEARN_CACHE", str(random_omniglot))
        done = run(folder, "train", *TINY, "-m", "seed=0,1", "algo.inner_lr=0.01,0.1", "name=sweep")
        assert done.code == 0, done.err
        small = ["model.filters=2", "task.query=2", "task.way=3", "debug=quick", "threads=1"]
        assert run(folder, "train", "algo=maml", "task=omniglot", *small, "name=images").code == 0
    return folder


@pytest.fixture(scope="module")
def both(place: Path) -> Report:
    """The report of the sweep and the classification run."""
    return report(place, "outputs/sweep", "outputs/images")


def results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def untested(folder: Path) -> Path:
    """The run as it is before its test."""
    for name in ("results.json", "episodes.npz", "examples.npz", "test.png"):
        (folder / name).unlink(missing_ok=True)
    return folder


def test_the_table_the_csv_and_the_page(place: Path, both: Report) -> None:
    folders = [*sorted((place / "outputs/sweep").glob("*/")), place / "outputs/images"]
    table = {row["name"]: row for row in both.rows}
    assert list(table) == [str(folder.relative_to(place)) for folder in folders]
    page = both.page
    for folder, (name, row) in zip(folders, table.items(), strict=True):
        written = results(folder)
        assert float(row["mean"]) == written["mean"]
        assert row["episodes_sha256"] == written["episodes_sha256"]
        shown = f"{100 * written['mean']:.2f}" if written["metric"] == "accuracy" else f"{written['mean']:.4g}"
        assert re.search(rf"{re.escape(name)} .*{re.escape(shown)}", both.out)
        assert name in page.text
        assert shown in page.text
    assert [row["inner_steps"] for row in both.rows if row["task"] == "sinusoid"] == ["2"] * 4
    assert {row["state"] for row in both.rows} == {"finished"}
    assert both.out.count(" mse after 2 inner steps ") == 6
    steps = len(results(place / "outputs/images")["per_step"]) - 1
    assert f"accuracy, % after {steps} inner steps" in both.out
    assert "mean over 2 seeds" in both.out
    (best,) = (line for line in both.out.splitlines() if "best on validation" in line)
    number = r"[\d.]+"
    assert re.fullmatch(
        rf"outputs/sweep: best on validation \(mse {number}\): algo.inner_lr={number}; "
        rf"test mse {number} ± {number} after 2 inner steps, over 2 seeds",
        best,
    )
    assert best.removeprefix("outputs/sweep: ") in page.text
    about = r"outputs/report-sweep-images-[0-9a-f]{8}"
    assert re.search(rf"\nthe table is in {about}.csv\nthe page is {about}.html\n$", both.out)
    assert "note: debug=quick is a first look, not a result: outputs/sweep/" in both.err
    sentence = "transductive batch norm: the query examples of a task help to classify each other: outputs/images"
    assert f"note: {sentence}" in both.err
    assert "Other than the defaults of algo=maml, task=omniglot" in page.text
    assert "algo.test_steps" in page.text


def test_each_figure_tells_a_screen_reader_what_it_is(place: Path, both: Report) -> None:
    titles = re.findall(r"<title>([^<]*)</title><desc>", both.page.html)
    for title in (
        *("sinusoid, training:", "sinusoid, validation after", "omniglot, training:"),
        *("sinusoid: test after each inner", "omniglot: test after each inner"),
        *("sinusoid: one value for each test episode", "The test of each setting", "By algo.inner_lr:"),
    ):
        assert any(name.startswith(title) for name in titles), title
    assert not any(name.startswith("By seed") for name in titles)  # seeds are the spread of a setting
    shown = [str(image["alt"]) for image in both.page.all("img")]
    assert len(both.page.all("figure")) == len(titles) + len(shown)
    assert shown[0] == "The first test tasks: 10 support points, 2 inner steps"
    with np.load(place / "outputs/images/examples.npz") as arrays:
        names, right = arrays["names"].tolist(), int(arrays["right"])
        assert right == int((arrays["predicted"] == arrays["query_y"]).sum())
    assert all(re.fullmatch(r"\w+/character\d\d(, turned by \d+°)?", name) for name in names), names
    assert shown[-1].startswith(f"The first test tasks: {right} of 6 query images right (")


def test_the_page_loads_nothing(both: Report) -> None:
    page = both.page
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "form", "base"} == set()
    assert "url(" not in page.html
    assert "@import" not in page.html
    (policy,) = (meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def seen_by_chromium(page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """The page as it stands after it was shown, and what the browser had to say of it. No name is resolved."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no Chromium")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    quiet += ["--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    command = [chromium, "--headless", "--no-sandbox", *quiet, "--enable-logging=stderr", "--dump-dom"]
    return subprocess.run([*command, f"file://{page}"], capture_output=True, text=True, timeout=120)


def test_chromium_shows_it_without_a_request_or_an_error(both: Report, tmp_path: Path) -> None:
    assert both.html is not None
    done = seen_by_chromium(both.html, tmp_path / "profile")
    assert "outputs/images" in done.stdout
    assert "</html>" in done.stdout
    assert "CONSOLE" not in done.stderr
    # What a request would look like: the browser says that the page's own policy forbids it.
    text = both.page.html.replace("</main>", '<img src="http://localhost/a.png" alt=""></main>')
    (tmp_path / "asks.html").write_text(text)
    assert "CONSOLE" in seen_by_chromium(tmp_path / "asks.html", tmp_path / "profile").stderr


def test_an_evaluation_and_an_unfinished_run(place: Path, tmp_path: Path) -> None:
    assert run(place, "eval", "run=outputs/sweep/algo.inner_lr=0.1,seed=0", "task.shot=3", "test_episodes=24").code == 0
    folder = untested(shutil.copytree(place / "outputs/sweep/algo.inner_lr=0.1,seed=0", tmp_path / "half"))
    (evaluation,) = (folder / "eval").iterdir()
    done = report(tmp_path, "half", str(evaluation.relative_to(tmp_path)), "csv=null")
    assert done.csv is None
    assert re.search(r"half +not finished, step 20 ", done.out)
    assert re.search(
        r"note: half: not finished, step 20 of 20; last wrote \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; goes on after step 20 "
        r"with: metalearn train .*name=sweep/algo.inner_lr=0.1,seed=0\n",
        done.err,
    )
    text = done.page.text
    assert "sinusoid, validation after the last inner step" in text  # as far as it has come
    assert "metalearn eval" in text
    assert "Not finished: nothing was tested yet." in text


def test_different_episodes_and_damaged_means_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", np.linspace(0, 1, 50), metric="mse")
    write_run(tmp_path / "b", [np.inf, *np.linspace(0, 1, 49)], metric="mse", sha256="b" * 64)
    done = report(tmp_path, "a", "b")
    assert "tested on 2 different sets of episodes" in done.err
    assert "the mean is not finite: b" in done.err
    assert "diverged; they stand in the mean, so look at the median too: b (2.00%)" in done.err
    assert re.search(r"b +mse after 1 inner step +not finite", done.out)
    assert "has no picture" in done.page.text


def test_runs_that_are_alike_stand_beside_each_other(tmp_path: Path) -> None:
    """`report outputs` is what somebody gives first, whatever is in there; names are text, and never markup."""
    for name in ("outputs/once", "outputs/<script>alert(1)<"):
        write_run(tmp_path / name, np.linspace(0, 1, 50), overrides={"x": "<img src=http://a>"})
    done = report(tmp_path, "outputs")
    assert [row["name"] for row in done.rows] == ["outputs/<script>alert(1)<", "outputs/once"]
    assert "mean over" not in done.out
    assert done.page.all("script") == done.page.all("img") == []
    assert "<script>alert(1)<" in done.page.text


def test_the_learned_optimizer_beside_those_made_by_hand(tmp_path: Path) -> None:
    quick = [
        "task=quadratics",
        "task.dimension=2",
        "debug=quick",
        "steps=2",
        "eval_every=0",
        "select=last",
        "threads=1",
    ]
    for algo, more in (("hand_optimizer", ["algo.rates=[0.001,0.02]"]), ("learned_optimizer", ["algo.horizon=20"])):
        done = run(tmp_path, "train", f"algo={algo}", *more, "algo.test_steps=20", *quick, f"name={algo}")
        assert done.code == 0, done.err
    text = report(tmp_path, "outputs/hand_optimizer", "outputs/learned_optimizer").page.text
    assert "quadratics: test after each inner step, 0 before adapting" in text
    assert "rate 0.02" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "report needs the folder of a run"),
        (["nowhere"], "nowhere is not there"),
        (["empty"], "there is no config.yaml in it"),
        (["a", "out=none/page.html"], "out=none/page.html: there is no folder"),
        (["a", "csv=none/table.csv"], "csv=none/table.csv: there is no folder"),
        (["a", "out=empty"], "out=empty is a folder"),
        (["a", "outt=x"], "report has no key outt: did you mean out?"),
        (["broken"], "broken/results.json cannot be read"),
        (["cut"], "cut/episodes.npz cannot be read"),
        (["lacking"], "lacking/results.json has no mean"),
        (["a", "out=x.html", "out=y.html"], "out= is given twice"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    for name in ("a", "broken", "cut", "lacking"):
        write_run(tmp_path / name, np.linspace(0, 1, 50))
    whole = (tmp_path / "cut/episodes.npz").read_bytes()
    (tmp_path / "cut/episodes.npz").write_bytes(whole[: len(whole) // 2])
    lacking = {key: value for key, value in results(tmp_path / "lacking").items() if key != "mean"}
    (tmp_path / "lacking/results.json").write_text(json.dumps(lacking))
    (tmp_path / "broken/results.json").write_text("{")
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, "report", *arguments)
    assert (done.code, done.out) == (1, "")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob("*.csv"))


def failed_sweep(tmp_path: Path) -> None:
    """In a sweep one job is tested, one failed before its first step, one in its training, and one was killed."""
    write_run(tmp_path / "sw/seed=0", np.linspace(0, 1, 50))
    (tmp_path / "sw/seed=1").mkdir()
    (tmp_path / "sw/seed=1/train.log").write_text("2026-11-24 10:00:00 failed: no data\n")
    for seed, why in ((2, "the loss is not finite"), (3, NOT_ENDED)):
        folder = untested(write_run(tmp_path / f"sw/seed={seed}", np.linspace(0, 1, 50), seed))
        outcome = {"launch": "a", "number": 2, "values": f"seed={seed}", "stopped": None, "failed": why}
        (folder / "outcome.json").write_text(json.dumps(outcome))


@pytest.mark.parametrize("argument", ["sw", "sw/*", "s*"])
def test_failed_jobs_are_named_with_their_sentence(argument: str, tmp_path: Path) -> None:
    failed_sweep(tmp_path)
    done = report(tmp_path, argument)
    assert "note: sw/seed=1 failed: no data\n" in done.err
    assert "note: sw/seed=2: failed at step 20 of 20: the loss is not finite; last wrote" in done.err
    assert "note: sw/seed=3: not finished, step 20 of 20; last wrote" in done.err
    assert {row["name"]: (row["state"], row["failed"]) for row in done.rows} == {
        "sw/seed=0": ("finished", ""),
        "sw/seed=1": ("failed", "no data"),
        "sw/seed=2": ("failed", "the loss is not finite"),
        "sw/seed=3": ("not finished", ""),
    }
    assert re.search(r"^sw/seed=1 +failed$", done.out, re.MULTILINE)
    assert re.search(r"^sw/seed=2 +failed, step 20 ", done.out, re.MULTILINE)
    assert "sw/seed=1 failed: no data" in done.page.text
    assert "the loss is not finite" in done.page.text


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    failed_sweep(tmp_path)
    for content in ("{", "[]", '{"failed": ', "\ud800"):
        (tmp_path / "sw/seed=2/outcome.json").write_bytes(content.encode(errors="surrogatepass"))
        done = report(tmp_path, "sw", "out=null")
        assert "note: sw/seed=2/outcome.json " in done.err
        assert "sw/seed=2: not finished, step 20 of 20" in done.err


def test_where_all_failed_there_is_nothing_to_show(tmp_path: Path) -> None:
    for seed in range(5):
        (tmp_path / f"sw/seed={seed}").mkdir(parents=True)
        (tmp_path / f"sw/seed={seed}/train.log").write_text(f"2026-11-24 10:00:00 failed: no data {seed}\n")
    done = run(tmp_path, "report", "sw")
    assert done.code == 1
    assert done.err == (
        "metalearn: sw has no run that began: sw/seed=0 failed: no data 0; sw/seed=1 failed: no data 1; sw/seed=2 "
        "failed: no data 2 and 2 more\n"
    )


def test_compare_says_which_jobs_it_leaves_out(tmp_path: Path) -> None:
    write_run(tmp_path / "a", np.linspace(0, 1, 50))
    write_run(tmp_path / "sw/seed=0", np.linspace(0, 1, 50) ** 2)
    (tmp_path / "sw/seed=1").mkdir()
    (tmp_path / "sw/seed=1/train.log").write_text("2026-11-24 10:00:00 failed: Traceback ...\n  x\nKeyError: 'y'\n")
    done = run(tmp_path, "compare", "a", "sw")
    assert done.code == 0, done.err
    assert done.err == "note: sw/seed=1 failed, and is left out: KeyError: 'y'\n"
    assert "accuracy in % after inner step 1, on the same 50 test episodes" in done.out


def test_a_run_that_is_at_work(tmp_path: Path) -> None:
    folder = untested(write_run(tmp_path / "outputs/mine", np.linspace(0, 1, 50), config={"steps": 1000}))
    with lock(folder, True):
        done = report(tmp_path, "outputs/mine", "csv=null")
    assert re.search(r"^outputs/mine +running, step 20 ", done.out, re.MULTILINE)
    about = rf"running, step 20 of 1,000, last wrote .* \(pid {os.getpid()} on .*\)"
    assert re.search(rf"note: outputs/mine: {about}\n", done.err)
    assert [(bar["value"], bar["max"]) for bar in done.page.all("progress")] == [("20", "1000")]
    begins = "nothing is saved: begins again with: metalearn train seed=0 name=mine"
    assert begins in report(tmp_path, "outputs/mine", "csv=null").err
    (folder / "checkpoints").mkdir()
    (folder / f"checkpoints/step-00000010-{'a' * 16}.safetensors").touch()
    goes_on = "goes on after step 10 with: metalearn train seed=0 name=mine"
    assert goes_on in report(tmp_path, "outputs/mine", "csv=null").err


def test_a_run_that_was_given_more_steps(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs/mine", np.linspace(0, 1, 50), config={"steps": 100})
    done = report(tmp_path, "outputs/mine")
    assert "tested after 20 steps, which the figures are of, and was given more: not finished, step 20 of" in done.err
    assert "accuracy, % after 1 inner step " in done.out


def sweep_of(folder: Path, tests: dict[tuple[float, int], tuple[float, float]]) -> None:
    """(lr, seed) -> the validation and the test of a job."""
    for (lr, seed), (validation, test) in tests.items():
        keys: dict[str, Any] = {"config": {"optimizer.lr": lr}, "overrides": {"optimizer.lr": lr}}
        values = test + np.linspace(-0.01, 0.01, 50)
        write_run(folder / f"sw/lr={lr},seed={seed}", values, seed, validation=validation, **keys)


def test_the_best_setting_is_chosen_on_validation(tmp_path: Path) -> None:
    """Not by the test, and not by the single job that is the best of all."""
    sweep_of(tmp_path, {(0.1, 0): (0.8, 0.7), (0.1, 1): (0.82, 0.74), (0.2, 0): (0.9, 0.99), (0.2, 1): (0.6, 0.97)})
    done = report(tmp_path, "sw")
    # 0.72 +- t(1 degree of freedom) * 0.0283 / sqrt(2)
    (best,) = (line for line in done.out.splitlines() if line.startswith("sw: best"))
    assert best == (
        "sw: best on validation (accuracy 81.00 %): optimizer.lr=0.1; test accuracy 72.00 ± 25.41 % after 1 inner "
        "step, over 2 seeds"
    )
    assert done.page.html.count('class="spread s0"') == 4  # in two figures a line for each of the two settings
    assert "By optimizer.lr: a dot for each setting" in done.page.text


def test_a_setting_whose_job_has_no_figure_is_not_the_best(tmp_path: Path) -> None:
    sweep_of(tmp_path, {(lr, seed): (lr, 0.5) for lr in (0.1, 0.2, 0.3) for seed in (0, 1)})
    (tmp_path / "sw/lr=0.3,seed=1/results.json").unlink()
    out = report(tmp_path, "sw", "out=null").out
    assert "best on validation (accuracy 20.00 %): optimizer.lr=0.2; test accuracy 50.00" in out
    assert "(left out, since a job of it has no figure: optimizer.lr=0.3)\n" in out


def test_without_validation_the_best_is_said_to_flatter(tmp_path: Path) -> None:
    sweep_of(tmp_path, {(0.1, 0): (0.5, 0.7), (0.2, 0): (0.5, 0.6)})
    (tmp_path / "sw/lr=0.2,seed=0/metrics.jsonl").write_text("")
    out = report(tmp_path, "sw", "out=null").out
    assert "best on the test, which flatters it (some job has no validation to choose by): optimizer.lr=0.1; " in out
    assert "test accuracy 70.00 ± 0.16 % after 1 inner step, over 50 test episodes of one seed\n" in out


def test_a_pruned_job_is_called_so(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"sw/algo.inner_lr={seed}", np.linspace(0, 1, 50))
    folder = untested(tmp_path / "sw/algo.inner_lr=2")
    pruned = "pruned at step 10 by MedianPruner, with 2 as its best validation mse beside 5 finished trials"
    outcome = {"launch": "a", "number": 2, "values": "algo.inner_lr=2", "stopped": None, "failed": None}
    (folder / "outcome.json").write_text(json.dumps({**outcome, "pruned": pruned}))
    done = report(tmp_path, "sw")
    assert f"note: sw/algo.inner_lr=2: {pruned}, of 20; can be continued with: metalearn train" in done.err
    assert "not finished" not in done.err + done.out
    assert re.search(r"^sw/algo.inner_lr=2 +pruned, step 20 ", done.out, re.MULTILINE)


def test_a_search_is_drawn_in_its_order_by_its_validations_and_over_its_numbers(tmp_path: Path) -> None:
    """The first is the last by name; the best on the test is not the one that validation chooses, and one diverged."""
    tests, validations = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, math.inf], [0.9, 0.7, 0.1, 0.8, 0.8, 0.8, 0.8, 0.0]
    for number, (mean, value) in enumerate(zip(tests, validations, strict=True)):
        rate = f"{10.0**-number:g}"
        config, arguments = {"algo.inner_lr": float(rate)}, {"algo.inner_lr": rate}
        keys: dict[str, Any] = {"metric": "mse", "config": config, "overrides": arguments, "validation": value}
        folder = write_run(tmp_path / f"sw/algo.inner_lr={rate}", np.full(5, mean), **keys)
        (folder / "outcome.json").write_text(json.dumps({"number": number, "failed": None}))
        if math.isinf(mean):
            write_lines(folder / "metrics.jsonl", [{"step": step, "train/loss": 1.0} for step in (10, 20)])
    best, by_rate = figures.sweep_figures(parts(str(tmp_path / "sw")))
    assert "chosen on validation" in best[0]
    assert "the best: 2</desc>" in best[1]
    dots = [float(y) for y in re.findall(r'<circle class="dot s0" cx="[\d.]+" cy="([\d.]+)"', best[1])]
    assert sorted(range(7), key=lambda i: -dots[i]) == [1, 2, 0, 3, 4, 5, 6]  # an error that is low stands low
    assert "its mean over seeds" in by_rate[0]
    labels = re.findall(r'class="tick">([^<]+)</text>', by_rate[1])
    assert "0.01" in labels
    assert "0.0001" in labels  # a logarithmic axis


def test_another_report_does_not_write_over_it(tmp_path: Path) -> None:
    """One folder's goes into it, that of several beside them, by their names; the same ones again have the same."""
    for name in ("outputs/a", "outputs/b", "outputs/sw/seed=0", "outputs/sw/seed=1", "elsewhere/b"):
        write_run(tmp_path / name, np.linspace(0, 1, 50))
    places: dict[tuple[str, ...], Path] = {}
    for arguments in (
        *(("outputs/a",), ("outputs/sw",), ("outputs/a", "outputs/b"), ("outputs/a", "elsewhere/b"), ("outputs/*",)),
        ("outputs/sw/*",),
    ):
        pages = {str(report(tmp_path, *arguments).html) for _ in range(2)}
        places[arguments] = Path(pages.pop()).relative_to(tmp_path)
        assert not pages
    assert len(set(places.values())) == len(places)
    assert places[("outputs/a",)] == Path("outputs/a/report.html")
    assert (tmp_path / "outputs/sw/results.csv").exists()
    assert re.fullmatch(r"outputs/report-a-b-[0-9a-f]{8}.html", str(places["outputs/a", "outputs/b"]))
    assert re.fullmatch(r"report-a-b-[0-9a-f]{8}.html", str(places["outputs/a", "elsewhere/b"]))
    assert re.fullmatch(r"outputs/report-[0-9a-f]{8}.html", str(places[("outputs/*",)]))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("res")] == []
    assert report(tmp_path, "outputs/a", "out=page.html", "csv=null").html == tmp_path / "page.html"


def test_many_runs_compose_the_same_defaults_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        write_run(tmp_path / f"sw/seed={seed}", [0.5, 0.6], seed)
    composed: list[Any] = []

    def count(overrides: list[str]) -> Any:
        composed.append(overrides)
        return compose_config(overrides)

    monkeypatch.setattr(page, "compose_config", count)
    assert main(["report", "sw", "out=report.html"]) == 0
    assert composed == [["algo=maml", "task=sinusoid"]]
    assert (tmp_path / "report.html").read_text().count("Other than the defaults of algo=maml, task=sinusoid") == 4


def test_a_long_curve_is_thinned_out_and_keeps_what_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = rng.random(20_000)
    values[[7, 12_345]] = -5.0, 9.0
    curve = Curve(array("q", range(1, 20_001)), array("d", values))
    shown = figures.thinned(curve, 4321)
    assert len(shown) <= figures.MOST_POINTS
    steps = [step for step, _ in shown]
    assert steps == sorted(set(steps))
    assert {(1.0, values[0]), (8.0, -5.0), (12_346.0, 9.0), (4321.0, values[4320]), (20_000.0, values[-1])} <= set(
        shown
    )
    for part in np.array_split(np.arange(20_000), 100):  # the outline is that of all points
        seen = [value for step, value in shown if part[0] < step <= part[-1] + 1]
        assert max(seen) >= np.sort(values[part])[-10]
        assert min(seen) <= np.sort(values[part])[9]
    few = Curve(array("q", [1, 2]), array("d", [0.5, 0.25]))
    assert figures.thinned(few) == [(1.0, 0.5), (2.0, 0.25)]
    assert figures.thinned(None) == []
    folder = write_run(tmp_path / "a", [0.5, 0.6])
    assert main(["report", "a", "csv=null", "out=report.html"]) == 0
    before = (tmp_path / "report.html").stat().st_size
    lines = [{"step": step, "train/loss": float(value)} for step, value in enumerate(values, 1)]
    write_lines(folder / "metrics.jsonl", lines)
    assert main(["report", "a", "csv=null", "out=report.html"]) == 0
    assert (tmp_path / "report.html").stat().st_size < before + 20 * figures.MOST_POINTS


def test_no_number_of_a_line_covers_one_of_the_axis_below() -> None:
    lines = [charts.Line(series, [(0, 1.0), (1000, 0.0)], str(series)) for series in range(3)]
    drawn = charts.line_chart(lines, "title", ("x", "y"))
    heights = [float(height) for height in re.findall(r'y="([\d.]+)" text-anchor="start" class="end', drawn)]
    assert len(heights) == 3
    assert max(heights) <= charts.BOTTOM
