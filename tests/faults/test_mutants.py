"""Row D8 of the fault matrix: faults written into the program by hand, each of which the tests beside it must see.

Only in the full column: each copies the package and runs those tests in a process of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    tests: str


LABELS = "tests/learning/test_learner.py::test_query_labels_never_change_a_prediction"
RANKS = "tests/faults/test_ranks.py"
MASKS, SAMPLER = "tests/algorithms/test_masks.py", "tests/tasks/test_variable_sizes.py tests/tasks/test_episodes.py"
MUTANTS = (
    # Several ranks
    Mutant("system/ranks.py", "tensors = [value / self.size for", "tensors = [value for", RANKS),
    Mutant("system/ranks.py", "            dist.all_reduce(flat)\n", "            pass\n", RANKS),
    Mutant("system/signals.py", "agreed = self._agree(self.number)", "agreed = self.number", RANKS),
    Mutant(
        "training/loop.py",
        "        if not learner.ranks.is_first:\n            return\n",
        "",
        RANKS,
    ),
    Mutant("learning/evaluate.py", "in ranks.gather(mine) if", "in [mine] if", RANKS),
    # Files and resuming
    Mutant("system/files.py", "            os.fsync(file.fileno())\n", "", "tests/run_folder/test_checkpoint.py"),
    Mutant("system/files.py", "    sync_folder(path.parent)\n", "", "tests/run_folder/test_checkpoint.py"),
    Mutant(
        "system/files.py",
        "        temporary.unlink(missing_ok=True)\n",
        "        pass\n",
        "tests/run_folder/test_checkpoint.py",
    ),
    Mutant(
        "run_folder/checkpoint.py",
        "name is None or hashlib",
        "False and hashlib",
        "tests/run_folder/test_checkpoint.py",
    ),
    Mutant(
        "learning/learner.py",
        'state |= {f"optimizer.',
        '_ = {f"optimizer.',
        "tests/learning/test_learner.py tests/resume/test_kill.py",
    ),
    Mutant(
        "learning/learner.py",
        'state |= {f"buffers.',
        '_ = {f"buffers.',
        "tests/learning/test_learner.py tests/resume/test_kill.py",
    ),
    Mutant("config/job.py", '"train", step))', '"train", step + 1))', "tests/training/test_run.py"),
    Mutant("run_folder/writers.py", 'if line["step"] <= step', "if True", "tests/resume/test_kill.py"),
    Mutant(
        "training/loop.py",
        "    return Reached(newest.step, best",
        "    return Reached(newest.step + 1, best",
        "tests/resume/test_kill.py",
    ),
    Mutant(
        "training/loop.py",
        "step % settings.save_every == 0",
        "step % settings.save_every == 1",
        "tests/resume/test_kill.py",
    ),
    Mutant(
        "run_folder/lock.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "tests/run_folder/test_runs.py",
    ),
    # What a person waits for
    Mutant(
        "training/test.py",
        "scored_parts.write_part(kept, place, parts[place])",
        "pass",
        "tests/training/test_waiting.py",
    ),
    Mutant(
        "run_folder/scored_parts.py",
        "sha256(data).hexdigest()[:16] == name[3]",
        "sha256(data)",
        "tests/training/test_waiting.py",
    ),
    Mutant(
        "run_folder/scored_parts.py",
        "([weights.hexdigest(), here, about]",
        "([here, about]",
        "tests/training/test_waiting.py",
    ),
    Mutant("training/continued.py", "not named and not is_choice", "not named", "tests/training/test_continued.py"),
    Mutant("training/continued.py", "return not named and", "return", "tests/training/test_continued.py"),
    # Evaluation
    Mutant(
        "learning/draws.py",
        "generator(episodes_seed, split, block)",
        "generator(episodes_seed, block)",
        "tests/learning/test_evaluate.py",
    ),
    Mutant(
        "training/test.py",
        '"test", total, settings.episodes_seed',
        '"train", total, settings.episodes_seed',
        "tests/training/test_run.py",
    ),
    Mutant("learning/scores.py", "1.96", "1.0", "tests/learning/test_evaluate.py"),
    Mutant("algorithms/base.py", ".argmax(-1) == y", ".argmax(-1) != y", LABELS),
    # Algorithms
    Mutant(
        "algorithms/inner_loop.py",
        "create_graph=recording and second_order",
        "create_graph=False",
        "tests/algorithms/test_maml.py",
    ),
    Mutant("algorithms/inner_loop.py", "total = loss.sum()", "total = loss.mean()", "tests/algorithms/test_maml.py"),
    Mutant(
        "algorithms/inner_loop.py",
        "phi[name] - alpha[name]",
        "phi[name] + alpha[name]",
        "tests/algorithms/test_maml.py",
    ),
    Mutant(
        "algorithms/rematerialise.py",
        "for _ in range(steps):",
        "for _ in range(steps - 1):",
        "tests/algorithms/test_maml.py",
    ),
    Mutant(
        "algorithms/inner_loop.py",
        "net(phi, batch.query_x",
        "net(phi, batch.support_x",
        "tests/algorithms/test_maml.py",
    ),
    Mutant(
        "algorithms/base.py",
        "torch.autograd.grad(loss.mean()",
        "torch.autograd.grad(loss.sum()",
        "tests/algorithms/test_maml.py",
    ),
    Mutant(
        "algorithms/reptile.py",
        "value - state.params[name].mean(0)",
        "state.params[name].mean(0) - value",
        "tests/algorithms/test_reptile.py",
    ),
    Mutant("algorithms/reptile.py", "1 - BETA2**steps", "1 - BETA2", "tests/algorithms/test_reptile.py"),
    Mutant(
        "algorithms/protonet.py",
        "return -squared_distance",
        "return squared_distance",
        "tests/algorithms/test_protonet.py",
    ),
    Mutant("algorithms/matching.py", "scores.log_softmax(-1)", "scores", "tests/algorithms/test_matching.py"),
    Mutant(
        "algorithms/meta_lstm.py", "torch.sigmoid(gates.forget) * theta", "theta", "tests/algorithms/test_meta_lstm.py"
    ),
    Mutant("algorithms/meta_sgd.py", "second_order=True", "second_order=False", "tests/algorithms/test_meta_sgd.py"),
    # Networks
    Mutant(
        "nets/layers.py", "correction=0, keepdim=True) if", "correction=1, keepdim=True) if", "tests/nets/test_nets.py"
    ),
    Mutant(
        "nets/layers.py", "torch.sigmoid(f) * c +", "c +", "tests/nets/test_nets.py tests/algorithms/test_meta_lstm.py"
    ),
    Mutant(
        "nets/conv_block.py",
        "torch.where(gamma.detach() < 0, -1.0, 1.0)",
        "torch.where(gamma.detach() < 0, 1.0, 1.0)",
        "tests/nets/test_conv_block.py",
    ),
    # Tasks
    Mutant("tasks/episodes.py", "image[..., shot:])", "image[..., :query])", "tests/tasks/test_episodes.py"),
    Mutant(
        "tasks/episodes.py", "splits = self.train_splits\n", 'splits = ("train",)\n', "tests/tasks/test_episodes.py"
    ),
    Mutant("tasks/episodes.py", "keys.masked_fill(~members, -1)", "keys", SAMPLER),
    Mutant("tasks/variable_sizes.py", ".clamp(max=max_support)", "", SAMPLER),
    Mutant("tasks/variable_sizes.py", "amin(1).div(2", "amin(1).div(1", SAMPLER),
    Mutant(
        "tasks/sinusoid.py", 'torch.sin(x - at["phase"])', 'torch.cos(x - at["phase"])', "tests/tasks/test_curves.py"
    ),
    Mutant("seeding.py", "    x = (x ^ _shift(x, 27)) * _SECOND\n", "", "tests/test_seeding.py"),
    # Padding
    Mutant(
        "nets/conv_block.py",
        "reference_block(params, block, x, stats, mask)",
        "reference_block(params, block, x)",
        MASKS,
    ),
    Mutant("algorithms/base.py", "if mask is None else values.where(mask, 0).sum(1) / mask.sum(1)", "", MASKS),
    Mutant(
        "algorithms/embedding.py", "member if support.mask is None else member &", "member if True else member &", MASKS
    ),
)


def test_the_faults_and_their_tests_are_where_they_say() -> None:
    for mutant in MUTANTS:
        assert mutant.old in (ROOT / "metalearn_cli" / mutant.file).read_text(), mutant
        assert all((ROOT / test.partition("::")[0]).exists() for test in mutant.tests.split()), mutant


@pytest.mark.row("D8", ci=0, full=len(MUTANTS))
def test_a_fault_is_seen(attempt: int, tmp_path: Path) -> None:
    mutant = MUTANTS[attempt]
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", "outputs", "benchmarks", ".venv*"))
    path = tmp_path / "copy" / "metalearn_cli" / mutant.file
    before = path.read_text()
    path.write_text(before.replace(mutant.old, mutant.new))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METALEARN_")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *mutant.tests.split()],
        cwd=tmp_path / "copy",
        env={**environment, "PYTHONPATH": str(tmp_path / "copy")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, f"{mutant} was not seen: {done.stdout[-2000:]}"
