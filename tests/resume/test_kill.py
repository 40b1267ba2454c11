"""Real processes, killed at random moments and started again by the same command, end with the same bits."""

import signal
from pathlib import Path

import pytest
from cases import nightly
from commands import start, succeed, wait
from kills import kill_after, send_at, what_must_be_equal

from metalearn_cli.run_folder import checkpoint
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.tasks.base import Split

COMMON = ["train", "name=run", "threads=1", "log_every=5", "eval_episodes=8", "test_episodes=16"]
SINUSOID = [*COMMON, "task=sinusoid", "algo=maml", "tasks_per_step=4", "model.hidden=[8,8]", "algo.test_steps=2"]
SINUSOID += ["steps=400"]
CASE = [*SINUSOID, "save_every=10", "eval_every=30"]
LEARNED = [*COMMON, "task=quadratics", "task.dimension=3", "tasks_per_step=4", "algo.test_steps=4", "save_every=5"]
LEARNED += ["algo=learned_optimizer", "algo.hidden=[4]", "algo.unroll=3", "algo.horizon=9", "algo.batch_size=2"]
IMAGES = [*COMMON, "task=omniglot", "task.query=2", "tasks_per_step=2", "steps=40", "save_every=2", "eval_every=6"]
OMNIGLOT = [*IMAGES, "algo=maml", "model.filters=4"]
BLOCKS = ["model=resnet12", "model.widths=[2,2,2,2]", "model.dropout=0.3", "model.drop_block=0.3", "model.drop_size=2"]
SETS = [*COMMON, "task=gaussian_process", "task.max_points=12", "tasks_per_step=2", "steps=400", "save_every=10"]
SETS += ["eval_every=90", "algo.width=8"]
CASES = {
    "maml on sinusoid": CASE,
    "maml on omniglot": OMNIGLOT,
    "maml that drops": [*OMNIGLOT, "model.dropout=0.3"],
    "a residual network that drops blocks": [*IMAGES, "algo=protonet", *BLOCKS],
    "a Gaussian of sinusoids": [*CASE, "task.likelihood=gaussian"],
    "a conditional neural process": [*SETS, "algo=cnp"],
    "a neural process with a latent variable": [*SETS, "algo=np", "algo.test_samples=2"],
    "a prior-fitted network": [*SETS, "algo=pfn", "algo.hidden=8", "task.likelihood=bars", "task.bucket=8"],
    "learned optimizer on quadratics": [*LEARNED, "steps=150", "eval_every=15"],
}


