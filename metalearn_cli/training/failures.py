"""The sentences for failures that end a training early."""

from pathlib import Path

from metalearn_cli.errors import RunFailed, UserError, failure_sentence
from metalearn_cli.learning.step import NonFinite
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.system.measure import is_out_of_memory, peak_memory
from metalearn_cli.training.session import Session


def explained(failure: Exception, session: Session) -> UserError | RunFailed:
    """Say why training stopped, what of it is saved, and what to do."""
    device, advice = session.learner.device, "mend it, and give the same command again"
    where = f"in step {session.learner.last_started_step} or a test after it"
    kind: type[UserError | RunFailed] = UserError
    if isinstance(failure, NonFinite):
        tasks = f" in tasks {failure.tasks} of the meta-batch" if failure.tasks else ""
        end = f"the {failure.what} of step {failure.step} is not finite{tasks}, so training stopped before the update"
        advice = "try a lower algo.inner_lr or optimizer.lr, or optimizer.clip_norm=1"
    elif isinstance(failure, OSError):  # a full disk, a folder that is gone
        end = f"{failure.strerror or failure}: {failure.filename or session.folder}, so training stopped"
    elif is_out_of_memory(failure):
        peak = peak_memory(device)
        held = f", {peak / 1e6:.4g} MB at the most" if peak else ""
        end = f"there is not enough memory on {device} {where}{held}, so training stopped"
        advice = _less_memory(session)
    else:
        kind, end = RunFailed, f"{failure_sentence(failure)}, so training stopped {where}"
    return kind(f"{end}; {_last_good(session.checkpoints)}; {advice}")


def _less_memory(session: Session) -> str:
    """Say what would take less memory. Nothing is made smaller by itself."""
    algo, settings = session.job.algo, session.job.run
    at_once = settings.tasks_per_chunk or settings.tasks_per_step
    ways = [f"memory=auto, or tasks_per_chunk below {at_once}, changes no result"] if at_once != 1 else []
    ways += [f"algo.{key}=true" for key in algo.open_memory_savers()]
    return ", or ".join([*ways, "fewer algo.inner_steps or examples of a task"])


def _last_good(checkpoints: Path) -> str:
    paths = checkpoint.list_newest_first(checkpoints)
    return f"the last good checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"
