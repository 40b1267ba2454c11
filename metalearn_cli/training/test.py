"""Validate and test a learner; write results.json and episodes.npz."""

import dataclasses
import hashlib
import io
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.job import Job, Select
from metalearn_cli.learning.draws import BLOCK, draw_episodes
from metalearn_cli.learning.evaluate import (
    EpisodeScores,
    Evaluation,
    baselines,
    evaluate,
    evaluation,
    part_size,
    score_episodes,
)
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.scores import figures, has_diverged, is_better, steps_to_show, summarise
from metalearn_cli.pictures.first_tasks import first_tasks, fit_picture, picture
from metalearn_cli.run_folder import checkpoint, runs, scored_parts
from metalearn_cli.run_folder.choices import read_choices
from metalearn_cli.run_folder.results import Results, StepResult, write_results
from metalearn_cli.run_folder.series import validations
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.signals import Interrupt
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.tasks.base import Draw, draw_slice
from metalearn_cli.tasks.resized import Adapted


def choose_step(
    learner: Learner, job: Job, folder: Path, best: dict[str, Any] | None, console: Console, interrupt: Interrupt
) -> int:
    """The step that is tested, which is said with the reason; the learner then has its parameters.

    The last step is validated too, where another one was: if eval_every has left it out, its validation is of this
    choice alone. It stands in no file, so that a run that is prolonged is as one that was long from the start.
    """
    settings, metric, last = job.run, job.task.spec.metric, job.run.steps
    scores = learner.ranks.from_first(lambda: validations(folder, metric))
    if settings.select is Select.best and best is not None and last not in scores:
        _, scores[last] = validate(learner, job, console, interrupt)
        console.say(f"step {last}, the last, has val {metric} {_shown(scores[last])}")
        if is_better(metric, scores[last], best["value"]):
            best = {"step": last, "value": scores[last]}
    if last == 0:
        tested, why = 0, "before any training"
    elif settings.select is Select.last:
        tested, why = last, "the last"
    elif best is None:
        tested, why = last, f"the last, as there was {'no finite' if scores else 'no'} validation to choose by"
    else:
        tested, why = best["step"], f"the best of {len(scores)} validation{'s' * (len(scores) != 1)} by {metric}"
    console.say(f"testing step {tested}, {why}")
    if tested != last:
        chosen = learner.ranks.from_first(lambda: checkpoint.load_step(folder / "checkpoints", tested))
        learner.load_state_dict(chosen.tensors)
    return tested


def _shown(score: float | None) -> str:
    return "not finite" if score is None else f"{score:.4f}"


def validate(
    learner: Learner, job: Job, console: Console, interrupt: Interrupt
) -> tuple[dict[str, float], float | None]:
    """Score the validation episodes -> the values for metrics.jsonl, and the one that chooses the best checkpoint.

    `val/accuracy` (or `val/mse`) is after the last inner step, `val/accuracy_step0` before the first, and so on,
    of many steps about a dozen. A signal ends it at once.
    """
    settings, metric = job.run, job.task.spec.metric
    with (
        interrupt.leaving_at_once(),
        Progress(console, "validate", settings.eval_episodes, passing=True) as progress,
    ):
        found = evaluate(
            *(learner, job.task, "val", settings.eval_episodes, settings.episodes_seed, [job.headline]),
            lambda done: progress.advance(done, "episodes"),
        )
    scores = found.scores[job.headline]
    per_step = [figures(values).mean for values in scores.metric.T]
    loss = figures(scores.loss[:, -1]).mean
    values = {"val/loss": loss, f"val/{metric}": per_step[-1]}
    if len(per_step) > 1:
        shown = steps_to_show(len(per_step) - 1)
        values |= {f"val/{metric}_step{number}": per_step[number] for number in shown}
    return {name: value for name, value in values.items() if value is not None}, per_step[-1]


def test(
    learner: Learner,
    job: Job,
    folder: Path,
    step: int,
    console: Console,
    interrupt: Interrupt,
) -> Results:
    """Score the test episodes in every batch-norm mode, and write results.json and episodes.npz into `folder`.

    A signal ends it at once: what was scored is kept, and the next call goes on with it.
    """
    modes = job.test_modes
    with interrupt.leaving_at_once():
        found = _score_test(learner, job, folder, modes, console)
        results = learner.ranks.from_first(lambda: _write_test(learner, job, folder, found, step, modes, console))
    return results


