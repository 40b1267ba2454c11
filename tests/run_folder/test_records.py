"""What stands in a folder beside its checkpoints is believed where it is as it was written, or where somebody says in
it that it was changed on purpose."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run, start, wait
from folders import rewrite
from places import MAML, take

import metalearn_cli
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning import scores
from metalearn_cli.run_folder import records, runs
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.proof import check_config
from metalearn_cli.run_folder.read import read_run
from metalearn_cli.run_folder.results import Results, StepResult, check_figures
from metalearn_cli.trained import export, predict  # noqa: F401 - the forks need not import them again
from metalearn_cli.trained.loading import read_stored
from metalearn_cli.training import test

TRAIN = ["train", "algo=maml", "task=sinusoid", "steps=4", "eval_every=2", "eval_episodes=4", "tasks_per_step=2"]
TRAIN += ["test_episodes=8", "model.hidden=[4]", "model.batch_norm=true", "algo.test_steps=2", "threads=1", "name=run"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with outputs/run, its evaluation, and its export."""
    folder = tmp_path_factory.mktemp("home")
    for command in (TRAIN, ["eval", "run=outputs/run", "test_episodes=4"], ["export", "run=outputs/run", "out=model"]):
        done = run(folder, *command)
        assert done.code == 0, done.err
    (folder / "points.csv").write_text("x,y\n-2,1.5\n1,0\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert re.search(old, text), text
    path.write_text(re.sub(old, new, text, count=1))


COMMANDS = {
    "predict": ["predict", "run=outputs/run", "support=points.csv", "query=points.csv"],
    "eval": ["eval", "run=outputs/run", "test_episodes=6"],
    "export": ["export", "run=outputs/run", "out=other"],
    "train": TRAIN,
    "prolong": [*TRAIN, "steps=6"],
    "report": ["report", "outputs/run", "out=null", "csv=null"],
}


@pytest.mark.row("A19")
@pytest.mark.parametrize("command", COMMANDS)
def test_one_digit_of_the_configuration_is_refused_by_every_command(here: Path, command: str) -> None:
    edit(here / "outputs/run/config.yaml", "inner_lr: 0.01", "inner_lr: 0.02")
    done = run(here, *COMMANDS[command])
    assert done.code == 1
    assert len(done.err.splitlines()) == 1, done.err
    assert "outputs/run/config.yaml is not as it was written, algo.inner_lr is 0.02 where " in done.err
    assert " has 0.01: put it back, or write `edited: true` into it to have it taken as it is" in done.err


def use_run(folder: Path) -> None:
    """Read a run as predict, eval, export and load do."""
    read_stored(folder, False)


@pytest.mark.row("A19")
@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("config.yaml", "test_steps: 2", "test_steps: 3", "algo.test_steps is 3 where .* has 2"),
        ("config.yaml", "episodes_seed: 0", "episodes_seed: 1", "episodes_seed is 1 where .* has 0"),
        ("config.yaml", "- 4", "- 5", r"model.hidden is \[5\] where .* has \[4\]"),
        ("config.yaml", "  inner_lr: 0.01\n", "", "algo.inner_lr is gone where .* has 0.01"),
        ("task.json", r"-5\.0", "-5.5", ""),
        ("results.json", '"mean": 4', '"mean": 3', ""),
        ("results.json", '"step": 4,', '"step": 2,', ""),
        ("results.json", '"seed": 0', '"seed": 1', ""),
        ("environment.json", '"data": "', '"data": "x', ""),
        ("environment.json", '"task": "sinusoid"', '"task": "steps"', ""),
    ],
)
@pytest.mark.parametrize("read", [use_run, read_run])
def test_one_place_of_a_run_is_refused(
    here: Path, name: str, old: str, new: str, said: str, read: Callable[[Path], object]
) -> None:
    edit(here / "outputs/run" / name, old, new)
    with pytest.raises(UserError, match=f"outputs/run/{name} is not as it was written.*{said}") as refused:
        read(Path("outputs/run"))
    assert "put it back, or write" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.row("A19")
def test_one_place_of_an_evaluation_is_refused(here: Path) -> None:
    (folder,) = (here / "outputs/run/eval").iterdir()
    changes = (("config.yaml", "inner_lr: 0.01", "inner_lr: 0.02"), ("results.json", '"mean": ', '"mean": 1'))
    for name, old, new in changes:
        whole = (folder / name).read_text()
        edit(folder / name, old, new)
        with pytest.raises(UserError, match=f"{name} is not as it was written"):
            read_run(folder)
        (folder / name).write_text(whole)
    edit(folder / "results.json", '"mean": ', '"mean": 1')
    done = run(here, "eval", "run=outputs/run", "test_episodes=4")
    assert (done.code, len(done.err.splitlines())) == (1, 1), done.err


@pytest.mark.row("A19")
def test_other_episodes_under_the_name_are_refused(here: Path) -> None:
    path = here / "outputs/run/episodes.npz"
    with np.load(path) as arrays:
        content = {name: array[::-1] for name, array in arrays.items()}  # the same mean
    np.savez(path, **content)
    with pytest.raises(UserError, match=r"episodes\.npz is not the file that results\.json beside it was made of"):
        read_run(Path("outputs/run"))
    assert "episodes.npz is not the file" in run(here, *TRAIN).err


