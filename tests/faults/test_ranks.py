"""Rows B4 to B7 of the fault matrix: several ranks train what one process trains, and what ends one ends all."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import results, start_ranks, succeed, wait_ranks
from kills import before_draws, what_must_be_equal
from places import ROOT
from torch import Tensor

import metalearn_cli.learning.learner
import metalearn_cli.sweep.sweep  # imported once here, and not in every process
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.run_folder.records import read_json
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.system.ranks import Ranks
from metalearn_cli.tasks.base import Batch, Draw, Split
from metalearn_cli.tasks.sinusoid import Sinusoid

POINTS = ["task=sinusoid", "model.hidden=[8,8]", "tasks_per_step=4"]
QUADRATICS = ["task=quadratics", "task.dimension=3", "tasks_per_step=4", "algo.horizon=9", "algo.test_steps=4"]
IMAGES = ["task=omniglot", "model.filters=4", "task.query=2", "tasks_per_step=4"]
SMALL = ["name=run", "threads=1", "log_every=1", "eval_episodes=8", "test_episodes=70"]
STEPS = ["steps=100", "eval_every=50"]
ALGORITHMS = {
    "maml": [*POINTS, "algo=maml", "algo.test_steps=2"],
    "learned_optimizer": [*QUADRATICS, "algo=learned_optimizer", "algo.hidden=[4]", "algo.unroll=3"],
    "reptile": [*POINTS, "algo=reptile", "algo.inner_steps=3", "algo.test_steps=2"],
    "meta_lstm": [*IMAGES, "algo=meta_lstm", "algo.inner_steps=2", "algo.test_steps=2", "algo.hidden=4"],
    "protonet": [*IMAGES, "algo=protonet"],
    "matching": [*IMAGES, "algo=matching", "algo.fce=true", "algo.reads=1", "algo.test_steps=1"],
    "meta_sgd": [*POINTS, "algo=meta_sgd", "algo.test_steps=2"],
    "pretrain": [*POINTS, "algo=pretrain"],
    "all classes": [*IMAGES, "algo=pretrain", "algo.images=8", "algo.normalise=l2", "algo.centre=base"],
    "hand_optimizer": [*QUADRATICS, "algo=hand_optimizer"],
    "maml on images": [*IMAGES, "algo=maml", "algo.inner_steps=2", "algo.test_steps=2"],
}
# One of each kind first, which is what CI tries.
SAME = [("maml", 2, "fp64"), ("learned_optimizer", 4, "fp64"), ("reptile", 2, "fp32"), ("meta_lstm", 2, "fp64")]
SAME += [
    case
    for name, keys in ALGORITHMS.items()
    for case in ((name, 2, "fp64"), (name, 4, "fp64"), (name, 2, "fp32"))
    if case not in SAME and not (case[2] == "fp32" and keys[0] == IMAGES[0])
]


def check_alike(folder: Path, other: Path, tolerance: float) -> None:
    """The loss of each step, a value per test episode, and the episodes are the same."""
    runs = [folder / "outputs" / "run", other / "outputs" / "run"]
    lines = [[line for line in read_lines(run / "metrics.jsonl") if "train/loss" in line] for run in runs]
    assert all([line["step"] for line in of_run] == list(range(1, 101)) for of_run in lines)
    np.testing.assert_allclose(*([line["train/loss"] for line in of_run] for of_run in lines), rtol=tolerance)
    episodes, expected = (dict(np.load(run / "episodes.npz")) for run in runs)
    assert episodes.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(episodes[name], values, rtol=tolerance, atol=tolerance)
    assert results(folder, "run")["episodes_sha256"] == results(other, "run")["episodes_sha256"]


def train(folder: Path, ranks: int, *keys: str) -> str:
    """Train in so many processes -> what they have said."""
    if ranks == 1:
        return succeed(folder, "train", *SMALL, *keys).err
    (folder / "err").unlink(missing_ok=True)
    codes, said = wait_ranks(folder, start_ranks(folder, ranks, "train", *SMALL, *keys))
    assert codes == [0] * ranks, said
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The same training in one process, made once."""

    @cache
    def train_alone(*keys: str) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        train(folder, 1, *keys)
        return folder

    return train_alone


