"""Training one run, from top to bottom."""

import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from metalearn_cli.config.conf_folder import flatten
from metalearn_cli.config.job import Job
from metalearn_cli.errors import Pruned, RunFailed, UserError, failure_sentence
from metalearn_cli.learning.learner import Learner, NonFinite
from metalearn_cli.learning.scores import is_better
from metalearn_cli.pictures.first_tasks import picture
from metalearn_cli.run_folder import checkpoint, runs, scored_parts
from metalearn_cli.run_folder.loggers import new_mirror
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.writers import Writers
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.measure import is_out_of_memory
from metalearn_cli.system.prefetch import ahead
from metalearn_cli.system.signals import Interrupt
from metalearn_cli.tasks.base import Batch
from metalearn_cli.training.failures import last_good, non_finite_sentence, out_of_memory_sentence
from metalearn_cli.training.test import _shown, choose_step, test, validate

# Why the run in a folder is not worth its time, by its validations so far; None where it goes on.
GivesUp = Callable[[Path], str | None]


def train(
    learner: Learner, job: Job, folder: Path, console: Console, interrupt: Interrupt, gives_up: GivesUp | None = None
) -> Results:
    """Meta-train from the newest checkpoint in `folder` (or from the start), then meta-test -> results.json's content.

    Everything that happens at a step is a function of the configuration and the step, so that a run which was killed
    and continued ends with the same bits as one that was not. Raises Interrupted when the step is saved, and so Pruned
    where a search gives the run up.

    Of several ranks each comes here, with its own learner; the first one reads and writes `folder`.
    """
    try:
        return _train(learner, job, folder, console, interrupt, gives_up)
    except NonFinite as failure:
        raise UserError(non_finite_sentence(failure, folder / "checkpoints")) from failure
    except OSError as failure:  # a full disk, a folder that is gone
        what = f"{failure.strerror or failure}: {failure.filename or folder}"
        raise UserError(
            f"{what}, so training stopped; {last_good(folder / 'checkpoints')}; "
            "mend it, and give the same command again"
        ) from failure
    except (UserError, Pruned):
        raise
    except Exception as failure:
        if is_out_of_memory(failure):
            raise UserError(out_of_memory_sentence(learner, job, folder / "checkpoints")) from failure
        raise RunFailed(
            f"{failure_sentence(failure)}, so training stopped in step {learner.begun} or a test after it; "
            f"{last_good(folder / 'checkpoints')}; mend it, and give the same command again"
        ) from failure