# The same on images, of every algorithm, is in test_every_pair.py.
@pytest.mark.parametrize(
    "case", ["maml on sinusoid", *nightly((case,) for case in CASES if case != "maml on sinusoid")]
)
@pytest.mark.usefixtures("packed_omniglot")
@pytest.mark.row("A3")
def test_killed_and_continued_ends_with_the_bits_of_an_uninterrupted_run(tmp_path: Path, case: str) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    succeed(straight, *CASES[case])
    run, kills = killed / "outputs" / "run", 0
    for saves in (1, 5, 3):
        kills += kill_after(start(killed, *CASES[case]), run, saves)
    assert kills == 3
    assert not (run / "results.json").exists()
    assert "continuing after step" in succeed(killed, *CASES[case]).err
    assert what_must_be_equal(killed) == what_must_be_equal(straight)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    succeed(folder, *CASE)
    return what_must_be_equal(folder)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_gives_the_same_bits(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    kill_after(start(tmp_path, *CASE), tmp_path / "outputs" / "run", 6)
    newest = checkpoint.list_newest_first(tmp_path / "outputs" / "run" / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert f"skipping {newest.relative_to(tmp_path)}" in succeed(tmp_path, *CASE).err
    assert what_must_be_equal(tmp_path) == uninterrupted


@pytest.mark.row("A16")
@pytest.mark.row("C16")
def test_more_steps_continue_a_finished_run_as_if_it_had_been_one(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    succeed(tmp_path, *CASE, "steps=95")  # neither a multiple of save_every nor of eval_every
    for words in ("continuing after step 95", "already finished"):
        assert words in succeed(tmp_path, *CASE).err
        assert what_must_be_equal(tmp_path) == uninterrupted


@pytest.mark.row("A17")
def test_other_intervals_of_saving_and_logging_train_the_same(tmp_path: Path) -> None:
    last = []
    for number, intervals in enumerate((["save_every=10"], ["save_every=77", "log_every=9"])):
        succeed(tmp_path / str(number), *SINUSOID, "eval_every=30", *intervals)
        last.append(checkpoint.load_newest(tmp_path / str(number) / "outputs" / "run" / "checkpoints")[0])
    assert last[0] is not None
    assert last[1] is not None
    assert last[0].step == last[1].step == 400
    assert all((last[0].tensors[name] == last[1].tensors[name]).all() for name in last[0].tensors)


def test_metrics_that_were_written_after_the_last_checkpoint_are_not_there_twice(tmp_path: Path) -> None:
    command, run = [*SINUSOID, "save_every=150", "eval_every=0", "select=last"], tmp_path / "killed" / "outputs" / "run"
    succeed(tmp_path / "straight", *command)
    kill_after(start(tmp_path / "killed", *command), run, 1)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 155, "train/loss": 1.0}\n{"step": 16')  # the second line was being written
    succeed(tmp_path / "killed", *command)
    expected = list(read_lines(tmp_path / "straight/outputs/run/metrics.jsonl"))
    assert list(read_lines(run / "metrics.jsonl")) == expected


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        *((signal.SIGTERM, 143, moment) for moment in ("training", "validation", "test")),
        *((signal.SIGINT, 130, moment) for moment in ("training", "validation", "test")),
        (signal.SIGHUP, 129, "training"),
    ],
)
@pytest.mark.usefixtures("packed_omniglot")
def test_a_signal_saves_the_very_step_and_the_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, moment: str
) -> None:
    case = [*SINUSOID, "save_every=100", "eval_every=30", "eval_episodes=128", "steps=90", "test_episodes=128"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    succeed(straight, *case)
    at: dict[str, tuple[Split, int]] = {"training": ("train", 47), "validation": ("val", 1), "test": ("test", 1)}
    send_at(monkeypatch, at[moment], number)
    done = wait(stopped, start(stopped, *case))
    monkeypatch.undo()
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    step = {"training": 47, "validation": 30, "test": 90}[moment]
    assert f"saved step {step}; continue with: metalearn train" in done.err
    newest, _ = checkpoint.load_newest(stopped / "outputs" / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == step
    assert newest.record["to_validate"] is (moment == "validation")
    succeed(stopped, *case)
    assert what_must_be_equal(stopped) == what_must_be_equal(straight)


def test_a_second_signal_leaves_at_once_with_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come inside step 25: after one alone, that step would be finished and saved."""
    send_at(monkeypatch, ("train", 25), signal.SIGINT, signal.SIGINT)
    done = wait(tmp_path, start(tmp_path, *SINUSOID, "save_every=10", "eval_every=0", "select=last"))
    assert done.code == 130
    assert "Traceback" not in done.err
    newest, skipped = checkpoint.load_newest(tmp_path / "outputs" / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == 20
    assert skipped == []


@pytest.mark.row("A16")
def test_a_run_that_was_stopped_in_its_last_validation_goes_on(tmp_path: Path) -> None:
    """And killed once more right after that validation was written: its line does not come twice."""
    case = [*SINUSOID, "save_every=50", "eval_every=20", "steps=60", "optimizer.lr=0"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    succeed(straight, *case)
    events: list[tuple[tuple[Split, int], signal.Signals]] = [
        (("val", 2), signal.SIGTERM),  # within the validation of step 20: nothing is better than the first
        (("train", 5), signal.SIGKILL),  # that validation is written, and no checkpoint since
        (("val", 4), signal.SIGTERM),  # within that of the last step
    ]
    for at, number in events:
        with pytest.MonkeyPatch.context() as patch:
            send_at(patch, at, number)
            wait(stopped, start(stopped, *case))
    succeed(stopped, *case)
    assert what_must_be_equal(stopped) == what_must_be_equal(straight)
