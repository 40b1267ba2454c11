"""The real command, as a user gives it."""

import contextlib
import importlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Finished, is_running, run, start, wait
from folders import rewrite
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metalearn_cli.cli import main
from metalearn_cli.commands.completion import COMPLETION, completions
from metalearn_cli.commands.help import HELPS
from metalearn_cli.config import conf_folder
from metalearn_cli.seeding import generator
from metalearn_cli.sweep import sweep_job
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.sinusoid import Sinusoid

TINY = ["model.hidden=[8]", "algo.test_steps=2", "threads=1", "debug=quick"]


def results(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "outputs" / name / "results.json").read_text())
    return found


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
    found = json.loads((folder / "results.json").read_text())
    assert found["split"] == "test"
    assert found["episodes"] == 16
    assert found["metric"] == "mse"
    assert found["batch_norm"] is None
    assert [row["step"] for row in found["per_step"]] == [0, 1, 2]
    assert found["mean"] == found["per_step"][-1]["mean"]
    with np.load(folder / "episodes.npz") as episodes:
        assert episodes["metric"].shape == (16, 3)
        assert episodes["metric"][:, -1].mean() == pytest.approx(found["mean"])
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


@pytest.mark.usefixtures("packed_omniglot")
def test_every_batch_norm_mode_stands_beside_the_headline(tmp_path: Path) -> None:
    for algo, headline in (("maml", "transductive"), ("protonet", "running")):
        small = ["task=omniglot", "model.filters=4", "task.query=2", "debug=quick", "threads=1"]
        done = run(tmp_path, "train", f"algo={algo}", *small, f"name={algo}")
        assert done.code == 0, done.err
        found = results(tmp_path, algo)
        assert found["batch_norm"] == headline
        others = {"transductive", "inductive", "running"} - {headline}
        assert set(found["other_batch_norm"]) == others  # type: ignore[call-overload]
        assert all(f"with batch norm {mode}" in done.out for mode in others)
        # One mode of one run is the headline of an evaluation in that mode: the same episodes, the same figure.
        done = run(tmp_path, "eval", f"run=outputs/{algo}", "batch_norm=inductive")
        assert done.code == 0, done.err
        (path,) = (tmp_path / "outputs" / algo / "eval").glob("omniglot-*/results.json")
        again = json.loads(path.read_text())
        assert again["batch_norm"] == "inductive"
        assert again["mean"] == found["other_batch_norm"]["inductive"]["mean"]  # type: ignore[index]
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


def test_sentences_that_name_the_way_out(tmp_path: Path) -> None:
    """A sweep's folder for eval, two options for train, and the key of a class of one's own without a +."""
    assert run(tmp_path, "train", *TINY, "-m", "seed=0,1", "name=sweep").code == 0
    refused = run(tmp_path, "eval", "run=outputs/sweep")
    assert "is the folder of a sweep: give one of its runs, e.g. run=outputs/sweep/seed=0" in refused.err
    refused = run(tmp_path, "train", "-m", "seed=0,1", "--cfg", "job")
    assert (refused.code, "--cfg job prints one job" in refused.err) == (2, True)
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\n"
        "from metalearn_cli.algorithms.maml import MAML\n"
        "@dataclass(frozen=True)\n"
        "class Own(MAML):\n"
        "    width: int = 1\n"
    )
    refused = run(tmp_path, "train", "algo._target_=own.Own", "+algo.depth=2")
    assert "a class's keys are the fields of its frozen dataclass: depth: int = 1" in refused.err
    refused = run(tmp_path, "train", "algo._target_=own.Own", "algo.width=2")
    assert "there is no key algo.width: give +algo.width=... for a key of your own class" in refused.err


