"""One training in its folder: what it leaves, draws, says and returns."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, refuse, results, run, start, succeed
from folders import rewrite
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import pictures, train

from metalearn_cli.run_folder import records
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.sinusoid import Sinusoid


def test_a_run_leaves_what_the_readme_promises(tmp_path: Path) -> None:
    done = run(tmp_path, "train", *TINY, "name=one")
    assert done.code == 0, done.err
    assert done.out.startswith("test mse over 16 episodes")
    assert done.out.endswith("results are in outputs/one\n")
    folder = tmp_path / "outputs" / "one"
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert names == {
        *("checkpoints", "choices", "config", "environment", "episodes", "events", "examples", "lock", "metrics"),
        *("overrides", "results", "task", "test", "timing", "train"),
    }
    content = json.loads((folder / "results.json").read_text())
    assert content["split"] == "test"
    assert content["episodes"] == 16
    assert content["metric"] == "mse"
    assert content["batch_norm"] is None
    assert [row["step"] for row in content["per_step"]] == [0, 1, 2]
    assert content["mean"] == content["per_step"][-1]["mean"]
    with np.load(folder / "episodes.npz") as episodes:
        assert episodes["metric"].shape == (16, 3)
        assert episodes["metric"][:, -1].mean() == pytest.approx(content["mean"])
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["choices"]["algo"] == "maml"
    assert OmegaConf.load(folder / "config.yaml").steps == 20
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "val/mse" in line] == [10, 20]


@pytest.mark.row("D1")
def test_the_same_seed_gives_the_same_metrics_and_another_seed_the_same_episodes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(tmp_path, "train", *TINY, f"name={name}", f"seed={seed}").code == 0
    metrics = [(tmp_path / "outputs" / name / "metrics.jsonl").read_bytes() for name in "abc"]
    assert metrics[0] == metrics[1] != metrics[2]
    hashes = [results(tmp_path, name)["episodes_sha256"] for name in "abc"]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.row("D1")
def test_tasks_are_functions_of_seed_and_step_and_episodes_of_their_own_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each draw of a run, by its split and its generator."""
    draw = Sinusoid.draw

    def draw_and_record(self: Sinusoid, tasks: int, which: str, rng: torch.Generator) -> Draw:
        with open("draws", "a") as file:
            file.write(f"{which} {rng.initial_seed()}\n")
        return draw(self, tasks, which, rng)

    monkeypatch.setattr(Sinusoid, "draw", draw_and_record)
    assert run(tmp_path, "train", *TINY, "seed=3", "episodes_seed=5", "name=one").code == 0
    draws = {tuple(line.split()) for line in (tmp_path / "draws").read_text().splitlines()}
    train = {("train", str(generator(3, "train", step).initial_seed())) for step in range(20)}
    held_out = {(split, str(generator(5, split, 0).initial_seed())) for split in ("val", "test")}
    assert draws == train | held_out


def test_what_was_learned_is_said_and_written(tmp_path: Path) -> None:
    quick = ["task=quadratics", "task.dimension=3", "debug=quick", "steps=2", "eval_every=0", "select=last"]
    done = run(tmp_path, "train", "algo=hand_optimizer", "algo.rates=[0.001,0.02]", *quick, "name=hand")
    assert "learned: rate 0.02" in done.out
    assert json.loads((tmp_path / "outputs/hand/results.json").read_text())["learned"] == {"rate": 0.02}
    done = run(tmp_path, "train", "algo=meta_sgd", "algo.initial_lr=[0.03,0.03]", "optimizer.lr=0", *quick, "name=meta")
    assert "learned: median_rate 0.03, lowest_rate 0.03, highest_rate 0.03" in done.out