@pytest.mark.row("B4", gate=2, ci=4, full=len(SAME))
@pytest.mark.usefixtures("packed_omniglot")
def test_ranks_train_and_test_as_one_process(attempt: int, tmp_path: Path, alone: Callable[..., Path]) -> None:
    name, ranks, precision = SAME[attempt]
    keys = [*ALGORITHMS[name], *STEPS, f"precision={precision}"]
    said = train(tmp_path, ranks, *keys)
    assert said.count(f"{ranks} ranks, each cpu") == 1, "one rank speaks"
    check_alike(tmp_path, alone(*keys), {"fp64": 1e-12, "fp32": 1e-5}[precision])


@pytest.mark.row("B4", ci=1, full=4)
@pytest.mark.usefixtures("packed_omniglot")
def test_the_first_gradient_of_a_convolution_is_that_of_one_process(attempt: int, tmp_path: Path) -> None:
    """In float32; afterwards ReLU and pooling part any two correct codes."""
    name = ["maml on images", "protonet", "matching", "meta_lstm"][attempt]
    keys = [*ALGORITHMS[name], "steps=1", "eval_every=0", "select=last", "optimizer=sgd", "optimizer.lr=1"]
    start = new_learner(load_job(keys)).meta.params
    moved = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        train(folder, ranks, *keys)
        (saved,) = checkpoint.list_newest_first(folder / "outputs" / "run" / "checkpoints")
        tensors = checkpoint.load_checkpoint(saved).tensors
        moved.append(torch.cat([(tensors[f"params.{key}"] - value).flatten() for key, value in start.items()]))
    assert torch.dist(*moved) < 1e-4 * moved[0].norm()
    assert moved[0].norm() > 1e-3


@pytest.mark.row("B5", ci=1, full=5)
def test_a_run_goes_on_with_another_number_of_ranks(attempt: int, tmp_path: Path, alone: Callable[..., Path]) -> None:
    keys = [*ALGORITHMS["reptile"], "optimizer.schedule=constant", "precision=fp64", "eval_every=10"]
    stages = [(1, 2, 1), (2, 1, 2), (2, 4, 1), (4, 2, 1), (1, 4, 2)][attempt]
    for ranks, steps in zip(stages, (30, 60, 100), strict=True):
        said = train(tmp_path, ranks, *keys, f"steps={steps}")
        if steps > 30:
            assert f"goes on with {ranks}: its bits may differ" in said
            assert f"continuing after step {steps - 30 if steps == 60 else 60}" in said
        choices = read_json(tmp_path / "outputs" / "run" / "choices.json")
        assert choices == {"threads": 1, "ranks": ranks, "denormals_are_zero": True}
    check_alike(tmp_path, alone(*keys, "steps=100"), 1e-12)


LONG = [*ALGORITHMS["maml"], *SMALL, "steps=120", "save_every=10", "eval_every=30", "keep=3"]


