"""An evaluation in a folder of its own below the run's."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from commands import TINY, results, run, succeed
from omegaconf import OmegaConf

from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.sinusoid import Sinusoid


@pytest.mark.usefixtures("packed_omniglot")
def test_every_batch_norm_mode_stands_beside_the_headline(tmp_path: Path) -> None:
    for algo, headline in (("maml", "transductive"), ("protonet", "running")):
        small = ["task=omniglot", "model.filters=4", "task.query=2", "debug=quick", "threads=1"]
        done = run(tmp_path, "train", f"algo={algo}", *small, f"name={algo}")
        assert done.code == 0, done.err
        tested = results(tmp_path, algo)
        assert tested["batch_norm"] == headline
        others = {"transductive", "inductive", "running"} - {headline}
        assert set(tested["other_batch_norm"]) == others
        assert all(f"with batch norm {mode}" in done.out for mode in others)
        # One mode of one run is the headline of an evaluation in that mode: the same episodes, the same figure.
        done = run(tmp_path, "eval", f"run=outputs/{algo}", "batch_norm=inductive")
        assert done.code == 0, done.err
        (path,) = (tmp_path / "outputs" / algo / "eval").glob("omniglot-*/results.json")
        again = json.loads(path.read_text())
        assert again["batch_norm"] == "inductive"
        assert again["mean"] == tested["other_batch_norm"]["inductive"]["mean"]
        assert "one_query" not in done.out
    # A forward for each query is for who asks.
    done = run(tmp_path, "eval", "run=outputs/maml", "other_batch_norm=[one_query]")
    assert "with batch norm one_query" in done.out


@pytest.mark.usefixtures("packed_omniglot")
def test_eval_refuses_classes_that_the_run_was_trained_on_and_shapes_that_its_model_cannot_take(tmp_path: Path) -> None:
    small = ["algo=protonet", "model.filters=2", "task.query=1", "debug=quick", "steps=2", "other_batch_norm=[]"]
    assert run(tmp_path, "train", *small, "task.split=random1200", "select=last", "name=one").code == 0
    done = run(tmp_path, "eval", "run=outputs/one", "task.split=random1100", "test_episodes=4")
    assert done.code == 0, done.err  # the same 423 characters
    for task, sentence in (
        (["task.split=vinyals"], "of the 423 classes of this test were trained on by outputs/one, e.g. images_"),
        (["task.split_seed=5"], "take the split that it was trained with"),
        (["task=sinusoid"], "and the model of outputs/one takes classes of [1, 28, 28]"),
    ):
        refused = run(tmp_path, "eval", "run=outputs/one", *task)
        assert refused.code == 1
        assert sentence in refused.err
    (folder,) = (tmp_path / "outputs/one/eval").iterdir()
    refused = run(tmp_path, "eval", f"run={folder.relative_to(tmp_path)}")
    assert "is the folder of an evaluation: give run=outputs/one" in refused.err


def test_eval_on_another_distribution(tmp_path: Path) -> None:
    """Of the same shapes; one of others is refused in a sentence."""
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    done = run(tmp_path, "eval", "run=outputs/one", "task=sinusoid_frequency", "task.shot=4", "test_episodes=8")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "outputs/one/eval").glob("sinusoid_frequency-*")
    results = json.loads((folder / "results.json").read_text())
    assert (results["task"], results["episodes"], results["paper"]) == ("sinusoid_frequency", 8, None)
    assert OmegaConf.load(folder / "config.yaml").task.shot == 4
    refused = run(tmp_path, "eval", "run=outputs/one", "task=omniglot", "task.root=/nowhere")
    assert refused.code == 1
    assert "Traceback" not in refused.err


def test_eval_keeps_the_model_and_overwrites_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    before = (tmp_path / "outputs" / "one" / "results.json").read_bytes()
    first = run(tmp_path, "eval", "run=outputs/one")
    second = run(tmp_path, "eval", "run=outputs/one", "test_episodes=32", "algo.test_steps=1", "task.shot=3")
    assert first.code == second.code == 0, first.err + second.err
    assert (tmp_path / "outputs" / "one" / "results.json").read_bytes() == before
    evaluations = [json.loads(path.read_text()) for path in (tmp_path / "outputs/one/eval").glob("*/results.json")]
    same, other = sorted(evaluations, key=lambda one: one["episodes"])
    assert {key: same[key] for key in ("mean", "episodes_sha256", "step")} == {
        key: json.loads(before)[key] for key in ("mean", "episodes_sha256", "step")
    }
    assert other["episodes"] == 32
    assert len(other["per_step"]) == 2
    for mistake, sentence in (
        (["algo.inner_lr=1"], "algo.inner_lr belongs to the training"),
        (["seed=1"], "seed belongs to the training"),
        (["algo=protonet"], "algo belongs to the training"),
        (["task.shots=1"], "there is no key task.shots: did you mean task.shot?"),
        (["tset_episodes=5"], "there is no key tset_episodes: did you mean test_episodes?"),
        (["algo.test_step=5"], "did you mean algo.test_steps?"),
        (["hydra.run.dir=x"], "there is no key hydra.run.dir"),
        (["+task.slope=5"], "without the +"),
        (["task.shot=0"], "task.shot=0 must be a whole number, 1 or above"),
        (["run=outputs/none"], "is not the folder of a run"),
        (["task.shot=[1"], "is not of the form key=value"),
        (["task.shot=1,2"], "one value is expected"),
        (["+test_episodes=5"], "without the +"),
        (["test_episodes=${x}"], "test_episodes"),
        (["task=sinusoid_frequency", "tasks_per_chunk=abc"], "tasks_per_chunk=abc"),
    ):
        refused = run(tmp_path, "eval", "run=outputs/one", *mistake)
        assert refused.code == 1
        assert sentence in refused.err
        assert "Traceback" not in refused.err
    assert len(list((tmp_path / "outputs/one/eval").iterdir())) == 2


@pytest.mark.row("C11")
def test_eval_imports_nothing_that_a_run_folder_names_unless_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("open('it-ran', 'w')\n")
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    path = tmp_path / "outputs" / "one" / "config.yaml"
    good = path.read_text()
    for target in ("evil.Algorithm", "os.system", "logging.os.system"):
        path.write_text(good.replace("metalearn_cli.algorithms.maml.MAML", target))
        refused = run(tmp_path, "eval", "run=outputs/one")
        assert refused.code == 1
        assert "trust=true" in refused.err
        assert not (tmp_path / "it-ran").exists()
    path.write_text(good.replace("metalearn_cli.algorithms.maml.MAML", "evil.Algorithm"))
    path.write_text(path.read_text().replace("trust: false", "trust: true"))
    assert "trust=true" in run(tmp_path, "eval", "run=outputs/one").err  # the folder's own word does not count
    assert not (tmp_path / "it-ran").exists()
    run(tmp_path, "eval", "run=outputs/one", "trust=true")
    assert (tmp_path / "it-ran").exists()


def test_an_evaluation_that_is_stopped_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    draw = Sinusoid.draw

    def draw_and_raise(self: Sinusoid, tasks: int, which: str, rng: torch.Generator) -> Draw:
        os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, tasks, which, rng)

    monkeypatch.setattr(Sinusoid, "draw", draw_and_raise)
    stopped = run(tmp_path, "eval", "run=outputs/one", "test_episodes=128")
    assert stopped.code == 143
    assert "Traceback" not in stopped.err
    assert not list((tmp_path / "outputs/one/eval").iterdir())


def test_the_same_evaluation_finds_its_results_again(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    first = run(tmp_path, "eval", "run=outputs/one", "test_episodes=32")
    (folder,) = (tmp_path / "outputs/one/eval").iterdir()
    assert first.out.endswith(f"results are in {folder.relative_to(tmp_path)}\n")
    before = {
        path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".log" and path.name != "lock"
    }
    again = run(tmp_path, "eval", "run=outputs/one", "test_episodes=32", "expect=mse<1e-9")
    assert (again.code, again.out) == (3, first.out)
    assert "holds the results of this very evaluation" in again.err
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert run(tmp_path, "eval", "run=outputs/one", "test_episodes=33").code == 0
    # Other weights, as after more training: the run that is not finished has another newest checkpoint.
    (tmp_path / "outputs/one/results.json").unlink()
    tested = json.loads((folder / "results.json").read_text())["step"]
    for path in (tmp_path / "outputs/one/checkpoints").glob(f"step-{tested:08}-*"):
        path.unlink()
    assert run(tmp_path, "eval", "run=outputs/one", "test_episodes=32").code == 0
    assert len(list((tmp_path / "outputs/one/eval").iterdir())) == 3


@pytest.mark.usefixtures("packed_images")
def test_a_network_of_all_training_classes_is_tested_on_any_other(tmp_path: Path) -> None:
    small = [
        "model.filters=2",
        "task.query=1",
        "test_episodes=8",
        "eval_every=0",
        "select=last",
        "task.resample=nearest",
    ]
    learned = ["algo=pretrain", "task=omniglot", "algo.images=8", "tasks_per_step=2", "tasks_per_chunk=1"]
    succeed(tmp_path, "train", *learned, *small, "name=one", "steps=3")
    tested = json.loads((tmp_path / "outputs" / "one" / "results.json").read_text())
    assert (len(tested["per_step"]), tested["batch_norm"]) == (1, "running")
    for other in (["task.way=7"], ["task=cifar_fs", "task.query=1"]):
        succeed(tmp_path, "eval", "run=outputs/one", *other, "test_episodes=8")
    succeed(tmp_path, "train", *learned, *small, "name=two", "steps=2")
    succeed(tmp_path, "train", *learned, *small, "name=two", "steps=3")  # goes on to the same bits
    one, two = (tmp_path / "outputs" / name / "episodes.npz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
