"""Training one run, from top to bottom."""

import shutil
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from metalearn_cli.config.job import Job
from metalearn_cli.errors import Pruned, UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.scores import is_better
from metalearn_cli.run_folder import checkpoint, runs, scored_parts
from metalearn_cli.run_folder.loggers import Mirror
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.writers import Writers
from metalearn_cli.system.console import Progress
from metalearn_cli.system.prefetch import ahead
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.capabilities import may_wait_for_disk
from metalearn_cli.training.failures import explained
from metalearn_cli.training.session import GivesUp, Session, never
from metalearn_cli.training.test import test
from metalearn_cli.training.validation import Best, choose_step, score_shown, write_validation


def train(session: Session, gives_up: GivesUp = never) -> Results:
    """Meta-train from the newest checkpoint in the folder (or from the start), then meta-test -> the results.

    Everything that happens at a step is a function of the configuration and the step, so that a run which was killed
    and continued ends with the same bits as one that was not. Raises Interrupted when the step is saved, and so Pruned
    where `gives_up` says so.

    With several ranks, every rank calls this with its own learner; only the first one touches the folder.
    """
    try:
        return _train(session, gives_up)
    except (UserError, Pruned):
        raise
    except Exception as failure:
        raise explained(failure, session) from failure


def _train(session: Session, gives_up: GivesUp) -> Results:
    learner, job, folder, console, _ = session
    settings, ranks = job.run, learner.ranks
    reached = resume(session)
    if reached.step < settings.steps:
        if ranks.is_first:  # what was scored is of other weights
            shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)
        if settings.compile or settings.cuda_graph:
            warm_up(session, reached.step)
    with (
        closing(training_batches(job, learner, reached.step)) as batches,
        closing(Writers(folder if ranks.is_first else None, *_written(reached, settings.steps))) as writers,
        closing(Mirror(folder, job, None, console, ranks)) as mirror,
    ):
        with Progress(console, "train", settings.steps, reached.step) as progress:
            events = Events(session, reached, writers, mirror, progress)
            if settings.steps == 0:  # the start itself is tested
                events.save()
            if reached.to_validate:  # its step is saved: nothing is lost by a signal
                events.validate(gives_up)
            elif reached.step < settings.steps:  # it may have been given up, and killed before that was recorded
                events.give_up(gives_up(folder))
            for step in range(reached.step, settings.steps):
                loss = learner.step(next(batches), step)
                reached.step = step + 1
                reached.to_validate = settings.eval_every > 0 and reached.step % settings.eval_every == 0
                events.log(loss)
                events.save_or_leave(is_new=reached.to_validate)
                if reached.to_validate:
                    events.validate(gives_up)
        results = test(session, choose_step(session, reached.best))
        writers.inner_steps(f"test/{results.metric}_over_inner_steps", results.per_step)
        writers.hparams(job.given_values, results)
        mirror.finish(results)
    return results


def _written(reached: "Reached", steps: int) -> tuple[int, bool]:
    """The step up to which the lines of an earlier command stay, and whether the validation of that step goes: also
    where the start was validated by itself, which a longer training does not do."""
    return reached.step, reached.to_validate or (reached.step == 0 and steps > 0)


@dataclass
class Reached:
    """How far a training has come, as a checkpoint records it."""

    step: int = 0  # the number of steps that are done
    best: Best | None = None  # validation so far
    to_validate: bool = False  # whether the validation of this step is still due