def _train(
    learner: Learner, job: Job, folder: Path, console: Console, interrupt: Interrupt, gives_up: GivesUp | None
) -> Results:
    settings, task, ranks = job.run, job.task, learner.ranks
    checkpoints = folder / "checkpoints"
    done, best, to_validate = resume(learner, checkpoints, settings.keep, console)
    if done < settings.steps and ranks.is_first:  # what was scored is of other weights
        shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)
    if (settings.compile or settings.cuda_graph) and done < settings.steps:
        warm_up(learner, job, done, console, interrupt)
    since, since_step = time.perf_counter(), done
    with (
        closing(training_batches(job, learner, done)) as batches,
        closing(Writers(folder if ranks.is_first else None, done, to_validate)) as writers,
        closing(new_mirror(folder, job, None, console, ranks)) as mirror,
    ):

        def save() -> None:
            state = learner.state_dict()
            writers.sync()
            record = {"best": best, "to_validate": to_validate, "config": runs.deciding(job.config)}
            checkpoint.save(checkpoints, done, state, record)
            checkpoint.prune(checkpoints, settings.keep, best["step"] if best else None)
            mirror.send()

        if settings.steps == 0 and ranks.is_first:  # what is there is tested
            save()
        with Progress(console, "train", settings.steps, done) as progress:
            # One that was pruned, and killed before that was recorded, is pruned again.
            verdict = gives_up(folder) if gives_up and done < settings.steps and not to_validate else None
            while (done < settings.steps or to_validate) and not verdict:
                improved = False
                if to_validate:  # the step is saved: nothing is lost by a signal
                    values, score = validate(learner, job, console, interrupt)
                    to_validate = False
                    writers.metrics(done, values)
                    if ranks.is_first and (drawn := picture(learner, job, "val", job.headline)) is not None:
                        writers.picture(done, "val/tasks", drawn)
                    improved = is_better(task.spec.metric, score, best["value"] if best else None)
                    if improved:
                        best = {"step": done, "value": score}
                    verdict = gives_up(folder) if gives_up and done < settings.steps else None
                    progress.advance(done, f"val {task.spec.metric} {_shown(score)}")
                else:
                    loss = learner.step(next(batches), done)
                    done += 1
                    if done % settings.log_every == 0:
                        learner.check()
                        mean = loss.mean().item()
                        writers.metrics(done, {"train/loss": mean, "train/lr": job.optimizer.rate(done - 1)})
                        now = time.perf_counter()
                        writers.timing(done, {"steps_per_second": (done - since_step) / (now - since)})
                        since, since_step = now, done
                        progress.advance(done, f"loss {mean:.4f}")
                    elif done == settings.steps or progress.is_due():
                        progress.advance(done, f"loss {loss.mean().item():.4f}")
                    to_validate = settings.eval_every > 0 and done % settings.eval_every == 0
                interrupted = interrupt.has_come()  # asked once: a signal after this waits until a step is saved
                is_due = done % settings.save_every == 0 or done == settings.steps or to_validate or improved
                if (is_due or verdict or interrupted) and ranks.is_first:
                    save()
                if interrupted:
                    interrupt.poll()  # all ranks together, when the first has saved
            if verdict:
                raise Pruned(verdict)
        tested = choose_step(learner, job, folder, best, console, interrupt)
        results = test(learner, job, folder, tested, console, interrupt)
        writers.inner_steps(f"test/{results.metric}_over_inner_steps", results.per_step)
        writers.hparams(given_settings(job), results)
        mirror.finish(results)
    return results


def given_settings(job: Job) -> dict[str, Any]:
    """What the command line gave, with its values: in a sweep, what was swept, and what is the same in all its jobs."""
    settings = {**flatten(job.config), **job.choices}
    return {key: settings[key] for key in sorted(job.given) if key in settings and key != "name"}


def warm_up(learner: Learner, job: Job, step: int, console: Console, interrupt: Interrupt) -> None:
    """What step `step` needs is what every later one needs: all meta-batches have one shape."""
    doing, done = ("compiling", "compiled") if job.run.compile else ("capturing", "captured")
    console.say(f"{doing} the training step, which can take minutes; Ctrl-C leaves at once")
    began = time.perf_counter()
    with interrupt.leaving_at_once():
        learner.warm_up(job.task.gather(job.training_draw(step), learner.device), step)
    console.say(f"{done} in {time.perf_counter() - began:.0f} s")


def training_batches(job: Job, learner: Learner, first: int) -> Generator[Batch]:
    """Those of the steps from `first` on; each is gathered while the step before it is made, where that takes long."""

    def gather(step: int) -> Batch:
        return job.task.gather(job.training_draw(step, learner.ranks), learner.device)

    steps = range(first, job.run.steps)
    yield from ahead(gather, steps) if job.task.is_far(learner.device) else map(gather, steps)


def resume(learner: Learner, checkpoints: Path, keep: int, console: Console) -> tuple[int, dict[str, Any] | None, bool]:
    """Load the newest whole checkpoint -> the steps done, the best validation so far, and whether one is still due."""
    ranks = learner.ranks

    def load_newest() -> tuple[checkpoint.Checkpoint | None, list[str]]:
        checkpoints.mkdir(exist_ok=True)
        return checkpoint.load_newest(checkpoints)

    newest, skipped = ranks.from_first(load_newest)
    for damage in skipped:
        console.say(f"skipping {damage}")
    if newest is None:
        return 0, None, False
    learner.load_state_dict(newest.tensors)
    console.say(f"continuing after step {newest.step}")
    best = newest.record["best"]
    if ranks.is_first and not skipped:  # killed between a save and what it makes superfluous
        checkpoint.prune(checkpoints, keep, best["step"] if best else None)
    return newest.step, best, newest.record["to_validate"]