@pytest.mark.row("A19")
@pytest.mark.parametrize(
    "place",
    [
        *(["mean"], ["ci95"], ["median"], ["per_step", 1, "mean"], ["per_step", 0, "diverged"]),
        ["other_batch_norm", "running", "ci95"],
    ],
)
def test_figures_of_an_earlier_version_are_those_of_the_episodes(here: Path, place: list[Any]) -> None:
    """Its results.json has no hash."""
    path = here / "outputs/run/results.json"
    content = records.read_json(path)
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] *= 1.001
    path.write_text(json.dumps(content))
    words = "".join(rf"\[{key}\]" if isinstance(key, int) else f".{key}" for key in place).lstrip(".")
    said = rf"results\.json: {words} is [0-9.]+, and by the values in episodes\.npz it is [0-9.]+: put it back, or m"
    with pytest.raises(UserError, match=said):
        read_run(Path("outputs/run"))


def test_the_figures_are_computed_as_they_were_summarised(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    metric = 20 * torch.rand(51, 4, generator=rng)
    metric[3, 1], metric[4, 2], metric[7:40, 3] = torch.nan, torch.inf, torch.inf
    np.savez(tmp_path / "episodes.npz", metric=metric.numpy(), loss=metric.numpy(), metric_running=metric[:, 1].numpy())
    diverged = scores.has_diverged("mse", metric, metric[:, 0])
    summaries = [scores.summarise(*both) for both in zip(metric.T, diverged.T, strict=True)]
    steps = tuple(StepResult(number, *summary) for number, summary in enumerate(summaries))
    results = Results(
        **{"episodes": 51, "episodes_sha256": "", "metric": "mse", "seed": 0, "step": 1, "steps": 1, "per_step": steps},
        **{"mean": steps[-1].mean, "ci95": steps[-1].ci95, "median": steps[-1].median},
        other_batch_norm={"running": summaries[1]},
    )
    check_figures(tmp_path, results)
    with pytest.raises(UserError, match=r"per_step\[3\]\.mean is 3, and by the values in episodes\.npz it is None"):
        check_figures(tmp_path, replace(results, per_step=(*steps[:3], replace(steps[3], mean=3))))
    beside = {
        "brier": metric[:, 0],
        "log_likelihood": -metric[:, 0],
        "calibration": torch.rand(51, 3, 15, generator=rng),
        "pit": torch.rand(51, 20, generator=rng),
    }
    arrays = {name: values.numpy() for name, values in {"metric": metric, "loss": metric, **beside}.items()}
    np.savez(tmp_path / "episodes.npz", **arrays)
    shown = scores.figures_beside(beside)
    assert shown.keys() == {"brier", "log_likelihood", "ece", "calibration_error"}
    check_figures(tmp_path, replace(results, other_batch_norm={}, beside=shown))
    for name, row in shown.items():
        with pytest.raises(UserError, match=rf"beside\.{name}\.mean is 0.25, and by the values in episodes\.npz it is"):
            check_figures(tmp_path, replace(results, beside=shown | {name: row._replace(mean=0.25)}))
    np.savez(tmp_path / "episodes.npz", **arrays | {"calibration": np.zeros((51, 3, 14))})
    with pytest.raises(UserError, match=r"calibration is float64 of shape \[51, 3, 14\], and .* says \[51, 3, 15\]"):
        check_figures(tmp_path, results)


def test_killed_between_the_values_and_their_figures_a_prolonged_run_has_neither_old_nor_wrong_ones(here: Path) -> None:
    def patch() -> None:
        test.picture = lambda tasks: os._exit(9)

    assert wait(here, start(here, *COMMANDS["prolong"], first=patch)).code == 9
    assert not (here / "outputs/run/results.json").exists()
    read_run(Path("outputs/run"))
    use_run(Path("outputs/run"))
    done = run(here, *COMMANDS["prolong"])
    assert done.code == 0, done.err
    read_run(Path("outputs/run"))


@pytest.mark.row("A19")
def test_what_was_changed_on_purpose_is_taken_as_it_stands_which_is_said(here: Path) -> None:
    folder = here / "outputs/run"
    before = run(here, *COMMANDS["predict"])
    edit(folder / "config.yaml", "inner_lr: 0.01", "inner_lr: 5.0")
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + "edited: true\n")
    rewrite(folder / "environment.json", json.loads((folder / "environment.json").read_text()) | {"data": "0"})
    said = "outputs/run/config.yaml was changed on purpose, and is taken as it stands: algo.inner_lr is 5.0 where "
    for name in ("predict", "export", "report"):
        done = run(here, *COMMANDS[name])
        assert done.code == 0, done.err
        assert done.err.count(said) == 1, done.err
        assert "outputs/run/environment.json was changed on purpose, and is taken as it stands" in done.err
    assert run(here, *COMMANDS["predict"]).out != before.out
    for name in ("train", "prolong"):
        refused = run(here, *COMMANDS[name])
        assert refused.code == 1
        assert "a training cannot go on from there: put it back, or take another name" in refused.err, refused.err