class Events:
    """What happens between the steps of a training: it logs, validates, is given up, saves, or leaves."""

    def __init__(
        self, session: Session, reached: Reached, writers: Writers, mirror: Mirror, progress: Progress
    ) -> None:
        self._session, self._reached = session, reached
        self._writers, self._mirror, self._progress = writers, mirror, progress
        self._logged, self._logged_step = time.perf_counter(), reached.step

    def log(self, loss: Tensor) -> None:
        """Write the loss [T] of the last step where it is due, and show it where it is time to."""
        job, step = self._session.job, self._reached.step
        if step % job.run.log_every == 0:
            self._session.learner.check()
            mean, now = loss.mean().item(), time.perf_counter()
            self._writers.metrics(step, {"train/loss": mean, "train/lr": job.optimizer.rate(step - 1)})
            self._writers.timing(step, {"steps_per_second": (step - self._logged_step) / (now - self._logged)})
            self._logged, self._logged_step = now, step
            self._progress.advance(step, f"loss {mean:.4f}")
        elif step == job.run.steps or self._progress.is_due():
            self._progress.advance(step, f"loss {loss.mean().item():.4f}")

    def validate(self, gives_up: GivesUp) -> None:
        """Validate the step, and remember it where it is the best so far. Raises Pruned where the run is given up."""
        (_, job, folder, _, _), reached = self._session, self._reached
        score = write_validation(self._session, self._writers, reached.step)
        reached.to_validate = False
        improved = is_better(job.task.spec.metric, score, reached.best.value if reached.best else None)
        if improved and score is not None:
            reached.best = Best(reached.step, score)
        verdict = gives_up(folder) if reached.step < job.run.steps else None
        self._progress.advance(reached.step, f"val {job.task.spec.metric} {score_shown(score)}")
        self.save_or_leave(is_new=improved or verdict is not None)
        self.give_up(verdict)

    def give_up(self, verdict: str | None) -> None:
        """Raises Pruned where there is a verdict."""
        if verdict is not None:
            raise Pruned(verdict)

    def save_or_leave(self, is_new: bool) -> None:
        """Save where that is due or something is new, and where a signal has come: then Interrupted is raised."""
        settings, interrupt, step = self._session.job.run, self._session.interrupt, self._reached.step
        interrupted = interrupt.has_come()  # asked once: a signal after this waits until a step is saved
        if is_new or interrupted or step % settings.save_every == 0 or step == settings.steps:
            self.save()
        if interrupted:
            interrupt.poll()  # all ranks together, when the first has saved

    def save(self) -> None:
        """Write a checkpoint in the first rank, after all that it makes final."""
        learner, job, reached = self._session.learner, self._session.job, self._reached
        if not learner.ranks.is_first:
            return
        state = learner.state_dict()
        self._writers.sync()
        best = reached.best._asdict() if reached.best else None
        record = {"best": best, "to_validate": reached.to_validate, "config": runs.deciding(job.config)}
        checkpoint.save(self._session.checkpoints, reached.step, state, record)
        checkpoint.prune(self._session.checkpoints, job.run.keep, reached.best.step if reached.best else None)
        self._mirror.send()


def warm_up(session: Session, step: int) -> None:
    """Compile or capture what step `step` needs, and every later one: all meta-batches have one shape."""
    learner, job, _, console, interrupt = session
    doing, done = ("compiling", "compiled") if job.run.compile else ("capturing", "captured")
    console.say(f"{doing} the training step, which can take minutes; Ctrl-C leaves at once")
    began = time.perf_counter()
    with interrupt.leaving_at_once():
        learner.warm_up(job.task.gather(job.training_draw(step), learner.device), step)
    console.say(f"{done} in {time.perf_counter() - began:.0f} s")


def training_batches(job: Job, learner: Learner, first: int) -> Generator[Batch]:
    """The batches of steps `first`, `first + 1`, ...; the next one is gathered in a thread where that takes long."""

    def gather(step: int) -> Batch:
        return job.task.gather(job.training_draw(step, learner.ranks), learner.device)

    steps = range(first, job.run.steps)
    yield from ahead(gather, steps) if may_wait_for_disk(job.task, learner.device) else map(gather, steps)


def resume(session: Session) -> Reached:
    """Load the newest whole checkpoint."""
    learner, job, _, console, _ = session
    checkpoints = session.checkpoints

    def load_newest() -> tuple[checkpoint.Checkpoint | None, list[str]]:
        checkpoints.mkdir(exist_ok=True)
        return checkpoint.load_newest(checkpoints)

    newest, skipped = learner.ranks.from_first(load_newest)
    for damage in skipped:
        console.say(f"skipping {damage}")
    if newest is None:
        # Without a step to be validated after, the start is what heads and their settings are chosen by.
        asked = "eval_every" in job.given_keys and job.run.eval_every > 0
        return Reached(to_validate=job.run.steps == 0 and asked)
    learner.load_state_dict(newest.tensors)
    console.say(f"continuing after step {newest.step}")
    is_begun = newest.step > 0 or job.run.steps == 0  # a training's best is one of its own validations
    best = Best(**newest.record["best"]) if newest.record["best"] and is_begun else None
    if learner.ranks.is_first and not skipped:  # killed between a save and what it makes superfluous
        checkpoint.prune(checkpoints, job.run.keep, best.step if best else None)
    return Reached(newest.step, best, newest.record["to_validate"] and is_begun)