def _score_test(learner: Learner, job: Job, folder: Path, modes: list[BatchNorm], console: Console) -> Evaluation:
    """In parts of its blocks; those that take long are kept until all are scored."""
    settings, ranks, total = job.run, learner.ranks, job.run.test_episodes
    size = part_size(learner)
    kept = ranks.from_first(lambda: _kept_parts(learner, job, folder, modes))
    parts = ranks.from_first(lambda: scored_parts.read(kept, modes))
    if before := sum(len(part[modes[0]].loss) for part in parts.values()):
        console.say(f"going on with the test after {before} of {total} episodes, which were scored earlier")
    what = f"testing {total - before} episodes" + (f" in {len(modes)} batch-norm modes" if len(modes) > 1 else "")
    draws: list[Draw] = []
    scored: list[EpisodeScores] = []
    with Progress(console, "test", total, before, announced=what) as progress:
        for block in draw_episodes(job.task, "test", total, settings.episodes_seed):
            for first in range(0, len(block["key"]), size):
                draw, began = draw_slice(block, first, first + size), time.monotonic()
                place = (BLOCK * len(draws) + first, len(draw["key"]))
                if place not in parts:
                    parts[place] = score_episodes(
                        *(learner, job.task, draw, modes, before), lambda done: progress.advance(done, "episodes")
                    )
                    before += len(draw["key"])
                    if ranks.is_first and time.monotonic() - began >= scored_parts.WORTH_KEEPING:
                        scored_parts.write(kept, place, parts[place])
                scored.append(parts[place])
            draws.append(block)
    return evaluation(job.task, draws, scored)


def _kept_parts(learner: Learner, job: Job, folder: Path, modes: list[BatchNorm]) -> Path:
    """Where the parts of this test are kept."""
    parts = [job.config[key] for key in ("algo", "task", "model", "precision", "episodes_seed")]
    about = [
        *parts,
        to_json(read_choices(folder)),
        job.run.tasks_per_chunk,
        job.task.fingerprint,
        [mode.name for mode in modes],
    ]
    return folder / scored_parts.FOLDER / scored_parts.key_of(learner, about)


def _write_test(
    learner: Learner, job: Job, folder: Path, found: Evaluation, step: int, modes: list[BatchNorm], console: Console
) -> Results:
    settings, headline = job.run, modes[0]
    results = summarise_test(job, found, step, modes)
    errors = baselines(job.task, "test", settings.test_episodes, settings.episodes_seed, learner.device)
    arrays = {"loss": found.scores[headline].loss.numpy(), "metric": found.scores[headline].metric.numpy()}
    arrays |= {f"metric_{mode.name}": found.scores[mode].metric[:, 0].numpy() for mode in modes[1:]}
    arrays["episode"] = found.hashes.numpy()
    episodes = npz(arrays)
    results = dataclasses.replace(
        results,
        learned=job.algo.learned(learner.meta),
        baselines={name: figures(error) for name, error in errors.items()},
        episodes_npz=hashlib.sha256(episodes).hexdigest(),
        config=runs.deciding(job.config),
    )
    (folder / "results.json").unlink(missing_ok=True)  # of fewer steps: its values are not there any longer
    write_durably(folder / "episodes.npz", episodes)
    if (drawn := picture(learner, job, "test", headline)) is not None:
        file = io.BytesIO()
        Image.fromarray(drawn.numpy()).save(file, "PNG")
        write_durably(folder / "test.png", file.getvalue())
    if shown := first_tasks(learner, job, headline):
        write_durably(folder / "examples.npz", npz(shown))
    if job.task.spec.kind == "values" and job.task.spec.input_shape == (1,) and job.task.spec.outputs == 1:
        console.show(fit_picture(learner, job, headline))
    write_results(folder, results)
    shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)
    return results


def summarise_test(job: Job, found: Evaluation, step: int, modes: list[BatchNorm]) -> Results:
    """Summarise the scores of a test; the first mode is the headline."""
    spec, scores = job.task.spec, found.scores[modes[0]]
    before = scores.loss[:, 0]
    diverged = has_diverged(spec.kind, scores.loss, before)
    per_step = tuple(
        StepResult(number, *summarise(scores.metric[:, number], diverged[:, number]))
        for number in range(scores.metric.shape[1])
    )
    last = per_step[-1]
    return Results(
        episodes=len(scores.metric),
        episodes_sha256=found.episodes_sha256,
        metric=spec.metric,
        mean=last.mean,
        ci95=last.ci95,
        median=last.median,
        per_step=per_step,
        batch_norm=modes[0].name if job.net.init_stats() else None,
        other_batch_norm={
            mode.name: summarise(metric[:, 0], has_diverged(spec.kind, loss, before)[:, 0])
            for mode, (loss, metric) in found.scores.items()
            if mode is not modes[0]
        },
        algo=job.choices["algo"],
        task=job.choices["task"],
        adapted=job.task.rule if isinstance(job.task, Adapted) else None,
        experiment=job.choices.get("experiment"),
        seed=job.run.seed,
        episodes_seed=job.run.episodes_seed,
        step=step,
        steps=job.run.steps,
        select=job.run.select.name,
        paper=job.run.paper_record,
    )


def npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