@pytest.mark.row("A19")
def test_an_export_is_hashed_as_a_whole(here: Path) -> None:
    predicting = ["predict", "run=model", "support=points.csv", "query=points.csv"]
    path = here / "model/model.json"
    whole = path.read_text()
    for old, new in (('inner_lr": 0.01', 'inner_lr": 0.02'), (r"-5\.0", "-5.5"), ('"step": 4', '"step": 3')):
        edit(path, old, new)
        done = run(here, *predicting)
        assert done.code == 1
        assert "model/model.json is not as it was written, its content does not have the hash that stands" in done.err
        with pytest.raises(UserError, match="not as it was written"):
            metalearn_cli.load("model")
        path.write_text(whole)
    content = json.loads(whole)
    del content["content_sha256"]
    path.write_text(json.dumps(content))  # as an earlier version wrote it
    done = run(here, *predicting)
    assert done.code == 0
    assert done.err.count("model is of a version that kept no hashes: nothing proves that model.json") == 1, done.err
    rewrite(path, content)
    assert "model/model.json was changed on purpose, and is taken as it stands\n" in run(here, *predicting).err


def test_a_run_of_an_earlier_version_is_accepted_with_one_sentence(tmp_path: Path) -> None:
    folder = take(MAML, tmp_path)
    (tmp_path / "points.csv").write_text("x,y\n-2,1.5\n1,0\n")
    said = "outputs/run is of a version that kept no hashes: nothing proves that config.yaml, environment.json, "
    words = (MAML / "overrides.txt").read_text().splitlines()
    note = (
        "note: made by a version that kept no hashes: nothing proves that the files are as it wrote them: outputs/run"
    )
    assert note in run(tmp_path, *COMMANDS["report"]).err
    for command in (["eval", "run=outputs/run"], COMMANDS["predict"], ["train", *words], ["train", *words, "steps=25"]):
        done = run(tmp_path, *command)
        assert done.code == 0, done.err
        assert done.err.count(said) == 1, done.err
        assert done.err.count("kept no hashes") == 1, done.err
    assert "kept no hashes" not in run(tmp_path, *COMMANDS["predict"]).err  # all is written by this version now
    edit(folder / "config.yaml", "inner_lr: 0.01", "inner_lr: 0.02")
    assert run(tmp_path, *COMMANDS["predict"]).code == 1


def test_only_what_decides_and_was_saved_is_compared(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 5\n")
    saved = {"algo.inner_lr": 0.1, "steps": 5, "device": "cpu", "paper.mean": 0.9, "task.noise": float("nan")}
    now = saved | {"steps": 9, "device": "cuda", "paper.mean": 0.8, "algo.new": 1, "task.noise": float("nan")}
    assert check_config(tmp_path, now, saved, "it") == []
    assert check_config(tmp_path, now, None, "it") == []
    with pytest.raises(UserError, match=r"algo\.inner_lr is 0\.2 where it has 0\.1: put it back"):
        check_config(tmp_path, now | {"algo.inner_lr": 0.2}, saved, "it")
    with pytest.raises(UserError, match=r"key2 is gone where it has 2, and 7 keys more: put it back"):
        check_config(tmp_path, {}, {f"key{number}": number for number in range(10)}, "it")


@pytest.mark.parametrize("given", [[], ["experiment=protonet/omniglot_quick"], ["algo=reptile", "task=quadratics"]])
def test_what_decides_is_the_same_when_it_was_written_and_read(tmp_path: Path, given: list[str]) -> None:
    job = load_job(given)
    runs.write_records(tmp_path, job, given, "")
    kept = json.loads(json.dumps(runs.deciding(job.config)))
    assert kept == runs.deciding(load_config(tmp_path / "config.yaml"))
    assert not kept.keys() & {"name", "steps", "device", "save_every", "paper"}


def test_a_run_that_was_killed_before_it_was_tested_again_goes_on(here: Path) -> None:
    edit(here / "outputs/run/config.yaml", "test_episodes: 8", "test_episodes: 24")
    again = run(here, *TRAIN, "test_episodes=24")
    assert again.code == 0, again.err
    assert records.unsealed(path := here / "outputs/run/results.json", json.loads(path.read_text()))["episodes"] == 24


def test_a_papers_figure_stands_in_the_results_as_in_the_configuration(tmp_path: Path) -> None:
    """Also what it leaves open, and keys of the user's own."""
    paper = "paper={mean:0.5,ci95:null,source:mine,page:7}"
    assert run(tmp_path, *TRAIN, paper).code == 0
    written = json.loads((tmp_path / "outputs/run/results.json").read_text())["paper"]
    assert written == {"mean": 0.5, "ci95": None, "source": "mine", "page": 7}
    edit(tmp_path / "outputs/run/results.json", r'"mean": 0.5', '"mean": "much"')
    edit(tmp_path / "outputs/run/results.json", r'"metric"', '"edited": true, "metric"')
    refused = run(tmp_path, "eval", "run=outputs/run")
    assert refused.code == 1
    assert "results.json: paper.mean is 'much', and a finite number is expected" in refused.err
