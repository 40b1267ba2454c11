"""The sentences for what ends a training early."""

from pathlib import Path

from metalearn_cli.config.job import Job
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import NonFinite
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.system.measure import peak_memory


def non_finite_sentence(failure: NonFinite, checkpoints: Path) -> str:
    tasks = f" in tasks {failure.tasks} of the meta-batch" if failure.tasks else ""
    return (
        f"the {failure.what} of step {failure.step} is not finite{tasks}, so training stopped before the update; "
        f"{last_good(checkpoints)}; try a lower algo.inner_lr or optimizer.lr, or optimizer.clip_norm=1"
    )


def out_of_memory_sentence(learner: Learner, job: Job, checkpoints: Path) -> str:
    """What took how much, and what makes it less. Nothing is made smaller by itself."""
    peak = peak_memory(learner.device)
    held = f", {peak / 1e6:.4g} MB at the most" if peak else ""
    at_once = job.run.tasks_per_chunk or job.run.tasks_per_step
    ways = [f"memory=auto, or tasks_per_chunk below {at_once}, changes no result"] if at_once != 1 else []
    ways += [f"algo.{key}=true" for key in job.algo.memory_savers()]
    return (
        f"there is not enough memory on {learner.device} in step {learner.last_started_step} or a test after it{held}, "
        f"so training stopped; {last_good(checkpoints)}; "
        f"{', or '.join([*ways, 'fewer algo.inner_steps or examples of a task'])}"
    )


def last_good(checkpoints: Path) -> str:
    paths = checkpoint.list_newest_first(checkpoints)
    return f"the last good checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"
