"""Training and testing one run, from top to bottom."""

import io
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metalearn_cli import checkpoint, runs
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config import Job, Select, resolve_device
from metalearn_cli.errors import UserError
from metalearn_cli.evaluate import Evaluation, draw_block, evaluate
from metalearn_cli.files import write_durably
from metalearn_cli.learner import Learner, NonFinite
from metalearn_cli.metrics import has_diverged, is_better, summarise
from metalearn_cli.plot import plot
from metalearn_cli.progress import Console, Progress
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import draw_slice
from metalearn_cli.writers import Writers


def train(learner: Learner, job: Job, folder: Path, console: Console) -> dict[str, Any]:
    """Meta-train from the newest checkpoint in `folder` (or from the start), then meta-test -> results.json's content.

    Everything that happens at a step is a function of the configuration and the step, so that a run which was killed
    and continued ends with the same bits as one that was not.
    """
    settings, task = job.run, job.task
    prepare(job, folder, console, learner.device)
    headline = settings.batch_norm or job.algo.batch_norm
    checkpoints = folder / "checkpoints"
    start, best = resume(learner, checkpoints, console)
    since, since_step = time.perf_counter(), start
    with closing(Writers(folder, start)) as writers, Progress(console, "train", settings.steps, start) as progress:
        for step in range(start, settings.steps):
            draw = task.draw(settings.tasks_per_step, "train", generator(settings.seed, "train", step))
            try:
                loss = learner.step(task.gather(draw, learner.device), step)
            except NonFinite as failure:
                raise UserError(non_finite_sentence(failure, checkpoints)) from failure
            done = step + 1
            if done % settings.log_every == 0:
                mean = loss.mean().item()
                writers.metrics(done, {"train/loss": mean, "train/lr": job.optimizer.rate(step)})
                now = time.perf_counter()
                writers.timing(done, {"steps_per_second": (done - since_step) / (now - since)})
                since, since_step = now, done
                progress.advance(done, f"loss {mean:.4f}")
            improved = False
            if settings.eval_every and done % settings.eval_every == 0:
                values, score = validate(learner, job, headline)
                writers.metrics(done, values)
                improved = is_better(task.spec.metric, score, best["value"] if best else None)
                if improved:
                    best = {"step": done, "value": score}
                progress.advance(done, f"val {task.spec.metric} {'not finite' if score is None else f'{score:.4f}'}")
            if improved or done % settings.save_every == 0 or done == settings.steps:
                writers.sync()
                checkpoint.save(checkpoints, done, learner.state_dict(), {"best": best})
                checkpoint.prune(checkpoints, settings.keep, best["step"] if best else None)
    tested = settings.steps
    if settings.select is Select.best and best is not None and best["step"] != settings.steps:
        tested = best["step"]
        learner.load_state_dict(checkpoint.load_step(checkpoints, tested).tensors)
    return test(learner, job, folder, tested, headline, console)


def prepare(job: Job, folder: Path, console: Console, device: torch.device) -> None:
    """Set threads and determinism for this process, and say what was chosen."""
    settings = job.run
    choices = folder / "choices.json"
    if settings.threads is not None:
        threads = settings.threads
    elif choices.exists():
        threads = json.loads(choices.read_text())["threads"]  # sums in another order are other bits
    else:
        threads = torch.get_num_threads()
    runs.write_json(choices, {"threads": threads})
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(settings.deterministic)
    console.say(f"{folder}: {job.choices['algo']} on {job.choices['task']}, device {device}, {threads} CPU thread(s)")


def new_learner(job: Job) -> Learner:
    """The learner of step 0. Raises UserError where the device is missing or the parts do not fit together."""
    settings = job.run
    device = resolve_device(settings.device)
    rng = generator(settings.seed, "init")
    return Learner(job.algo, job.net, job.optimizer, rng, device, settings.dtype, settings.tasks_per_chunk)


def resume(learner: Learner, checkpoints: Path, console: Console) -> tuple[int, dict[str, Any] | None]:
    """Load the newest whole checkpoint -> the steps done, and the best validation so far."""
    checkpoints.mkdir(exist_ok=True)
    checkpoint.remove_temporary(checkpoints)
    newest, skipped = checkpoint.load_newest(checkpoints)
    for damage in skipped:
        console.say(f"skipping {damage}")
    if newest is None:
        return 0, None
    learner.load_state_dict(newest.tensors)
    console.say(f"continuing after step {newest.step}")
    return newest.step, newest.record["best"]


