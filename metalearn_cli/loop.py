"""Training and testing one run, from top to bottom."""

import hashlib
import io
import shutil
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metalearn_cli import checkpoint, examples, pictures, runs, scored_parts
from metalearn_cli.ahead import ahead
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.catalog import flatten
from metalearn_cli.config import Job, Select
from metalearn_cli.errors import Pruned, RunFailed, UserError
from metalearn_cli.evaluate import (
    BLOCK,
    EpisodeScores,
    Evaluation,
    baselines,
    draw_block,
    draw_episodes,
    evaluate,
    evaluation,
    part_size,
    score_episodes,
)
from metalearn_cli.files import write_durably
from metalearn_cli.interrupt import Interrupt
from metalearn_cli.learner import Learner, NonFinite
from metalearn_cli.measure import is_out_of_memory, peak_memory
from metalearn_cli.metrics import figures, has_diverged, is_better, steps_to_show, summarise
from metalearn_cli.mirror import Mirror
from metalearn_cli.mistakes import failure_sentence
from metalearn_cli.parallel import ALONE, Ranks
from metalearn_cli.plot import plot
from metalearn_cli.progress import Console, Progress
from metalearn_cli.pruning import Pruning
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.adapted import Adapted
from metalearn_cli.tasks.base import Batch, Draw, Split, draw_slice
from metalearn_cli.writers import Writers, validations


def train(
    learner: Learner, job: Job, folder: Path, console: Console, interrupt: Interrupt, pruning: Pruning | None = None
) -> dict[str, Any]:
    """Meta-train from the newest checkpoint in `folder` (or from the start), then meta-test -> results.json's content.

    Everything that happens at a step is a function of the configuration and the step, so that a run which was killed
    and continued ends with the same bits as one that was not. Raises Interrupted when the step is saved, and so Pruned
    where a search gives the run up.

    Of several ranks each comes here, with its own learner; the first one reads and writes `folder`.
    """
    try:
        return _train(learner, job, folder, console, interrupt, pruning)
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
    learner: Learner, job: Job, folder: Path, console: Console, interrupt: Interrupt, pruning: Pruning | None
) -> dict[str, Any]:
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
            verdict = pruning.verdict(folder) if pruning and done < settings.steps and not to_validate else None
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
                    verdict = pruning.verdict(folder) if pruning and done < settings.steps else None
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
        writers.inner_steps(f"test/{results['metric']}_over_inner_steps", results["per_step"])
        writers.hparams(given_settings(job), results)
        mirror.finish(results)
    return results


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


def new_mirror(folder: Path, job: Job, results: dict[str, Any] | None, console: Console, ranks: Ranks) -> Mirror:
    logger = job.run.logger.name if job.run.logger and ranks.is_first else None
    return Mirror(folder, logger, job.config, results, console.say)


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
        learner.warm_up(job.task.gather(training_draw(job, step), learner.device), step)
    console.say(f"{done} in {time.perf_counter() - began:.0f} s")


def training_batches(job: Job, learner: Learner, first: int) -> Generator[Batch]:
    """Those of the steps from `first` on; each is gathered while the step before it is made, where that takes long."""

    def gather(step: int) -> Batch:
        return job.task.gather(training_draw(job, step, learner.ranks), learner.device)

    steps = range(first, job.run.steps)
    yield from ahead(gather, steps) if job.task.is_far(learner.device) else map(gather, steps)


def training_draw(job: Job, step: int, ranks: Ranks = ALONE) -> Draw:
    """This rank's tasks of meta-iteration `step`, counted from 0: the whole is a function of the seed and the step
    alone, and every rank draws it."""
    draw = job.task.draw(job.run.tasks_per_step, "train", generator(job.run.seed, "train", step))
    return draw_slice(draw, *ranks.share(job.run.tasks_per_step))


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
    per_step = [figures(values)["mean"] for values in scores.metric.T]
    loss = figures(scores.loss[:, -1])["mean"]
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
) -> dict[str, Any]:
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
    chosen = runs.read_json(folder / "choices.json") if (folder / "choices.json").exists() else {}
    about = [*parts, chosen, job.run.tasks_per_chunk, job.task.fingerprint, [mode.name for mode in modes]]
    return folder / scored_parts.FOLDER / scored_parts.key_of(learner, about)