def train_long(folder: Path, *more: str, first: Callable[[int], object] = lambda rank: None) -> tuple[list[int], str]:
    """Train in two processes, with something to do in each before -> their exit codes, and what they have said."""
    return wait_ranks(folder, start_ranks(folder, 2, "train", *LONG, *more, first=first))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bits of a run of two ranks to which nothing happens."""
    folder = tmp_path_factory.mktemp("two")
    codes, said = train_long(folder)
    assert codes == [0, 0], said
    return what_must_be_equal(folder)


def at_step(number: int, change: Callable[[Batch], Batch], which: Split = "train") -> Callable[[], None]:
    """In this process the batch of one training step is another one, or those of the validation or test after it."""

    def install() -> None:
        patch, gather = pytest.MonkeyPatch(), Sinusoid.gather
        drawn: list[tuple[Split, int]] = []

        def gather_and_change(self: Sinusoid, draw: Draw, device: torch.device) -> Batch:
            batch = gather(self, draw, device)
            is_there = drawn[-1][0] == which and dict(drawn).get("train") == number + 1
            return change(batch) if is_there else batch

        before_draws(patch, lambda split, count: drawn.append((split, count)))
        patch.setattr(Sinusoid, "gather", gather_and_change)

    return install


def fail(batch: Batch) -> Batch:
    raise ValueError("this rank has had enough")


def poison(batch: Batch) -> Batch:
    return batch._replace(query_y=torch.full_like(batch.query_y, torch.nan))


def send(number: int) -> Callable[[Batch], Batch]:
    def to_itself(batch: Batch) -> Batch:
        os.kill(os.getpid(), number)
        return batch

    return to_itself


@pytest.mark.row("B6", ci=4, full=80)
def test_what_ends_one_rank_ends_all(attempt: int, tmp_path: Path, two_ranks: dict[str, bytes]) -> None:
    """And the same command goes on from what was saved, to the same bits."""
    rng = random.Random(attempt)
    kind = ["raise", "nan", "kill", "term"][attempt % 4]
    who = int((kind != "kill") ^ (attempt // 4) % 2)  # in CI the harder of the two
    step = rng.randrange(20, 98)  # later, what a signal saves would still be among the newest three at the end
    change = {"raise": fail, "nan": poison, "kill": send(signal.SIGKILL), "term": send(signal.SIGTERM)}[kind]
    hit = at_step(step, change)
    codes, said = train_long(tmp_path, first=lambda rank: hit() if rank == who else None)
    other, saved = 1 - who, tmp_path / "outputs" / "run" / "checkpoints"
    newest = checkpoint.step_of(checkpoint.list_newest_first(saved)[0])
    told = [line for line in said.splitlines() if line.startswith("metalearn: ") and "finishing the step" not in line]
    match kind:
        case "raise":
            assert codes == [1, 1], said
            assert said.count("ValueError: this rank has had enough") >= 1
            assert len(told) == 1 + who, "the one that failed tells of it behind its traceback, and the first rank too"
            assert all("ValueError: this rank has had enough" in line and "the last good" in line for line in told)
            assert sum(line.startswith(f"metalearn: rank {who} of 2: ") for line in told) == who
        case "nan":
            assert codes == [1, 1], said
            assert len(told) == 1, said
            assert (
                f"the loss of step {step} is not finite in tasks {[[0, 1], [2, 3]][who]} of the meta-batch" in told[0]
            )
        case "kill":
            assert codes[who] == -signal.SIGKILL
            assert codes[other] == 1, said
            assert told == [f"metalearn: rank {who} of 2 is gone: its process was killed, or its machine is lost"], said
        case "term":
            assert codes == [143, 143], said
            assert newest in (step + 1, step + 2)
            assert len(told) == 1, said
            assert f"saved step {newest}; continue with: torchrun --nproc-per-node=2 -m metalearn_cli train" in told[0]
    assert kind == "raise" or "Traceback" not in said
    codes, said = train_long(tmp_path)
    assert codes == [0, 0], said
    assert what_must_be_equal(tmp_path) == two_ranks


@pytest.mark.parametrize(("split", "step"), [("val", 29), ("test", 119)])
def test_a_signal_to_one_rank_ends_a_validation_or_a_test_of_all(
    tmp_path: Path, split: Split, step: int, two_ranks: dict[str, bytes]
) -> None:
    hit = at_step(step, send(signal.SIGTERM), split)
    codes, said = train_long(tmp_path, first=lambda rank: hit() if rank == 1 else None)
    assert codes == [143, 143], said
    assert "Traceback" not in said
    assert "finishing the step" not in said
    # The second one tells it too, where it has not heard of the first one for five seconds.
    assert said.count(f"saved step {step + 1}; continue with: torchrun --nproc-per-node=2 ") in (1, 2), said
    codes, said = train_long(tmp_path)
    assert codes == [0, 0], said
    assert what_must_be_equal(tmp_path) == two_ranks


@pytest.mark.row("B7", ci=1, full=1)
def test_a_meta_batch_that_cannot_be_split_is_refused(attempt: int, tmp_path: Path) -> None:
    codes, said = train_long(tmp_path, "tasks_per_step=5")
    assert codes == [1, 1]
    assert said == (
        "metalearn: tasks_per_step=5 cannot be split evenly over 2 ranks: give a multiple, e.g. 4, or start another "
        "number of ranks\n"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["algo.inner_lrr=0.1"], "did you mean algo.inner_lr?"),
        (["compile=true"], "compile=true is for one process, and these are 2 ranks"),
        (["-m", "seed=0,1"], "-m starts runs of its own, and torchrun splits one"),
    ],
)
def test_a_mistake_is_told_once(tmp_path: Path, keys: list[str], sentence: str) -> None:
    codes, said = train_long(tmp_path, *keys)
    assert codes == [1, 1]
    assert said.count("\n") == 1
    assert sentence in said
    assert not (tmp_path / "outputs").exists()


def test_a_mistake_of_one_rank_is_told_by_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_data(rank: int) -> None:
        if rank == 1:
            Sinusoid.fingerprint = property(lambda self: "of another disk")  # type: ignore[method-assign, assignment]

    codes, said = train_long(tmp_path, first=other_data)
    assert codes == [1, 1]
    assert said == "metalearn: rank 1 of 2 has another data than rank 0: give all of them the same\n"
    assert not (tmp_path / "outputs").exists()


def test_the_exit_code_is_that_of_all_and_eval_splits_its_episodes(tmp_path: Path) -> None:
    keys = [*LONG, "steps=2", "expect=mse<=0", "test_episodes=65"]
    codes, said = wait_ranks(tmp_path, start_ranks(tmp_path, 2, "train", *keys))
    assert codes == [3, 3], said
    assert said.count("falls short") == 1
    assert (tmp_path / "out").read_text().count("test mse over 65 episodes") == 1
    codes, said = wait_ranks(tmp_path, start_ranks(tmp_path, 2, "train", *keys))
    assert codes == [3, 3]
    assert said.count("already finished") == 1
    scored = []
    for ranks in (1, 2):  # of 65 episodes, the last block has one, which the second rank scores
        pids = start_ranks(tmp_path, ranks, "eval", "run=outputs/run", "episodes_seed=5")
        assert wait_ranks(tmp_path, pids)[0] == [0] * ranks
        (folder,) = (tmp_path / "outputs" / "run" / "eval").iterdir()
        scored.append(dict(np.load(folder / "episodes.npz")))
        folder.rename(tmp_path / str(ranks))
    for name, values in scored[0].items():
        np.testing.assert_allclose(scored[1][name], values, rtol=1e-5)
    hashes = {json.loads((tmp_path / n / "results.json").read_text())["episodes_sha256"] for n in ("1", "2")}
    assert len(hashes) == 1


def test_shares_are_all_tasks_once() -> None:
    for size in (1, 2, 3, 7):
        for tasks in (1, 5, 64):
            shares = [Ranks(rank, size).share(tasks) for rank in range(size)]
            assert [task for start, stop in shares for task in range(start, stop)] == list(range(tasks))


def test_the_learners_of_all_ranks_stay_equal(tmp_path: Path) -> None:
    """Reptile, whose buffers are averaged too."""

    def write_state(rank: int) -> None:
        step = metalearn_cli.learning.learner.Learner.step

        def step_and_write(self: Any, batch: Batch, number: int) -> Tensor:
            loss: Tensor = step(self, batch, number)
            torch.save([*self.state_dict().values(), loss], tmp_path / f"state-{rank}")
            return loss

        metalearn_cli.learning.learner.Learner.step = step_and_write  # type: ignore[method-assign]

    keys = ["train", *SMALL, *ALGORITHMS["reptile"], "steps=20", "eval_every=0", "select=last"]
    codes, said = wait_ranks(tmp_path, start_ranks(tmp_path, 2, *keys, first=write_state))
    assert codes == [0, 0], said
    states = [torch.load(tmp_path / f"state-{rank}") for rank in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    assert len(states[0][-1]) == 4


def test_only_the_first_rank_touches_the_folder(tmp_path: Path) -> None:
    def watch(rank: int) -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("open", "os.rename", "os.remove", "os.mkdir") and "outputs" in str(arguments[0]):
                Path(tmp_path / f"touched-by-{rank}").touch()

        sys.addaudithook(hook)

    keys = ["train", *SMALL, *ALGORITHMS["maml"], "steps=4", "eval_every=2", "save_every=1"]
    codes, said = wait_ranks(tmp_path, start_ranks(tmp_path, 2, *keys, first=watch))
    assert codes == [0, 0], said
    assert [path.name for path in tmp_path.glob("touched-*")] == ["touched-by-0"]


def test_torchrun_itself(tmp_path: Path) -> None:
    """Two ranks meet by its environment, and one of them writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "metalearn_cli"]
    keys = ["train", *LONG, "steps=3", "save_every=1", "keep=1"]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *keys], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test mse over 70 episodes") == 1
    assert len(list((tmp_path / "outputs" / "run" / "checkpoints").iterdir())) == 1
    assert json.loads((tmp_path / "outputs" / "run" / "environment.json").read_text())["ranks"] == 2