def validate(learner: Learner, job: Job, mode: BatchNorm) -> tuple[dict[str, float], float | None]:
    """Score the validation episodes -> the values for metrics.jsonl, and the one that chooses the best checkpoint.

    `val/accuracy` (or `val/mse`) is after the last inner step, `val/accuracy_step0` before the first, and so on.
    """
    settings, metric = job.run, job.task.spec.metric
    found = evaluate(
        learner, job.task, "val", settings.eval_episodes, settings.episodes_seed, [mode], lambda done: None
    )
    scores = found.scores[mode]
    per_step = [summarise(values, torch.zeros(len(values)))["mean"] for values in scores.metric.T]
    loss = summarise(scores.loss[:, -1], torch.zeros(len(scores.loss)))["mean"]
    values = {"val/loss": loss, f"val/{metric}": per_step[-1]}
    if len(per_step) > 1:
        values |= {f"val/{metric}_step{number}": value for number, value in enumerate(per_step)}
    return {name: value for name, value in values.items() if value is not None}, per_step[-1]


def test(learner: Learner, job: Job, folder: Path, step: int, headline: BatchNorm, console: Console) -> dict[str, Any]:
    """Score the test episodes in every batch-norm mode, and write results.json and episodes.npz."""
    settings = job.run
    modes = [headline]
    if job.net.init_stats():
        modes += [mode for mode in BatchNorm if mode is not headline]
    with Progress(console, "test", settings.test_episodes) as progress:
        found = evaluate(
            learner, job.task, "test", settings.test_episodes, settings.episodes_seed, modes, progress.advance
        )
    results = summarise_test(job, found, step, modes)
    arrays = {"loss": found.scores[headline].loss.numpy(), "metric": found.scores[headline].metric.numpy()}
    arrays |= {f"metric_{mode.name}": found.scores[mode].metric[:, 0].numpy() for mode in modes[1:]}
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    write_durably(folder / "episodes.npz", file.getvalue())
    if job.task.spec.kind == "values" and job.task.spec.input_shape == (1,) and job.task.spec.outputs == 1:
        console.say(fit_picture(learner, job, headline))
    runs.write_json(folder / "results.json", results)
    return results


def summarise_test(job: Job, found: Evaluation, step: int, modes: list[BatchNorm]) -> dict[str, Any]:
    """The content of results.json; the first mode is the headline."""
    spec, scores = job.task.spec, found.scores[modes[0]]
    before = scores.loss[:, 0]
    diverged = has_diverged(spec.kind, scores.loss, before)
    per_step = [
        {"step": number, **summarise(scores.metric[:, number], diverged[:, number])}
        for number in range(scores.metric.shape[1])
    ]
    last = per_step[-1]
    return {
        "split": "test",
        "episodes": len(scores.metric),
        "episodes_sha256": found.episodes_sha256,
        "metric": spec.metric,
        "mean": last["mean"],
        "ci95": last["ci95"],
        "median": last["median"],
        "per_step": per_step,
        "batch_norm": modes[0].name if job.net.init_stats() else None,
        "other_batch_norm": {
            mode.name: summarise(metric[:, 0], has_diverged(spec.kind, loss, before)[:, 0])
            for mode, (loss, metric) in found.scores.items()
            if mode is not modes[0]
        },
        "algo": job.choices["algo"],
        "task": job.choices["task"],
        "experiment": job.choices.get("experiment"),
        "seed": job.run.seed,
        "episodes_seed": job.run.episodes_seed,
        "step": step,
        "steps": job.run.steps,
    }


def fit_picture(learner: Learner, job: Job, mode: BatchNorm) -> str:
    """The first test episode of a one-dimensional regression: the truth, and the network before and after adapting."""
    draw = draw_slice(draw_block(job.task, "test", job.run.episodes_seed, 0), 0, 1)
    batch = job.task.gather(draw, learner.device).to(learner.dtype)
    low, high = (end.item() for end in batch.query_x.aminmax())
    x = torch.linspace(low, high, 200, dtype=learner.dtype, device=learner.device).view(1, -1, 1)
    before, after = (learner.adapt(batch.support, steps)(x, mode)[0, :, 0].cpu() for steps in (0, None))
    line = x[0, :, 0].cpu()
    queries, targets = batch.query_x[0, :, 0].cpu(), batch.query_y[0, :, 0].cpu()
    support = (batch.support_x[0, :, 0].cpu(), batch.support_y[0, :, 0].cpu())
    picture = plot({".": (queries, targets), "-": (line, before), "+": (line, after), "o": support})
    return f"the first test task: . truth, o support, - before adapting, + after {job.algo.test_steps} steps\n{picture}"


def non_finite_sentence(failure: NonFinite, checkpoints: Path) -> str:
    tasks = f" in tasks {failure.tasks} of the meta-batch" if failure.tasks else ""
    paths = checkpoint.list_newest_first(checkpoints)
    last = f"the last good checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"
    return (
        f"the {failure.what} of step {failure.step} is not finite{tasks}, so training stopped before the update; "
        f"{last}; try a lower algo.inner_lr or optimizer.lr, or optimizer.clip_norm=1"
    )