def test_what_was_learned_is_said_and_written(tmp_path: Path) -> None:
    quick = ["task=quadratics", "task.dimension=3", "debug=quick", "steps=2", "eval_every=0", "select=last"]
    done = run(tmp_path, "train", "algo=hand_optimizer", "algo.rates=[0.001,0.02]", *quick, "name=hand")
    assert "learned: rate 0.02" in done.out
    assert json.loads((tmp_path / "outputs/hand/results.json").read_text())["learned"] == {"rate": 0.02}
    done = run(tmp_path, "train", "algo=meta_sgd", "algo.initial_lr=[0.03,0.03]", "optimizer.lr=0", *quick, "name=meta")
    assert "learned: median_rate 0.03, lowest_rate 0.03, highest_rate 0.03" in done.out


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
    found = [json.loads(path.read_text()) for path in (tmp_path / "outputs/one/eval").glob("*/results.json")]
    same, other = sorted(found, key=lambda one: one["episodes"])
    assert {key: same[key] for key in ("mean", "episodes_sha256", "step")} == {
        key: json.loads(before)[key] for key in ("mean", "episodes_sha256", "step")
    }
    assert other["episodes"] == 32
    assert len(other["per_step"]) == 2
    for mistake, sentence in (
        (["algo.inner_lr=1"], "algo.inner_lr belongs to the training"),
        (["seed=1"], "seed belongs to the training"),
        (["algo=protonet"], "algo belongs to the training"),
        (["task.shots=1"], "the run's task has no key shots: did you mean task.shot?"),
        (["tset_episodes=5"], "there is no key tset_episodes: did you mean test_episodes?"),
        (["algo.test_step=5"], "did you mean algo.test_steps?"),
        (["hydra.run.dir=x"], "there is no key hydra.run.dir"),
        (["+task.slope=5"], "without the +"),
        (["task.shot=0"], "task.shot=0 must be a whole number, 1 or above"),
        (["run=outputs/none"], "is not the folder of a run"),
        (["task.shot=[1"], "is not of the form key=value"),
        (["task.shot=1,2"], "one value is wanted"),
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


@pytest.mark.parametrize(
    ("expect", "code"),
    [("mse>0", 0), ("mse < 1e9", 0), ("mse_step1<=0", 3), ("mse<=0.001", 3)],
)
def test_expect_decides_the_exit_code_also_of_a_finished_run(tmp_path: Path, expect: str, code: int) -> None:
    for _ in range(2):
        done = run(tmp_path, "train", *TINY, "name=one", f"expect={expect}")
        assert done.code == code, done.err
        found = results(tmp_path, "one")["per_step"][1 if "step1" in expect else 2]["mean"]  # type: ignore[index]
        sentence = f"{expect.partition('<')[0].strip()} is {found:.6g} and falls short of expect={expect!r}"
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
    found = json.loads((tmp_path / "outputs/one/results.json").read_text())
    assert found["mean"] is None
    assert found["per_step"][-1]["diverged"] == 1


def test_the_published_figure_stands_beside_its_own_protocol_only(tmp_path: Path) -> None:
    row = ["train", "experiment=maml/sinusoid", "steps=5", "test_episodes=8"]
    assert "published after 1 inner step(s): 0.67" in run(tmp_path, *row, "name=one").out
    assert "published" not in run(tmp_path, *row, "name=two", "task.shot=10").out
    assert "published" in run(tmp_path, "eval", "run=outputs/one").out
    assert "published" not in run(tmp_path, "eval", "run=outputs/one", "task.shot=3").out


def test_a_run_folder_that_is_damaged_is_named(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    folder = tmp_path / "outputs" / "one"
    for name, content in (
        ("config.yaml", "a: [1"),
        ("config.yaml", ""),
        ("results.json", "{"),
        ("environment.json", ""),
    ):
        good = (folder / name).read_bytes()
        (folder / name).write_text(content)
        for command in (["train", *TINY, "name=one", "steps=30"], ["eval", "run=outputs/one"]):
            refused = run(tmp_path, *command)
            if (name, command[0]) != ("environment.json", "eval"):
                assert refused.code == 1
            assert "Traceback" not in refused.err, refused.err
            assert refused.code == 0 or name in refused.err
        (folder / name).write_bytes(good)


def test_the_first_job_of_a_sweep_does_not_set_the_threads_of_the_next(tmp_path: Path) -> None:
    one = ["debug=quick", "model.hidden=[8]", "algo.test_steps=2"]
    assert run(tmp_path, "train", *one, "threads=null", "name=alone").code == 0
    assert run(tmp_path, "train", "-m", *one, "threads=3,null", "name=both").code == 0
    alone, first, second = (
        json.loads((tmp_path / "outputs" / name / "choices.json").read_text())["threads"]
        for name in ("alone", "both/threads=3", "both/threads=null")
    )
    assert first == 3
    assert second == alone


def test_a_sweep_that_cannot_succeed_creates_nothing(tmp_path: Path) -> None:
    for mistake in ("steps=abc", "+foo=1", "expect=foo", "name=../up", "name=/abs"):
        refused = run(tmp_path, "train", "-m", "seed=0,1", mistake)
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1, refused.err
        assert {path.name for path in tmp_path.iterdir()} == {"out", "err"}
    assert run(tmp_path, "train", "-m", *TINY, "seed=0,1", "name=it's").code == 0
    assert len(list((tmp_path / "outputs" / "it's").glob("seed=*"))) == 2
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    assert "cannot hold a sweep" in run(tmp_path, "train", "-m", *TINY, "seed=0,1", "name=one").err


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
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


@pytest.mark.row("C16")
def test_an_annealed_run_is_prolonged_only_where_it_was_planned(tmp_path: Path) -> None:
    annealed = ["train", *TINY, "optimizer.schedule=linear", "name=one"]
    assert run(tmp_path, *annealed).code == 0
    refused = run(tmp_path, *annealed, "steps=40")
    assert refused.code == 1
    assert "the linear schedule of outputs/one ends at step 20: give optimizer.schedule_steps=20" in refused.err
    assert run(tmp_path, *annealed, "steps=40", "optimizer.schedule_steps=20").code == 0


def test_tensorboard_has_the_losses_the_inner_steps_and_the_pictures(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    events = EventAccumulator(str(tmp_path / "outputs" / "one")).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/mse", "val/mse_step0", "val/mse_step1", "test/mse_over_inner_steps"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in events.Scalars("test/mse_over_inner_steps")] == [0, 1, 2]
    assert [event.step for event in events.Images("val/tasks")] == [10, 20]


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


@pytest.mark.parametrize("hung_up", [True, False])
@pytest.mark.row("C17")
def test_a_closed_terminal_ends_a_run_that_saves_but_under_nohup_it_goes_on(tmp_path: Path, hung_up: bool) -> None:
    command = [sys.executable, "-m", "metalearn_cli", "train", *TINY, "name=one", "save_every=1000000"]
    command += [f"steps={1000000 if hung_up else 200}", "eval_every=0", "select=last"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL if hung_up else signal.SIG_IGN)
        os.execv(command[0], command)
    os.set_blocking(terminal, False)
    metrics = tmp_path / "outputs/one/metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size == 0:
        time.sleep(0.02)
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (129 if hung_up else 0)
    assert len(list((tmp_path / "outputs/one/checkpoints").glob("step-*"))) == 1
    assert (tmp_path / "outputs/one/results.json").exists() is not hung_up
    assert "Traceback" not in (tmp_path / "outputs/one/train.log").read_text()


def test_ctrl_c_between_two_jobs_of_a_sweep_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", "-m", *TINY, "seed=0,1,2", "name=sweep"]

    def tell_and_raise(text: str) -> None:
        print(text, file=sys.stderr)
        if text == "metalearn: seed=1":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sweep_job, "tell", tell_and_raise)
    stopped = run(tmp_path, *command)
    monkeypatch.undo()
    assert stopped.code == 130, stopped.err
    assert "stopped; the same command with the same name continues the sweep" in stopped.err
    assert "Traceback" not in stopped.err
    assert [path.parent.name for path in (tmp_path / "outputs/sweep").glob("*/results.json")] == ["seed=0"]
    again = run(tmp_path, *command)
    assert again.code == 0, again.err
    assert again.err.count("already finished") == 1


@pytest.mark.row("C17")
def test_a_closed_stderr_is_no_error(tmp_path: Path) -> None:
    command = shlex.join([sys.executable, "-m", "metalearn_cli", "train", *TINY, "name=one"])
    done = subprocess.run(["sh", "-c", f"{command} 2>&-"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.endswith("results are in outputs/one\n")
    assert "train 20/20" in (tmp_path / "outputs/one/train.log").read_text()


@pytest.mark.row("B2")
def test_sixteen_launches_at_once_make_sixteen_folders(tmp_path: Path) -> None:
    pids = [start(tmp_path, "train", *TINY) for _ in range(16)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 16
    assert len(list((tmp_path / "outputs").glob("*/*/results.json"))) == 16


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


def test_a_sweep_names_its_folders_by_the_swept_keys_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = ["train", "-m", *TINY, "name=my sweep (1)"]
    done = run(tmp_path, *command, "seed=0,1", "algo.inner_lr=0.01,-1")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.err.count("algo.inner_lr=-1.0 must be") == 2  # at once, as each fails
    assert done.out.count("failed: algo.inner_lr=-1.0 must be") == 2
    assert done.out.count(" mse ") == 2
    folder = tmp_path / "outputs" / "my sweep (1)"
    names = {f"algo.inner_lr={rate},seed={seed}" for rate in ("0.01", "-1") for seed in (0, 1)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names
    assert (folder / "algo.inner_lr=-1,seed=0" / "train.log").read_text().count("must be") == 1
    assert not (tmp_path / "multirun").exists()
    assert not list(tmp_path.rglob(".hydra"))
    again = run(tmp_path, *command, "seed=0,1", "algo.inner_lr=0.01,0.02")
    assert again.code == 0, again.err
    assert again.err.count("already finished") == 2
    rows = [line for line in again.out.splitlines() if line.startswith("algo.inner_lr=")]
    assert all(re.search(r" mse [\d.]+ \+- [\d.]+ after \d+ inner steps$", row) for row in rows)
    assert re.search(
        r"\nbest on validation \(mse [\d.]+\): algo.inner_lr=0.0\d; test mse .*, over 2 seeds\n", again.out
    )
    short = run(tmp_path, *command, "seed=0,1", "algo.inner_lr=0.01,0.02", "expect=mse<1e-9")
    assert short.code == 3
    assert short.out.count("falls short of expect='mse<1e-9'") == 4
    assert short.out.endswith("results are in outputs/my sweep (1)\n")
    refused = run(tmp_path, "train", "-m", "algo=maml,mamll", "name=other")
    assert refused.code == 1
    assert "did you mean maml?" in refused.err
    assert not (tmp_path / "outputs" / "other").exists()


def test_a_users_own_class_from_a_file_beside_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from metalearn_cli.algorithms.base import *\n"
        "from metalearn_cli.algorithms.maml import MAML\n"
        "@dataclass(frozen=True)\n"
        "class Twice(Algorithm):\n"
        "    inner_lr: float = 0.1\n"
        "    factor: float = 2.0\n"
        "    test_steps: int = 1\n"
        "    names: list[str] = field(default_factory=list)\n"
        "    batch_norm = BatchNorm.transductive\n"
        "    def inner(self): return MAML(inner_lr=self.inner_lr * self.factor)\n"
        "    def init(self, net, rng): return self.inner().init(net, rng)\n"
        "    def adapt(self, net, meta, support, steps): return self.inner().adapt(net, meta, support, steps)\n"
        "    def meta_gradient(self, *a, **k): return self.inner().meta_gradient(*a, **k)\n"
    )
    own = ["train", "debug=quick", "threads=1", "model.hidden=[8]", "algo._target_=mine.Twice"]
    done = run(tmp_path, *own, "algo.inner_lr=0.005", "+algo.factor=2", "name=mine")
    assert done.code == 0, done.err
    assert "dropped" not in done.err  # nobody gave inner_steps, and what else the yaml of maml has
    assert "mine.Twice's own defaults stand: algo.test_steps=1 (not 10)\n" in done.err
    assert "outputs/mine: Twice on sinusoid" in done.err
    assert results(tmp_path, "mine")["algo"] == "Twice"
    assert json.loads((tmp_path / "outputs/mine/environment.json").read_text())["choices"]["algo"] == "Twice"
    assert run(tmp_path, "train", *TINY, "algo.test_steps=1", "algo.inner_lr=0.01", "name=maml").code == 0
    assert results(tmp_path, "mine")["mean"] == results(tmp_path, "maml")["mean"]
    refused = run(tmp_path, *own, "+algo.factr=2")
    assert refused.code == 1
    assert "did you mean algo.factor?" in refused.err
    swept = run(tmp_path, "train", "-m", *own[1:], "+algo.factor=1,2", "name=sweep")
    assert swept.code == 0, swept.err
    assert {path.name for path in (tmp_path / "outputs/sweep").glob("*/")} == {"algo.factor=1", "algo.factor=2"}
    assert OmegaConf.load(tmp_path / "outputs/sweep/algo.factor=1/config.yaml").algo.factor == 1
    assert results(tmp_path, "sweep/algo.factor=1")["algo"] == "Twice"
    assert "already finished" in run(tmp_path, "train", "-m", *own[1:], "+algo.factor=2,3", "name=sweep").err
    assert run(tmp_path, *own).code == 0
    assert len(list((tmp_path / "outputs").glob("*/*-Twice-sinusoid-*"))) == 1
    assert "trust=true" in run(tmp_path, "eval", "run=outputs/mine").err
    assert run(tmp_path, "eval", "run=outputs/mine", "trust=true").code == 0


@pytest.mark.parametrize(
    ("file", "name", "sentence"),
    [
        ("class Mine(:\n", "Mine", "cannot be imported: SyntaxError: invalid syntax (mine.py line 1)"),
        ("x = 1\nx / 0\n", "Mine", "cannot be imported: ZeroDivisionError: division by zero (mine.py line 2)"),
        ("import torch\ntorch.nn.Linear('a', 1)\n", "Mine", " (mine.py line 2)"),
        ("import nowhere\n", "Mine", "ModuleNotFoundError: No module named 'nowhere' (mine.py line 1)"),
        ("raise SystemExit(0)\n", "Mine", "cannot be imported: SystemExit: 0 (mine.py line 1)"),
        ("class Mine: pass\n", "Mien", "there is no Mien in mine: did you mean mine.Mine?"),
        ("class Mine: pass\n", "Mine", "must be a frozen dataclass that implements"),
        (
            "from dataclasses import *\nfrom metalearn_cli.algorithms.maml import MAML\n@dataclass(frozen=True)\n"
            "class Mine(MAML):\n    def __post_init__(self): raise ValueError('too small')\n",
            "Mine",
            "algo._target_=mine.Mine cannot be made: ValueError: too small (mine.py line 5)",
        ),
        (
            "from dataclasses import *\nfrom metalearn_cli.algorithms.maml import MAML\n@dataclass(frozen=True)\n"
            "class Mine(MAML):\n    names: set[str] = frozenset()\n",
            "Mine",
            "cannot be made: ValidationError: Unexpected type annotation: set[str]",
        ),
    ],
)
def test_a_users_class_that_fails_is_named_with_the_line(tmp_path: Path, file: str, name: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(file)
    refused = run(tmp_path, "train", *TINY, f"algo._target_=mine.{name}", "name=one")
    assert refused.code == 1
    assert sentence in refused.err
    assert len(refused.err.splitlines()) == 1, refused.err
    assert not (tmp_path / "outputs").exists()


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
    assert "classes of the test split" in refused.err


@pytest.mark.usefixtures("packed_omniglot")
def test_a_users_own_module_and_task(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import math, torch\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "from metalearn_cli.tasks.base import *\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, spec, width=4):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(spec.input_shape[0], width, 3, stride=4), nn.BatchNorm2d(width),\n"
        "                                  nn.ReLU(), nn.Flatten())\n"
        "        if width == 13: self.body.append(nn.Dropout(0.5))\n"
        "        self.head = nn.Linear(width * 49, spec.outputs)\n"
        "    def forward(self, x): return self.head(self.body(x))\n"
        "@dataclass(frozen=True)\n"
        "class Lines(TaskDistribution):\n"
        "    slope: float = 1.0\n"
        "    @property\n"
        "    def spec(self): return Spec((1,), 1, 1, 'values')\n"
        "    @property\n"
        "    def splits(self): return ('train', 'val', 'test')\n"
        "    @property\n"
        "    def fingerprint(self): return 'lines'\n"
        "    def draw(self, tasks, split, rng):\n"
        "        return {'x': torch.rand(tasks, 12, 1, generator=rng), 'key': draw_keys(tasks, rng)}\n"
        "    def gather(self, draw, device):\n"
        "        x = draw['x'].to(device)\n"
        "        y = self.slope * x\n"
        "        return Batch(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:], draw['key'].to(device))\n"
    )
    quick = ["train", "debug=quick", "threads=1"]
    for algo in ("maml", "protonet"):
        module = [f"algo={algo}", "task=omniglot", "task.query=2", "model._target_=mine.Net", "+model.width=3"]
        done = run(tmp_path, *quick, *module, f"name={algo}")
        assert done.code == 0, done.err
        assert results(tmp_path, algo)["batch_norm"] is not None
        assert "already finished" in run(tmp_path, *quick, *module, f"name={algo}").err
        assert run(tmp_path, "eval", f"run=outputs/{algo}", "trust=true").code == 0
    refused = run(tmp_path, *quick, "task=omniglot", "model._target_=mine.Net", "+model.widht=3")
    assert "did you mean model.width?" in refused.err
    refused = run(tmp_path, *quick, "task=omniglot", "model._target_=mine.Net", "+model.width=13")
    assert (refused.code, len(refused.err.splitlines())) == (1, 1), refused.err
    assert "Dropout" in refused.err
    done = run(tmp_path, *quick, "task._target_=mine.Lines", "+task.slope=2", "model.hidden=[8]", "name=lines")
    assert done.code == 0, done.err


def test_importing_the_program_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["metalearn", "--version"])
    monkeypatch.delitem(sys.modules, "metalearn_cli.__main__", raising=False)
    importlib.import_module("metalearn_cli.__main__")
    assert capsys.readouterr().out == ""


def test_help_lists_and_completions(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], *([name, "--help"] for name in HELPS), ["eval", "-h"]):
        assert main(arguments) == 0
        assert "metalearn" in capsys.readouterr().out
    for group in (*conf_folder.GROUPS, *conf_folder.PRESETS):
        assert main(["list", group]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == conf_folder.list_choices(group)
        assert all(len(line.split()) > 3 for line in lines), lines
    assert main(["list", "metric"]) == 0
    assert "val/accuracy" in capsys.readouterr().out
    assert completions(["tr"]) == ["train "]
    assert completions(["train", "algo=ma"]) == ["algo=maml ", "algo=matching "]
    assert "algo.inner_lr=" in completions(["train", "algo.inn"])
    assert "tasks_per_step=" in completions(["train", "ta"])
    assert completions(["train", "algo.inner_loss="]) == ["algo.inner_loss=mean ", "algo.inner_loss=way_times_mean "]
    assert completions(["train", "batch_norm=t"]) == ["batch_norm=transductive "]
    assert completions(["train", "trust=t"]) == ["trust=true "]
    assert completions(["train", "-"]) == ["--cfg ", "--help ", "-m "]
    assert completions(["train", "--cfg", ""]) == ["job"]
    assert completions(["train", "ru"]) == []
    assert completions(["eval", "ru"]) == ["run="]
    assert completions(["eval", "se"]) == []
    assert completions(["compare", "st"]) == ["step="]
    assert completions(["compare", "batch_norm=r"]) == ["batch_norm=running "]
    assert completions(["report", "cs"]) == ["csv="]
    assert completions(["train", "logger="]) == ["logger=mlflow ", "logger=wandb "]
    assert completions(["list", "tas"]) == ["task"]
    assert completions(["completion", "z"]) == ["zsh"]


def test_runs_are_completed_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "my-sweep/seed=0", "my-sweep/seed=1", "with space", ".hidden"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert completions(["eval", "run="]) == ["run=outputs/"]
    assert completions(["eval", "run=outputs/"]) == ["run=outputs/my-sweep/", "run=outputs/one "]
    assert completions(["eval", "run=outputs/my-sweep/seed=1"]) == ["run=outputs/my-sweep/seed=1 "]
    assert completions(["eval", f"run={tmp_path}/outputs/o"]) == [f"run={tmp_path}/outputs/one "]
    assert completions(["eval", "run=nowhere/o"]) == []


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("metalearn tr", ["train "]),
        ("metalearn train --cfg ", ["job"]),
        ("metalearn train algo=prot", ["protonet "]),
        ("metalearn train -m algo=maml batch_norm=run", ["running "]),
        ("metalearn eval run=outputs/my-sweep/seed=1", ["1 "]),
    ],
)
def test_bash_gets_what_stands_behind_the_last_equal_sign(tmp_path: Path, line: str, replies: list[str]) -> None:
    """The function itself, called as bash calls it, with the words cut as bash cuts them."""
    (tmp_path / "outputs/my-sweep/seed=1").mkdir(parents=True)
    (tmp_path / "outputs/my-sweep/seed=1/config.yaml").touch()
    words = [part for part in re.split(r"(=)| ", line) if part is not None]
    words = [part for number, part in enumerate(words) if part or number == len(words) - 1]
    script = (
        f'metalearn() {{ {shlex.quote(sys.executable)} -m metalearn_cli "$@"; }}\n'
        f"{COMPLETION['bash'].replace('complete -o', ': complete -o')}\n"
        f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDBREAKS='\"=:'\n"
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}\n"
        "_metalearn; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == replies


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--sede", "3"], ["list", "nothing"], ["eval", "-x"]])
def test_unknown_commands_and_options_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "metalearn: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["list", "metric"], 0, ""),
        (["train", *TINY, "name=one", "expect=mse<1e-9"], 3, "falls short of"),
    ],
)
@pytest.mark.row("C17")
def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    """`metalearn list metric | head -n 0`."""
    reader, writer = os.pipe()
    os.close(reader)
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.dup2(os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        os.chdir(tmp_path)
        os._exit(main(arguments))
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == code
    assert said in (tmp_path / "err").read_text()
    assert "pipe" not in (tmp_path / "err").read_text()


@pytest.mark.row("C17")
def test_stdout_is_for_results_and_a_log_has_no_bars_and_no_colour(tmp_path: Path) -> None:
    done: Finished = run(tmp_path, "train", *TINY, "name=one")
    assert "\r" not in done.out + done.err
    assert "\x1b" not in done.out + done.err
    assert "train 20/20" in done.err
    assert all(
        line.startswith(("test ", "inner ", " ", "constant: ", "results are in ")) for line in done.out.splitlines()
    )
    assert max(map(len, done.err.splitlines())) <= 80  # the picture of a task


def test_a_process_that_is_waited_for_is_gone(tmp_path: Path) -> None:
    pid = start(tmp_path, "--version")
    assert wait(tmp_path, pid).code == 0
    with pytest.raises(ChildProcessError):
        is_running(pid)


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


def test_a_training_that_fails_says_so_once(tmp_path: Path) -> None:
    failed = run(tmp_path, "train", *TINY, "name=one", "optimizer=sgd", "optimizer.lr=1e30")
    assert failed.code == 1
    assert failed.err.count("is not finite") == 1
    assert (tmp_path / "outputs/one/train.log").read_text().count("is not finite") == 1
    swept = run(tmp_path, "train", "-m", *TINY, "name=two", "optimizer=sgd", "optimizer.lr=1e30,2e30")
    assert swept.err.count("is not finite") == 2
    for log in (tmp_path / "outputs/two").glob("*/train.log"):
        assert log.read_text().count("is not finite") == 1