def _write_test(
    learner: Learner, job: Job, folder: Path, found: Evaluation, step: int, modes: list[BatchNorm], console: Console
) -> dict[str, Any]:
    settings, headline = job.run, modes[0]
    results = summarise_test(job, found, step, modes)
    results["learned"] = job.algo.learned(learner.meta)
    errors = baselines(job.task, "test", settings.test_episodes, settings.episodes_seed, learner.device)
    results["baselines"] = {name: figures(error) for name, error in errors.items()}
    arrays = {"loss": found.scores[headline].loss.numpy(), "metric": found.scores[headline].metric.numpy()}
    arrays |= {f"metric_{mode.name}": found.scores[mode].metric[:, 0].numpy() for mode in modes[1:]}
    arrays["episode"] = found.hashes.numpy()
    episodes = npz(arrays)
    results |= {"episodes_npz": hashlib.sha256(episodes).hexdigest(), "config": runs.deciding(job.config)}
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
    runs.write_json(folder / "results.json", results)
    shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)
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
        "adapted": job.task.rule if isinstance(job.task, Adapted) else None,
        "experiment": job.choices.get("experiment"),
        "seed": job.run.seed,
        "episodes_seed": job.run.episodes_seed,
        "step": step,
        "steps": job.run.steps,
        "select": job.run.select.name,
        "paper": job.run.paper,
    }


def npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def picture(learner: Learner, job: Job, split: Split, mode: BatchNorm) -> Tensor | None:
    """The first episodes of `split`, uint8 [H, W, 3]; None where the kind of task has no picture."""
    if (kind := pictured(job)) is None:
        return None
    batch = first_batch(learner, job, split)
    return (pictures.episode if kind == "classes" else pictures.fits)(learner, batch, mode)


def first_tasks(learner: Learner, job: Job, mode: BatchNorm) -> dict[str, Any] | None:
    """The first test episodes as arrays; None where the kind of task has no picture."""
    if (kind := pictured(job)) is None:
        return None
    draw = first_draw(job, "test")
    batch = job.task.gather(draw, learner.device)
    found = (examples.of_classes if kind == "classes" else examples.of_values)(learner, batch, mode)
    names = job.task.label_names(draw) if kind == "classes" else ()
    return {name: tensor.cpu().numpy() for name, tensor in found.items()} | ({"names": names} if names else {})


def first_batch(learner: Learner, job: Job, split: Split) -> Batch:
    return job.task.gather(first_draw(job, split), learner.device)


def first_draw(job: Job, split: Split) -> Draw:
    return draw_slice(draw_block(job.task, split, job.run.episodes_seed, 0), 0, pictures.MAX_TASKS)


def pictured(job: Job) -> str | None:
    """ "classes" of images, or one-dimensional "values": what can be shown."""
    spec = job.task.spec
    is_images = spec.kind == "classes" and len(spec.input_shape) == 3 and spec.input_shape[0] in (1, 3)
    is_curve = spec.kind == "values" and spec.input_shape == (1,) and spec.outputs == 1
    return spec.kind if is_images or is_curve else None


def fit_picture(learner: Learner, job: Job, mode: BatchNorm) -> str:
    """The first test episode of a one-dimensional regression: the truth, and the network before and after adapting."""
    draw = draw_slice(draw_block(job.task, "test", job.run.episodes_seed, 0), 0, 1)
    batch = job.task.gather(draw, learner.device).to(learner.dtype).task(0)
    low, high = (end.item() for end in batch.query_x.aminmax())
    x = torch.linspace(low, high, 200, dtype=learner.dtype, device=learner.device).view(1, -1, 1)
    before, after = (learner.adapt(batch.support, steps)(x, mode)[0, :, 0].cpu() for steps in (0, None))
    line = x[0, :, 0].cpu()
    queries, targets = batch.query_x[0, :, 0].cpu(), batch.query_y[0, :, 0].cpu()
    support = (batch.support_x[0, :, 0].cpu(), batch.support_y[0, :, 0].cpu())
    picture = plot({".": (queries, targets), "-": (line, before), "+": (line, after), "o": support})
    last = f"after {job.algo.test_steps} step{'s' * (job.algo.test_steps > 1)}"
    return f"the first test task: . truth, o support, - before adapting, + {last}\n{picture}"


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
    ways += [f"algo.{key}=true" for key in ("remat", "first_order") if getattr(job.algo, key, None) is False]
    return (
        f"there is not enough memory on {learner.device} in step {learner.begun} or a test after it{held}, so training "
        f"stopped; {last_good(checkpoints)}; {', or '.join([*ways, 'fewer algo.inner_steps or examples of a task'])}"
    )


def last_good(checkpoints: Path) -> str:
    paths = checkpoint.list_newest_first(checkpoints)
    return f"the last good checkpoint is {paths[0]}" if paths else "there is no checkpoint yet"