def test_a_transductive_head_is_told_wherever_its_figures_stand(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nfrom metalearn_cli.algorithms.maml import MAML\n"
        "@dataclass(frozen=True)\nclass Together(MAML):\n    transductive_head = True\n"
    )
    own = [*TINY, "algo._target_=own.Together"]
    assert succeed(tmp_path, "train", *own, "name=a").out.startswith("test mse over 16 episodes, transductive head\n")
    assert results(tmp_path, "a")["transductive_head"] is True
    succeed(tmp_path, "train", *TINY, "name=b")
    assert results(tmp_path, "b")["transductive_head"] is False
    content = results(tmp_path, "b")
    del content["transductive_head"]  # as earlier versions wrote it
    rewrite(tmp_path / "outputs/b/results.json", content)
    for words in (["train", *own, "name=c"], ["eval", "run=outputs/a", "trust=true"]):
        said = "batch_norm=one_query shows each query by itself, and this algorithm predicts all queries of a task tog"
        assert said in refuse(tmp_path, *words, "batch_norm=one_query")
    compared = succeed(tmp_path, "compare", "outputs/a", "outputs/b").out
    assert "note: only some have a transductive head" in compared
    assert "none, transductive head" in compared
    reported = succeed(tmp_path, "report", "outputs/a", "outputs/b", "csv=table.csv")
    assert "a transductive head: the query examples of a task help to classify each other: outputs/a\n" in reported.err
    assert reported.out.count("transductive head") == 1
    assert [row.rpartition(",")[2] for row in (tmp_path / "table.csv").read_text().split()[1:]] == ["True", "False"]
    (tmp_path / "points.csv").write_text("x,y\n1,2\n")
    words = ["predict", "run=outputs/a", "trust=true", "support=points.csv", "query=points.csv", "out=p.csv"]
    assert "a prediction depends on its neighbours" in succeed(tmp_path, *words).err
    assert "one_query shows each query by itself" in refuse(tmp_path, *words, "batch_norm=one_query")


@pytest.mark.parametrize(("expect", "code"), [("mse>0", 0), ("mse < 1e9", 0), ("mse_step1<=0", 3), ("mse<=0.001", 3)])
def test_expect_decides_the_exit_code_also_of_a_finished_run(tmp_path: Path, expect: str, code: int) -> None:
    for _ in range(2):
        done = run(tmp_path, "train", *TINY, "name=one", f"expect={expect}")
        assert done.code == code, done.err
        mean = results(tmp_path, "one")["per_step"][1 if "step1" in expect else 2]["mean"]
        sentence = f"{expect.partition('<')[0].strip()} is {mean:.6g} and falls short of expect={expect!r}"
        assert (sentence in done.err) is (code == 3), done.err
    assert "already finished" in done.err


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "a(b)[c]",
        "k=v,w",
        "café",
        "1e5",
        'it\'s "quoted"',
        "null-ish",
        "a>=b",
        "back\\slash",
        "a#b",
        "{a:1}",
    ],
)
def test_names_are_taken_as_they_stand(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, "train", *TINY, f"name={name}")
    assert done.code == 0, done.err
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == [name]
    assert "already finished" in run(tmp_path, "train", *TINY, f"name={name}").err
    assert run(tmp_path, "eval", f"run=outputs/{name}").code == 0


def test_a_test_that_diverges_still_leaves_its_results(tmp_path: Path) -> None:
    done = run(tmp_path, "train", *TINY, "name=one", "algo.inner_lr=1", "algo.test_steps=200")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "outputs/one/results.json").read_text())
    assert content["mean"] is None
    assert content["per_step"][-1]["diverged"] == 1


def test_the_published_figure_stands_beside_its_own_protocol_only(tmp_path: Path) -> None:
    row = ["train", "experiment=maml/sinusoid", "steps=5", "test_episodes=8"]
    assert "published after 1 inner step(s): 0.67" in run(tmp_path, *row, "name=one").out
    assert "published" not in run(tmp_path, *row, "name=two", "task.shot=10").out
    assert "published" in run(tmp_path, "eval", "run=outputs/one").out
    assert "published" not in run(tmp_path, "eval", "run=outputs/one", "task.shot=3").out


