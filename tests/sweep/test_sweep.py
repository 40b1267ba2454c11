"""Sweeps by the launchers of Hydra: row B8 of the fault matrix, and who runs the jobs.

A launcher that is not installed skips its test: `pip install -e '.[joblib,slurm]'`, or `.[ray]`.
"""

import importlib.metadata
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import run, start, wait
from folders import write_lines
from places import TABLE

from metalearn_cli.cli import main
from metalearn_cli.config.overrides import quote, several_texts, unquote
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.sweep.sweep import sweep
from metalearn_cli.sweep.sweep_job import best_validation, job_folder

TINY = ["model.hidden=[8]", "algo.test_steps=2", "debug=quick", "steps=4", "eval_every=2"]


def needs(launcher: str) -> pytest.MarkDecorator:
    """Skip without Hydra's plugin: joblib itself comes with scikit-learn too."""
    installed = {part.metadata["Name"] for part in importlib.metadata.distributions()}
    return pytest.mark.skipif(f"hydra-{launcher}-launcher" not in installed, reason=f"{launcher} is not installed")


presets = [pytest.param(preset, marks=needs(preset)) for preset in ("joblib", "submitit", "ray")]
launchers = pytest.mark.parametrize("preset", presets)


@pytest.mark.row("B8", ci=1, full=3)
def test_one_failing_job_leaves_the_others(attempt: int, tmp_path: Path) -> None:
    """The first, the second, the last of three."""
    rates = ["0.1", "0.2"]
    rates.insert(attempt, "1e+30")
    command = ["train", "-m", *TINY, "threads=1", "optimizer=sgd", f"optimizer.lr={','.join(rates)}", "name=s"]
    for _ in range(2):  # the second time the others are there already, and it fails again
        done = run(tmp_path, *command)
        assert done.code == 1, done.err
        assert "Traceback" not in done.err
        rows = [line for line in done.out.splitlines() if line.startswith("optimizer.lr=")]
        assert [line.split()[0] for line in rows] == [f"optimizer.lr={rate}" for rate in rates]
        assert ["failed: the " in line for line in rows] == [number == attempt for number in range(3)]
        assert [" mse " in line for line in rows] == [number != attempt for number in range(3)]


@launchers
def test_a_launcher_runs_every_job_also_after_one_that_failed(preset: str, tmp_path: Path) -> None:
    command = ["train", "-m", f"sweep={preset}", *TINY, "threads=1", "optimizer=sgd", "seed=0,1", "name=s"]
    done = run(tmp_path, *command, "optimizer.lr=0.1,1e+30", "expect=mse<=1e-9")
    assert done.code == 1, done.err
    assert done.out.count("failed: the loss of step") + done.out.count("failed: the gradient of step") == 2, done.out
    assert done.out.count("falls short of expect") == 2
    names = {f"optimizer.lr={rate},seed={seed}" for rate in ("0.1", "1e+30") for seed in (0, 1)}
    assert {path.parent.name for path in tmp_path.glob("outputs/s/*/outcome.json")} == names
    again = run(tmp_path, *command, "optimizer.lr=0.1,0.1")
    assert again.code == 0, again.err
    logs = [(tmp_path / "outputs" / "s" / f"optimizer.lr=0.1,seed={seed}" / "train.log").read_text() for seed in (0, 1)]
    assert all("already finished" in log for log in logs)
    assert again.out.count(" mse ") == 2


