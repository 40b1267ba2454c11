"""`metalearn report`, as a user gives it: the table, results.csv, and the page, which loads nothing."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
from array import array
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Finished, run
from folders import write_lines, write_run

from metalearn_cli.cli import main
from metalearn_cli.compare.groups import parts
from metalearn_cli.config.overrides import compose_config
from metalearn_cli.report import figures, page, sweeps
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.outcome import NOT_ENDED
from metalearn_cli.run_folder.series import Curve

VOID = {"meta", "link", "img", "br", "wbr"}
TINY = ["model.hidden=[8]", "algo.test_steps=2", "threads=1", "debug=quick"]


class Page(HTMLParser):
    """The elements of a page; every one must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self._open[-1:] != ["style"] else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


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


def written(folder: Path, done: Finished, what: str) -> Path:
    """The file that the command says it has written: the page, or the table."""
    (name,) = re.findall(rf"^the {what} is (?:in )?(.*)$", done.out, re.MULTILINE)
    return folder / str(name)


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_the_table_the_csv_and_the_page(place: Path) -> None:
    done = run(place, "report", "outputs/sweep", "outputs/images")
    assert done.code == 0, done.err
    folders = [*sorted((place / "outputs/sweep").glob("*/")), place / "outputs/images"]
    rows = list(csv.DictReader(written(place, done, "table").read_text().splitlines()))
    assert len(rows) == len(folders) == 5
    page = Page(written(place, done, "page").read_text())
    for folder in folders:
        found, name = results(folder), str(folder.relative_to(place))
        (row,) = (row for row in rows if row["name"] == name)
        assert float(row["mean"]) == found["mean"]
        assert row["episodes_sha256"] == found["episodes_sha256"]
        shown = f"{100 * found['mean']:.2f}" if found["metric"] == "accuracy" else f"{found['mean']:.4g}"
        assert re.search(rf"{re.escape(name)} .*{re.escape(shown)}", done.out)
        assert name in page.text
        assert shown in page.text
    assert [row["inner_steps"] for row in rows if row["task"] == "sinusoid"] == ["2"] * 4
    assert {row["state"] for row in rows} == {"finished"}
    assert done.out.count(" mse after 2 inner steps ") == 6
    steps = len(results(place / "outputs/images")["per_step"]) - 1
    assert f"accuracy, % after {steps} inner steps" in done.out
    assert "mean over 2 seeds" in done.out
    (best,) = (line for line in done.out.splitlines() if "best on validation" in line)
    number = r"[\d.]+"
    assert re.fullmatch(
        rf"outputs/sweep: best on validation \(mse {number}\): algo.inner_lr={number}; "
        rf"test mse {number} ± {number} after 2 inner steps, over 2 seeds",
        best,
    )
    assert best.removeprefix("outputs/sweep: ") in page.text
    about = r"outputs/report-sweep-images-[0-9a-f]{8}"
    assert re.search(rf"\nthe table is in {about}.csv\nthe page is {about}.html\n$", done.out)
    assert "note: debug=quick is a first look, not a result: outputs/sweep/" in done.err
    assert (
        "note: transductive batch norm: the query examples of a task help to classify each other: outputs/im"
        in done.err
    )
    # What is drawn: each figure tells a screen reader what it is.
    titles = re.findall(r"<title>([^<]*)</title><desc>", written(place, done, "page").read_text())
    for title in (
        *(
            "sinusoid, training:",
            "sinusoid, validation after",
            "omniglot, training:",
            "sinusoid: test after each inner",
        ),
        *("omniglot: test after each inner", "sinusoid: one value for each test episode", "The test of each setting"),
        "By algo.inner_lr:",
    ):
        assert any(one.startswith(title) for one in titles), title
    assert not any(one.startswith("By seed") for one in titles)  # seeds are the spread of a setting
    shown = [str(image["alt"]) for image in page.all("img")]
    assert len(page.all("figure")) == len(titles) + len(shown)
    assert shown[0] == "The first test tasks: 10 support points, 2 inner steps"
    with np.load(place / "outputs/images/examples.npz") as arrays:
        names, right = arrays["names"].tolist(), int(arrays["right"])
        assert right == int((arrays["predicted"] == arrays["query_y"]).sum())
    assert all(re.fullmatch(r"\w+/character\d\d(, turned by \d+°)?", name) for name in names), names
    assert shown[-1].startswith(f"The first test tasks: {right} of 6 query images right (")
    assert "Other than the defaults of algo=maml, task=omniglot" in page.text
    assert "algo.test_steps" in page.text