def test_a_long_adaptation_is_shown_in_short_and_kept_whole(tmp_path: Path) -> None:
    done = run(tmp_path, "train", "algo=maml", "debug=quick", "algo.test_steps=50", "name=long")
    shown = [int(words[0]) for words in map(str.split, done.out.splitlines()) if words and words[0].isdigit()]
    assert shown == [0, 1, 2, 3, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert len(json.loads((tmp_path / "outputs/long/results.json").read_text())["per_step"]) == 51


@pytest.mark.usefixtures("packed_omniglot")
def test_a_task_without_validation_classes_is_not_validated(tmp_path: Path) -> None:
    small = ["algo=protonet", "model.filters=4", "task.query=2", "debug=quick", "threads=1"]
    done = run(tmp_path, "train", *small, "task.split=random1200", "select=last", "name=one")
    assert done.code == 0, done.err
    assert "no validation: task=omniglot has no validation classes with this split" in done.err
    assert "val" not in (tmp_path / "outputs/one/metrics.jsonl").read_text()
    assert OmegaConf.load(tmp_path / "outputs/one/config.yaml").eval_every == 0
    # Who only tests needs no validation classes, and not so many of them.
    only = ["task.way=700", "task.query=1", "test_episodes=1"]
    assert run(tmp_path, "train", *small, "name=two").code == 0
    assert run(tmp_path, "eval", "run=outputs/one", "task.split_seed=0", "task.shot=2").code == 0
    assert run(tmp_path, "eval", "run=outputs/two", *only, "other_batch_norm=[]").code == 0
    refused = run(tmp_path, "eval", "run=outputs/two", "task.way=1700")
    assert "of the test split" in refused.err


@pytest.mark.nightly
@pytest.mark.row("B2")
def test_sixteen_launches_at_once_make_sixteen_folders(tmp_path: Path) -> None:
    pids = [start(tmp_path, "train", *TINY) for _ in range(16)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 16
    assert len(list((tmp_path / "outputs").glob("*/*/results.json"))) == 16


def test_a_training_that_fails_says_so_once(tmp_path: Path) -> None:
    failed = run(tmp_path, "train", *TINY, "name=one", "optimizer=sgd", "optimizer.lr=1e30")
    assert failed.code == 1
    assert failed.err.count("is not finite") == 1
    assert (tmp_path / "outputs/one/train.log").read_text().count("is not finite") == 1
    swept = run(tmp_path, "train", "-m", *TINY, "name=two", "optimizer=sgd", "optimizer.lr=1e30,2e30")
    assert swept.err.count("is not finite") == 2
    for log in (tmp_path / "outputs/two").glob("*/train.log"):
        assert log.read_text().count("is not finite") == 1


def test_tensorboard_has_the_losses_the_inner_steps_and_the_pictures(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    events = EventAccumulator(str(tmp_path / "outputs" / "one")).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/mse", "val/mse_step0", "val/mse_step1", "test/mse_over_inner_steps"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in events.Scalars("test/mse_over_inner_steps")] == [0, 1, 2]
    assert [event.step for event in events.Images("val/tasks")] == [10, 20]


def test_a_log_likelihood_chooses_the_highest_validation_and_has_the_error_beside_it(tmp_path: Path) -> None:
    keys = [*TINY, "task.likelihood=gaussian", "task.noise=0.1", "eval_every=5", "optimizer.lr=0.1", "name=one"]
    done = run(tmp_path, "train", *keys, "expect=log_likelihood>=100")
    assert (done.code, "falls short of expect" in done.err) == (3, True), done.err
    content = results(tmp_path, "one")
    lines = (tmp_path / "outputs/one/metrics.jsonl").read_text().splitlines()
    validated = {line["step"]: line["val/log_likelihood"] for line in map(json.loads, lines) if "val/loss" in line}
    assert content["step"] == max(validated, key=lambda step: validated[step])
    assert content["step"] != min(validated, key=lambda step: validated[step])
    assert content["metric"] == "log_likelihood"
    assert {"mse", "rmse", "crps", "coverage_90", "oracle_gap"} <= content["beside"].keys()
    gap = content["baselines"]["oracle"]["mean"] - content["mean"]
    assert content["beside"]["oracle_gap"]["mean"] == pytest.approx(gap, rel=1e-5)
    assert content["baselines"].keys() == {"constant", "constant_mse", "oracle", "oracle_floored", "oracle_mse"}
    assert content["mean"] < content["baselines"]["oracle"]["mean"]
    with np.load(tmp_path / "outputs/one/episodes.npz") as episodes:
        assert episodes["mse"].mean() == pytest.approx(content["beside"]["mse"]["mean"], rel=1e-5)
    assert "mse " in done.out
    assert run(tmp_path, "report", "outputs/one").code == 0
    assert "mse" in (tmp_path / "outputs/one/report.html").read_text()
    other = run(tmp_path, "eval", "run=outputs/one", "task=sinusoid_frequency", "test_episodes=8")
    assert (other.code, "test log_likelihood" in other.out) == (0, True), other.err  # with the likelihood of the run
    refused = run(tmp_path, "eval", "run=outputs/one", "task.deviation_floor=0.2").err
    assert "has another task.likelihood, or another key of it, than" in refused


def test_classes_have_their_calibration_beside_the_accuracy(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    folder = train(tmp_path, "maml", images)
    content = json.loads((folder / "results.json").read_text())
    with np.load(folder / "episodes.npz") as episodes:
        assert content["beside"]["log_likelihood"]["mean"] == pytest.approx(-episodes["loss"][:, -1].mean(), rel=1e-5)
        number, confidence, right = episodes["calibration"].astype(np.float64).sum(0)
        assert right.sum() / number.sum() == pytest.approx(content["mean"])
        assert content["beside"]["ece"] == {
            **{"mean": pytest.approx(np.abs(confidence - right).sum() / number.sum()), "ci95": None, "median": None}
        }
        assert 0 < content["beside"]["brier"]["mean"] < 2
        assert episodes["brier"].shape == (4,)
    done = run(tmp_path, "eval", "run=outputs/one", "test_episodes=3")
    assert "beside, after the last step: log_likelihood -" in done.out


def test_pictures_have_their_nearest_neighbour_beside_the_accuracy(tmp_path: Path) -> None:
    images = pictures(tmp_path / "images")
    keys = ["test_episodes=8", "task.shot=1", "optimizer.lr=0"]
    folder, _ = (train(tmp_path, "protonet", images, *keys, f"seed={seed}", name=str(seed)) for seed in (1, 2))
    screen = (tmp_path / "out").read_text()
    figures = results(tmp_path, "1")["baselines"]["nearest_pixels"]
    assert results(tmp_path, "2")["baselines"]["nearest_pixels"] == figures  # on the same episodes
    with np.load(folder / "episodes.npz") as episodes:
        each = episodes["baseline_nearest_pixels"]
    half = 1.96 * each.std() / np.sqrt(8)
    assert (figures["mean"], figures["ci95"]) == (each.mean(), pytest.approx(half))
    shown = f"nearest_pixels: {100 * each.mean():.2f} +- {100 * half:.2f}"
    assert shown in screen
    unlearned = "better than 1-NN on pixels"
    assert f"nothing shows that it is {unlearned}: outputs/1" in succeed(tmp_path, "report", "outputs/1").err
    assert shown in (folder / "report.html").read_text()
    compared = succeed(tmp_path, "compare", "outputs/1", "outputs/2", "out=c.json").out
    assert f"nothing shows on these episodes that outputs/2 is {unlearned}" in compared
    assert re.search(rf"1-NN on pixels +{100 * each.mean():.2f} ", compared)
    written = json.loads((tmp_path / "c.json").read_text())["baselines"]
    assert written == {"nearest_pixels": {"mean": pytest.approx(each.mean()), "episodes": 8}}
    content = {key: value for key, value in results(tmp_path, "1").items() if key != records.HASH}
    content["baselines"]["nearest_pixels"]["mean"] = 0.25
    records.write_record(folder / "results.json", content)
    refused = refuse(tmp_path, "report", "outputs/1")
    assert "baselines.nearest_pixels.mean is 0.25, and by the values in episodes.npz it is" in refused