@launchers
def test_jobs_beside_one_another_share_the_cores(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr("metalearn_cli.sweep.sweep.cores", lambda: 6)
    done = run(tmp_path, "train", "-m", f"sweep={preset}", *TINY, "seed=0,1,2", "threads=null", "name=s")
    assert done.code == 0, done.err
    for seed in range(3):
        choices = json.loads((tmp_path / "outputs" / "s" / f"seed={seed}" / "choices.json").read_text())
        assert choices["threads"] == (1 if preset == "ray" else 2)  # Ray gives a task one core, and says so itself


@needs("joblib")
def test_ctrl_c_ends_a_sweep_of_joblib_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ["train", "-m", "sweep=joblib", *TINY, "seed=0,1", "threads=1", "name=s", "save_every=10", "eval_every=0"]
    command += ["select=last", "hydra.launcher.n_jobs=2"]
    pid = start(tmp_path, *command, "steps=100000", first=os.setsid)
    while {path.parents[1].name for path in tmp_path.glob("outputs/s/*/checkpoints/step-*")} < {"seed=0", "seed=1"}:
        time.sleep(0.05)
    os.killpg(pid, signal.SIGINT)
    done = wait(tmp_path, pid)
    assert done.code == 130, done.err
    assert "the same command with the same name continues the sweep" in done.err


@needs("submitit")
def test_a_job_of_submitit_that_is_preempted_goes_on_where_it_was(tmp_path: Path) -> None:
    """It runs in submitit's local executor: Slurm sends USR2 before time is up, and then queues the job again."""
    keys = [*TINY, "threads=1", "name=s", "seed=0,1", "save_every=50", "eval_every=0", "select=last", "log_every=50"]
    pid = start(tmp_path, "train", "-m", "sweep=submitit", *keys, "steps=2000")
    while not list((tmp_path / "outputs").glob("s/seed=0/checkpoints/step-*.safetensors")):
        time.sleep(0.05)
    holder = int((tmp_path / "outputs/s/seed=0/lock").read_text().split()[1])
    os.kill(holder, signal.SIGUSR2)
    done = wait(tmp_path, pid)
    assert done.code == 0, done.err
    log = (tmp_path / "outputs/s/seed=0/train.log").read_text()
    assert "continuing after step" in log
    steps = [line["step"] for line in read_lines(tmp_path / "outputs/s/seed=0/metrics.jsonl")]
    assert steps == list(range(50, 2001, 50))


@pytest.mark.parametrize("preset", ["joblib", "slurm", "submitit", "ray"])
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if importlib.util.find_spec({"slurm": "submitit"}.get(preset, preset)) is not None:
        pytest.skip("it is installed")
    assert main(["train", "-m", f"sweep={preset}", "seed=0,1"]) == 1
    extra = {"submitit": "slurm"}.get(preset, preset)
    said = capsys.readouterr().err
    assert said.endswith(f"in this environment: pip install 'metalearn-cli[{extra}]'\n")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


ON_TABLES = ["train", "-m", "task=table", "algo=maml", *TINY, "threads=1", "name=s"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("task.root=a.csv,b.csv", ["a.csv", "b.csv"]),
        ("task.root=choice(a.csv,b.csv)", ["a.csv", "b.csv"]),
        ("task.root='a.csv', \"it's, [5] = ü.csv\"", ["a.csv", "it's, [5] = ü.csv"]),
    ],
)
def test_a_sweep_over_paths(tmp_path: Path, text: str, names: list[str]) -> None:
    for name in names:
        shutil.copy(TABLE, tmp_path / name)
    for _ in range(2):  # the second time all is there
        done = run(tmp_path, *ON_TABLES, text)
        assert done.code == 0, done.err
        rows = [line for line in done.out.splitlines() if line.startswith("task.root=")]
        assert [row.partition("  ")[0].strip() for row in rows] == [f"task.root={name}" for name in names]
    for name in names:
        folder = tmp_path / "outputs/s" / f"task.root={name}"
        given = (folder / "overrides.txt").read_text().splitlines()
        assert f"task.root={name}" in given
        kept = [override for override in given if not override.startswith(("name", "hydra"))]
        again = run(tmp_path, "train", *kept, f"name=s/{folder.name}")
        assert again.code == 0, again.err
        assert "is already finished" in again.err


def test_paths_with_commas_and_odd_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert several_texts("task.root=a,b") == ["a", "b"]
    assert several_texts("task.root=a , 'b,c',\"d\",it's") == ["a", "b,c", "d", "it's"]
    assert several_texts("task.pattern=choice({class}_*,{class}#)") == ["{class}_*", "{class}#"]
    for key in (
        "task.pattern=a,b",
        "name=a,b",
        "seed=1,2",
        "task.root=a",
        "expect=choice(a,b)",
        "task.way=choice(1,2)",
    ):
        assert several_texts(key) == []
    for odd in ("task.root=a,,b", "task.root=a,", "task.root=,a", "task.root=choice()", "task.root=choice(a,)"):
        with pytest.raises(UserError, match="one of the values is empty"):
            several_texts(odd)
    (tmp_path / "a,b").mkdir()
    assert several_texts("task.root=a,b") == [], "it is a folder"
    for value in ("a", "it's", "ü [1], =", "a\\'", "null", "5", "c:\\"):
        assert unquote(quote(f"task.root={value}")) == f"task.root={value}"
    with pytest.raises(UserError, match="two of these are then the same"):
        sweep(["task=table", "task.root=x/a.csv,x_a.csv"])
    long = job_folder(tmp_path, f"task.root={'ü/' * 300}")
    long.mkdir()
    assert long != job_folder(tmp_path, f"task.root={'ü/' * 301}")


def test_a_job_returns_its_best_validation_result(tmp_path: Path) -> None:
    loss = {"step": 1, "train/loss": 9.0}
    errors = [{"step": step, "val/mse": error} for step, error in ((2, 3.0), (4, 2.0), (6, 5.0))]
    for lines, best in (([loss, *errors], 2.0), ([{"step": 2, "val/accuracy": 0.5}], 0.5), ([loss], None)):
        write_lines(tmp_path / "metrics.jsonl", lines)
        assert best_validation(tmp_path) == best


def test_a_finished_job_with_a_damaged_line_is_listed_beside_the_others(tmp_path: Path) -> None:
    command = ["train", "-m", "debug=quick", "steps=4", "eval_every=2", "threads=1", "seed=0,1", "name=s"]
    assert run(tmp_path, *command).code == 0
    path = tmp_path / "outputs" / "s" / "seed=0" / "metrics.jsonl"
    path.write_text("{damaged\n" + path.read_text())
    done = run(tmp_path, *command)
    assert done.code == 1
    assert "seed=0  failed: outputs/s/seed=0/metrics.jsonl" in done.out
    assert "seed=1  mse " in done.out
    assert "Error executing job" not in done.err
