"""Test a learner; write results.json and episodes.npz."""

import dataclasses
import hashlib
import io
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.capabilities import learned
from metalearn_cli.config.job import Job
from metalearn_cli.learning.baselines import baselines
from metalearn_cli.learning.draws import BLOCK, EpisodeRange, draw_episodes
from metalearn_cli.learning.evaluate import EpisodeScores, Evaluation, join_scores, part_size, score_episodes
from metalearn_cli.learning.leakage import leakage, named_labels, set_known_to
from metalearn_cli.learning.scores import figures, figures_beside, has_diverged, summarise
from metalearn_cli.pictures.arrays import first_tasks
from metalearn_cli.pictures.raster import picture, png
from metalearn_cli.pictures.terminal import first_curve
from metalearn_cli.run_folder import environment, records, runs, scored_parts
from metalearn_cli.run_folder.results import BASELINE, RESULTS, Results, StepResult
from metalearn_cli.system.console import Progress
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.tasks.base import Draw, draw_slice
from metalearn_cli.tasks.likelihood import Gaussian
from metalearn_cli.tasks.metrics import METRICS
from metalearn_cli.tasks.resized import ResizedImages
from metalearn_cli.training.session import Session


def test(session: Session, step: int) -> Results:
    """Score the test episodes in every batch-norm mode, and write results.json and episodes.npz into the folder.

    A signal ends it at once: what was scored is kept, and the next call goes on with it.
    """
    with session.interrupt.leaving_at_once():
        learner, job, _, _, _ = session
        scored, draws = _score_test(session)
        episodes = EpisodeRange("test", job.run.test_episodes, job.run.episodes_seed)
        beside = baselines(job.task, episodes, learner.device, learner.ranks)
        return learner.ranks.from_first(lambda: _write_test(session, draws, scored, beside, step))


def _score_test(session: Session) -> tuple[Evaluation, list[Draw]]:
    """Score the test in parts of its blocks, and return these; parts that take long are kept until all are scored."""
    learner, job, _, console, _ = session
    modes = job.test_modes
    settings, ranks, total = job.run, learner.ranks, job.run.test_episodes
    size = part_size(learner)
    kept = ranks.from_first(lambda: _kept_parts(session))
    parts = ranks.from_first(lambda: scored_parts.read_parts(kept, modes))
    if before := sum(len(part[modes[0]].loss) for part in parts.values()):
        console.say(f"going on with the test after {before} of {total} episodes, which were scored earlier")
    what = f"testing {total - before} episodes" + (f" in {len(modes)} batch-norm modes" if len(modes) > 1 else "")
    draws: list[Draw] = []
    scored: list[EpisodeScores] = []
    with Progress(console, "test", total, before, announced=what) as progress:
        report = partial(progress.advance, note="episodes")
        for block in draw_episodes(job.task, EpisodeRange("test", total, settings.episodes_seed)):
            for first in range(0, len(block["key"]), size):
                draw, began = draw_slice(block, first, first + size), time.monotonic()
                place = (BLOCK * len(draws) + first, len(draw["key"]))
                if place not in parts:
                    parts[place] = score_episodes(learner, job.task, draw, modes, before, report)
                    before += len(draw["key"])
                    if ranks.is_first and time.monotonic() - began >= scored_parts.WORTH_KEEPING:
                        scored_parts.write_part(kept, place, parts[place])
                scored.append(parts[place])
            draws.append(block)
    return join_scores(job.task, draws, scored), draws


def _kept_parts(session: Session) -> Path:
    """The folder in which the parts of this test are kept."""
    learner, job, folder, _, _ = session
    parts = [job.config[key] for key in ("algo", "task", "model", "precision", "episodes_seed")]
    chosen = to_json(environment.read_choices(folder))
    about = [*parts, chosen, job.run.tasks_per_chunk, job.task.fingerprint, [mode.name for mode in job.test_modes]]
    return folder / scored_parts.FOLDER / scored_parts.part_key(learner, about)


def _write_test(
    session: Session, draws: list[Draw], scored: Evaluation, beside: dict[str, Tensor], step: int
) -> Results:
    learner, job, folder, console, _ = session
    modes = job.test_modes
    headline = scored.scores[job.headline]
    if job.task.spec.metric == Gaussian.metric and "oracle" in beside:
        headline.beside["oracle_gap"] = beside["oracle"] - headline.metric[:, -1]
    arrays = {"loss": headline.loss.numpy(), "metric": headline.metric.numpy()}
    arrays |= {name: values.numpy() for name, values in headline.beside.items()}
    arrays |= {f"metric_{mode.name}": scored.scores[mode].metric[:, 0].numpy() for mode in modes[1:]}
    arrays |= {f"{BASELINE}{name}": values.numpy() for name, values in beside.items()}
    leaked = None
    if (pictured := set_known_to(job.net, job.task)) is not None:
        named = named_labels(pictured, draws)
        leaked, arrays["named"] = leakage(pictured, headline.beside["by_label"], named), named.numpy()
    arrays["episode"] = scored.hashes.numpy()
    file = npz(arrays)
    results = dataclasses.replace(
        summarise_test(job, scored, step, modes),
        learned=learned(job.algo, learner.meta),
        baselines={name: figures(values) for name, values in beside.items()},
        baseline_episodes=next((len(values) for values in beside.values() if len(values) < len(headline.loss)), None),
        leakage=leaked,
        episodes_npz=hashlib.sha256(file).hexdigest(),
        config=runs.deciding(job.config),
    )
    (folder / "results.json").unlink(missing_ok=True)  # of fewer steps: it would describe other values
    write_durably(folder / "episodes.npz", file)
    if tasks := first_tasks(learner, job, "test", job.headline):
        write_durably(folder / "test.png", png(picture(tasks)))
        write_durably(folder / "examples.npz", npz(tasks))
        if "line_y" in tasks:
            console.show(first_curve(tasks))
    records.write_record(folder / RESULTS, results)
    shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)
    return results


def summarise_test(job: Job, scored: Evaluation, step: int, modes: list[BatchNorm]) -> Results:
    """Summarise the scores of a test; the first mode is the headline."""
    spec, scores = job.task.spec, scored.scores[modes[0]]
    before, worst = scores.loss[:, 0], METRICS[spec.metric].worst
    diverged = has_diverged(spec.metric, scores.loss, before)
    per_step = tuple(
        StepResult(number, *summarise(scores.metric[:, number], diverged[:, number], worst))
        for number in range(scores.metric.shape[1])
    )
    last = per_step[-1]
    return Results(
        episodes=len(scores.metric),
        episodes_sha256=scored.episodes_sha256,
        metric=spec.metric,
        mean=last.mean,
        ci95=last.ci95,
        median=last.median,
        per_step=per_step,
        beside=figures_beside(scores.beside),
        batch_norm=modes[0].name if job.net.init_stats() else None,
        transductive_head=job.algo.transductive_head,
        other_batch_norm={
            mode.name: summarise(metric[:, 0], has_diverged(spec.metric, loss, before)[:, 0], worst)
            for mode, (loss, metric, _) in scored.scores.items()
            if mode is not modes[0]
        },
        algo=job.choices["algo"],
        task=job.choices["task"],
        adapted=job.task.rule if isinstance(job.task, ResizedImages) else None,
        experiment=job.choices.get("experiment"),
        seed=job.run.seed,
        episodes_seed=job.run.episodes_seed,
        step=step,
        steps=job.run.steps,
        select=job.run.select.name,
        paper=job.run.paper,
    )


def npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
