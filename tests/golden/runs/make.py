"""Small runs of this version, which every later one must be able to test and to prolong.

    PYTHONPATH=. python tests/golden/runs/make.py    # once for each release, before it is tagged; then commit it

Writes tests/golden/runs/VERSION/NAME/: what a run leaves, without its pictures and logs, and continued.json, the
results of the same run with PROLONGED steps. What was released is never written again.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from metalearn_cli.version import __version__

sys.path.append(str(Path(__file__).parents[2] / "helpers"))
from commands import run

STEPS, PROLONGED = 20, 25
COMMON = ["tasks_per_step=2", "test_episodes=16", "eval_episodes=8", "threads=1", "log_every=5", "eval_every=10"]
COMMON += ["keep=1", "select=last", "name=run"]  # the last: what was trained after the checkpoint counts
RUNS = {
    "maml": ["algo=maml", "task=sinusoid", "model.hidden=[8]", "algo.test_steps=2"],
    "meta_sgd-batch-norm": [
        *("algo=meta_sgd", "task=sinusoid_or_line", "task.noise=0.1", "model.hidden=[8]", "model.batch_norm=true"),
        *("algo.test_steps=2", "optimizer=adamw"),
    ],
    "reptile-annealed": [
        *("algo=reptile", "task=sinusoid", "model.hidden=[8]", "algo.inner_steps=3", "algo.test_steps=2"),
        *("optimizer.schedule_steps=40", "precision=fp64"),
    ],
    "learned_optimizer": [
        *("algo=learned_optimizer", "task=quadratics", "task.dimension=3", "algo.hidden=[4]", "algo.unroll=3"),
        *("algo.horizon=9", "algo.test_steps=4"),
    ],
}
KEPT = ("config.yaml", "overrides.txt", "environment.json", "choices.json", "metrics.jsonl", "results.json")


def main() -> None:
    target = Path(__file__).parent / __version__
    if target.exists():
        sys.exit(f"{target} is there: remove it, but never after the release")
    for name, arguments in RUNS.items():
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            done = run(folder, "train", *arguments, *COMMON, f"steps={STEPS}")
            assert done.code == 0, done.err
            made = folder / "outputs" / "run"
            (target / name).mkdir(parents=True)
            shutil.copytree(made / "checkpoints", target / name / "checkpoints")
            for file in KEPT:
                shutil.copy(made / file, target / name)
            done = run(folder, "train", *arguments, *COMMON, f"steps={PROLONGED}")
            assert done.code == 0, done.err
            shutil.copy(made / "results.json", target / name / "continued.json")


if __name__ == "__main__":
    main()