def test_the_page_loads_nothing(place: Path) -> None:
    assert run(place, "report", "outputs/sweep", "outputs/images", "out=page.html").code == 0
    text = (place / "page.html").read_text()
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "data", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "form", "base"} == set()
    assert "url(" not in text
    assert "@import" not in text
    policy = [one for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def seen_by_chromium(page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """The page as it stands after it was shown, and what the browser had to say of it. No name is resolved."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("no Chromium")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    quiet += ["--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}"]
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        *quiet,
        "--enable-logging=stderr",
        "--dump-dom",
        f"file://{page}",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_chromium_shows_it_without_a_request_or_an_error(place: Path, tmp_path: Path) -> None:
    assert run(place, "report", "outputs/sweep", "outputs/images", "out=page.html").code == 0
    done = seen_by_chromium(place / "page.html", tmp_path / "profile")
    assert "outputs/images" in done.stdout
    assert "</html>" in done.stdout
    assert "CONSOLE" not in done.stderr
    # What a request would look like: the browser says that the page's own policy forbids it.
    text = (place / "page.html").read_text().replace("</main>", '<img src="http://localhost/a.png" alt=""></main>')
    (tmp_path / "asks.html").write_text(text)
    assert "CONSOLE" in seen_by_chromium(tmp_path / "asks.html", tmp_path / "profile").stderr


def test_an_evaluation_and_an_unfinished_run(place: Path, tmp_path: Path) -> None:
    assert run(place, "eval", "run=outputs/sweep/algo.inner_lr=0.1,seed=0", "task.shot=3", "test_episodes=24").code == 0
    folder = shutil.copytree(place / "outputs/sweep/algo.inner_lr=0.1,seed=0", tmp_path / "half")
    for name in ("results.json", "episodes.npz", "examples.npz", "test.png"):
        (folder / name).unlink()
    (evaluation,) = (folder / "eval").iterdir()
    done = run(tmp_path, "report", "half", str(evaluation.relative_to(tmp_path)), "csv=null")
    assert done.code == 0, done.err
    assert "the table is in" not in done.out
    assert re.search(r"half +not finished, step 20 ", done.out)
    assert re.search(
        r"note: half: not finished, step 20 of 20; last wrote \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; goes on after step 20 "
        r"with: metalearn train .*name=sweep/algo.inner_lr=0.1,seed=0\n",
        done.err,
    )
    page = Page(written(tmp_path, done, "page").read_text())
    assert "sinusoid, validation after the last inner step" in page.text  # as far as it has come
    assert "metalearn eval" in page.text
    assert "Not finished: nothing was tested yet." in page.text


def test_different_episodes_and_damaged_means_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", np.linspace(0, 1, 50), metric="mse")
    write_run(tmp_path / "b", [np.inf, *np.linspace(0, 1, 49)], metric="mse", sha256="b" * 64)
    done = run(tmp_path, "report", "a", "b")
    assert done.code == 0, done.err
    assert "tested on 2 different sets of episodes" in done.err
    assert "the mean is not finite: b" in done.err
    assert "diverged; they stand in the mean, so look at the median too: b (2.00%)" in done.err
    assert re.search(r"b +mse after 1 inner step +not finite", done.out)
    assert "has no picture" in Page(written(tmp_path, done, "page").read_text()).text


def test_runs_that_are_alike_stand_beside_each_other(tmp_path: Path) -> None:
    """`report outputs` is what somebody gives first, whatever is in there."""
    for name in ("outputs/once", "outputs/again"):
        write_run(tmp_path / name, np.linspace(0, 1, 50))
    done = run(tmp_path, "report", "outputs")
    assert done.code == 0, done.err
    assert "outputs/once" in done.out
    assert "outputs/again" in done.out
    assert "mean over" not in done.out


def test_a_name_is_text_and_never_markup(tmp_path: Path) -> None:
    write_run(tmp_path / "<script>alert(1)</script>", np.linspace(0, 1, 50), overrides={"x": "<img src=http://a>"})
    done = run(tmp_path, "report", "<script>alert(1)<*/script>")
    assert done.code == 0
    page = Page(written(tmp_path, done, "page").read_text())
    assert page.all("script") == page.all("img") == []
    assert "<script>alert(1)</script>" in page.text


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
    done = run(tmp_path, "report", "outputs/hand_optimizer", "outputs/learned_optimizer")
    assert done.code == 0
    page = Page(written(tmp_path, done, "page").read_text())
    assert "quadratics: test after each inner step, 0 before adapting" in page.text
    assert "rate 0.02" in page.text


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
    found = results(tmp_path / "lacking")
    del found["mean"]
    (tmp_path / "lacking/results.json").write_text(json.dumps(found))
    (tmp_path / "broken/results.json").write_text("{")
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, "report", *arguments)
    assert (done.code, done.out) == (1, "")
    assert sentence in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.html"))
    assert not list(tmp_path.glob("*.csv"))


def failed_sweep(tmp_path: Path) -> None:
    """Of a sweep one job is tested, one failed before its first step, one in its training, and one was killed."""
    write_run(tmp_path / "sw/seed=0", np.linspace(0, 1, 50))
    (tmp_path / "sw/seed=1").mkdir()
    (tmp_path / "sw/seed=1/train.log").write_text("2026-11-24 10:00:00 failed: no data\n")
    for seed in (2, 3):
        folder = write_run(tmp_path / f"sw/seed={seed}", np.linspace(0, 1, 50), seed)
        for name in ("results.json", "episodes.npz"):
            (folder / name).unlink()
    outcome = {"launch": "a", "number": 2, "values": "seed=2", "stopped": None, "failed": "the loss is not finite"}
    (tmp_path / "sw/seed=2/outcome.json").write_text(json.dumps(outcome))
    (tmp_path / "sw/seed=3/outcome.json").write_text(json.dumps({**outcome, "failed": NOT_ENDED}))


@pytest.mark.parametrize("argument", ["sw", "sw/*", "s*"])
def test_failed_jobs_are_named_with_their_sentence(argument: str, tmp_path: Path) -> None:
    failed_sweep(tmp_path)
    done = run(tmp_path, "report", argument)
    assert done.code == 0, done.err
    assert "note: sw/seed=1 failed: no data\n" in done.err
    assert "note: sw/seed=2: failed at step 20 of 20: the loss is not finite; last wrote" in done.err
    assert "note: sw/seed=3: not finished, step 20 of 20; last wrote" in done.err
    rows = {row["name"]: row for row in csv.DictReader(written(tmp_path, done, "table").read_text().splitlines())}
    assert {name: (row["state"], row["failed"]) for name, row in rows.items()} == {
        "sw/seed=0": ("finished", ""),
        "sw/seed=1": ("failed", "no data"),
        "sw/seed=2": ("failed", "the loss is not finite"),
        "sw/seed=3": ("not finished", ""),
    }
    assert re.search(r"^sw/seed=1 +failed$", done.out, re.MULTILINE)
    assert re.search(r"^sw/seed=2 +failed, step 20 ", done.out, re.MULTILINE)
    page = Page(written(tmp_path, done, "page").read_text())
    assert "sw/seed=1 failed: no data" in page.text
    assert "the loss is not finite" in page.text


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


def test_a_damaged_outcome_is_named(tmp_path: Path) -> None:
    failed_sweep(tmp_path)
    for content in ("{", "[]", '{"failed": ', "\ud800"):
        (tmp_path / "sw/seed=2/outcome.json").write_bytes(content.encode(errors="surrogatepass"))
        done = run(tmp_path, "report", "sw", "out=null")
        assert done.code == 0, done.err
        assert "note: sw/seed=2/outcome.json " in done.err
        assert "sw/seed=2: not finished, step 20 of 20" in done.err


def test_a_run_that_is_at_work(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "outputs/mine", np.linspace(0, 1, 50), config={"steps": 1000})
    (folder / "results.json").unlink()
    with lock(folder, True):
        done = run(tmp_path, "report", "outputs/mine", "csv=null")
        assert re.search(r"^outputs/mine +running, step 20 ", done.out, re.MULTILINE)
        assert re.search(
            rf"note: outputs/mine: running, step 20 of 1,000, last wrote .* \(pid {os.getpid()} on .*\)\n", done.err
        )
    page = Page(written(tmp_path, done, "page").read_text())
    assert [(one["value"], one["max"]) for one in page.all("progress")] == [("20", "1000")]
    done = run(tmp_path, "report", "outputs/mine", "csv=null")
    assert "nothing is saved: begins again with: metalearn train seed=0 name=mine" in done.err
    (folder / "checkpoints").mkdir()
    (folder / f"checkpoints/step-00000010-{'a' * 16}.safetensors").touch()
    done = run(tmp_path, "report", "outputs/mine", "csv=null")
    assert "goes on after step 10 with: metalearn train seed=0 name=mine" in done.err


def test_a_run_that_was_given_more_steps(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs/mine", np.linspace(0, 1, 50), config={"steps": 100})
    done = run(tmp_path, "report", "outputs/mine")
    assert "tested after 20 steps, which the figures are of, and was given more: not finished, step 20 of" in done.err
    assert "accuracy, % after 1 inner step " in done.out


def sweep_of(tmp_path: Path, tests: dict[tuple[float, int], tuple[float, float]]) -> None:
    """(lr, seed) -> the validation and the test of a job."""
    for (lr, seed), (validation, test) in tests.items():
        values = test + np.linspace(-0.01, 0.01, 50)
        config, given = {"optimizer.lr": lr}, {"optimizer.lr": lr}
        write_run(
            tmp_path / f"sw/lr={lr},seed={seed}", values, seed, config=config, overrides=given, validation=validation
        )


def test_the_best_setting_is_chosen_on_validation(tmp_path: Path) -> None:
    """Not by the test, and not by the single job that is the best of all."""
    sweep_of(
        tmp_path,
        {(0.1, 0): (0.80, 0.70), (0.1, 1): (0.82, 0.74), (0.2, 0): (0.90, 0.99), (0.2, 1): (0.60, 0.97)},
    )
    done = run(tmp_path, "report", "sw")
    # 0.72 +- t(1 degree of freedom) * 0.0283 / sqrt(2)
    (best,) = (line for line in done.out.splitlines() if line.startswith("sw: best"))
    assert best == (
        "sw: best on validation (accuracy 81.00 %): optimizer.lr=0.1; test accuracy 72.00 ± 25.41 % after 1 inner "
        "step, over 2 seeds"
    )
    text = written(tmp_path, done, "page").read_text()
    assert text.count('class="spread s0"') == 4  # in each of the two figures a line for each of the two settings
    assert "By optimizer.lr: a dot for each setting" in text


def test_a_setting_whose_job_has_no_figure_is_not_the_best(tmp_path: Path) -> None:
    sweep_of(tmp_path, {(lr, seed): (lr, 0.5) for lr in (0.1, 0.2, 0.3) for seed in (0, 1)})
    (tmp_path / "sw/lr=0.3,seed=1/results.json").unlink()
    done = run(tmp_path, "report", "sw", "out=null")
    assert "best on validation (accuracy 20.00 %): optimizer.lr=0.2; test accuracy 50.00" in done.out
    assert "(left out, since a job of it has no figure: optimizer.lr=0.3)\n" in done.out


def test_without_validation_the_best_is_said_to_flatter(tmp_path: Path) -> None:
    sweep_of(tmp_path, {(0.1, 0): (0.5, 0.7), (0.2, 0): (0.5, 0.6)})
    (tmp_path / "sw/lr=0.2,seed=0/metrics.jsonl").write_text("")
    done = run(tmp_path, "report", "sw", "out=null")
    assert (
        "best on the test, which flatters it (some job has no validation to choose by): optimizer.lr=0.1; " in done.out
    )
    assert "test accuracy 70.00 ± 0.16 % after 1 inner step, over 50 test episodes of one seed\n" in done.out


def test_a_pruned_job_is_called_so(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"sw/algo.inner_lr={seed}", np.linspace(0, 1, 50))
    folder = tmp_path / "sw/algo.inner_lr=2"
    for name in ("results.json", "episodes.npz"):
        (folder / name).unlink()
    pruned = "pruned at step 10 by MedianPruner, with 2 as its best validation mse beside 5 finished trials"
    outcome = {"launch": "a", "number": 2, "values": "algo.inner_lr=2", "stopped": None, "failed": None}
    (folder / "outcome.json").write_text(json.dumps({**outcome, "pruned": pruned}))
    done = run(tmp_path, "report", "sw")
    assert done.code == 0, done.err
    assert f"note: sw/algo.inner_lr=2: {pruned}, of 20; can be continued with: metalearn train" in done.err
    assert "not finished" not in done.err + done.out
    assert re.search(r"^sw/algo.inner_lr=2 +pruned, step 20 ", done.out, re.MULTILINE)


def test_a_search_is_drawn_in_its_order_by_its_validations_and_over_its_numbers(tmp_path: Path) -> None:
    """By name the first is the last; the best on the test is not the one that validation chooses, and one diverged."""
    tests, validations = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, math.inf], [0.9, 0.7, 0.1, 0.8, 0.8, 0.8, 0.8, 0.0]
    for number, (mean, value) in enumerate(zip(tests, validations, strict=True)):
        rate = f"{10.0**-number:g}"
        config, given = {"algo.inner_lr": float(rate)}, {"algo.inner_lr": rate}
        keys: dict[str, Any] = {"metric": "mse", "config": config, "overrides": given, "validation": value}
        folder = write_run(tmp_path / f"sw/algo.inner_lr={rate}", np.full(5, mean), **keys)
        (folder / "outcome.json").write_text(json.dumps({"number": number, "failed": None}))
        if math.isinf(mean):
            write_lines(folder / "metrics.jsonl", [{"step": step, "train/loss": 1.0} for step in (10, 20)])
    best, by_rate = sweeps.sweep_figures(parts(str(tmp_path / "sw")))
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
    for given in (
        *(("outputs/a",), ("outputs/sw",), ("outputs/a", "outputs/b"), ("outputs/a", "elsewhere/b"), ("outputs/*",)),
        ("outputs/sw/*",),
    ):
        pages = [written(tmp_path, run(tmp_path, "report", *given), "page") for _ in range(2)]
        assert pages[0] == pages[1]
        places[given] = pages[0].relative_to(tmp_path)
    assert len(set(places.values())) == len(places)
    assert places[("outputs/a",)] == Path("outputs/a/report.html")
    assert (tmp_path / "outputs/sw/results.csv").exists()
    assert re.fullmatch(r"outputs/report-a-b-[0-9a-f]{8}.html", str(places["outputs/a", "outputs/b"]))
    assert re.fullmatch(r"report-a-b-[0-9a-f]{8}.html", str(places["outputs/a", "elsewhere/b"]))
    assert re.fullmatch(r"outputs/report-[0-9a-f]{8}.html", str(places[("outputs/*",)]))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("res")] == []
    again = run(tmp_path, "report", "outputs/a", "out=page.html", "csv=null")
    assert again.out.endswith("the page is page.html\n")


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
