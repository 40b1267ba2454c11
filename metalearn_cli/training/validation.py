"""Validate a learner, and choose the step that is tested by its validations."""

from typing import NamedTuple

from metalearn_cli.config.job import Select
from metalearn_cli.learning.draws import EpisodeRange
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.learning.scores import figures, is_better, steps_to_show
from metalearn_cli.pictures.arrays import first_tasks
from metalearn_cli.pictures.raster import picture
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.run_folder.series import validations
from metalearn_cli.run_folder.writers import Writers
from metalearn_cli.system.console import Progress
from metalearn_cli.training.session import Session


class Best(NamedTuple):
    """The best validation so far."""

    step: int
    value: float


def write_validation(session: Session, writers: Writers, step: int) -> float | None:
    """Score the validation episodes, and write the values, with a picture of the first tasks -> the score by which the
    best checkpoint is chosen; None: it is not finite."""
    learner, job, _, _, _ = session
    values, score = validate(session)
    writers.metrics(step, values)
    if learner.ranks.is_first and (tasks := first_tasks(learner, job, "val", job.headline)):
        writers.picture(step, "val/tasks", picture(tasks))
    return score


def validate(session: Session) -> tuple[dict[str, float], float | None]:
    """Score the validation episodes -> the values for metrics.jsonl, and the one that chooses the best checkpoint.

    `val/accuracy` (or `val/mse`) is after the last inner step, `val/accuracy_step0` before the first, and so on,
    of many steps about a dozen. A signal ends it at once.
    """
    learner, job, _, console, interrupt = session
    settings, metric = job.run, job.task.spec.metric
    with interrupt.leaving_at_once(), Progress(console, "validate", settings.eval_episodes, passing=True) as progress:
        evaluation = evaluate(
            *(learner, job.task, EpisodeRange("val", settings.eval_episodes, settings.episodes_seed), [job.headline]),
            lambda done: progress.advance(done, "episodes"),
        )
    scores = evaluation.scores[job.headline]
    per_step = [figures(values).mean for values in scores.metric.T]
    loss = figures(scores.loss[:, -1]).mean
    values = {"val/loss": loss, f"val/{metric}": per_step[-1]}
    if len(per_step) > 1:
        numbers = steps_to_show(len(per_step) - 1)
        values |= {f"val/{metric}_step{number}": per_step[number] for number in numbers}
    return {name: value for name, value in values.items() if value is not None}, per_step[-1]


def choose_step(session: Session, best: Best | None) -> int:
    """Say which step is tested, and why; the learner then has its parameters.

    The last step is validated too, where another one was. If eval_every leaves it out, that validation serves this
    choice alone and is not written: so a prolonged run equals one that was long from the start.
    """
    learner, job, folder, console, _ = session
    settings, metric, last = job.run, job.task.spec.metric, job.run.steps
    scores = learner.ranks.from_first(lambda: validations(folder, metric))
    if settings.select is Select.best and best is not None and last not in scores:
        _, score = validate(session)
        scores[last] = score
        console.say(f"step {last}, the last, has val {metric} {score_shown(score)}")
        if score is not None and is_better(metric, score, best.value):
            best = Best(last, score)
    if last == 0:
        tested, why = 0, "before any training"
    elif settings.select is Select.last:
        tested, why = last, "the last"
    elif best is None:
        tested, why = last, f"the last, as there was {'no finite' if scores else 'no'} validation to choose by"
    else:
        tested, why = best.step, f"the best of {len(scores)} validation{'s' * (len(scores) != 1)} by {metric}"
    console.say(f"testing step {tested}, {why}")
    if tested != last:
        chosen = learner.ranks.from_first(lambda: checkpoint.load_step(session.checkpoints, tested))
        learner.load_state_dict(chosen.tensors)
    return tested


def score_shown(score: float | None) -> str:
    return "not finite" if score is None else f"{score:.4f}"
