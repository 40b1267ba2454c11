"""The threshold of the flag `unlike`, and the temperature of probabilities: measured on validation tasks of the run's
own distribution.

It is kept in the run's unlike.json with what it was measured on, and in an exported model. That of an earlier version,
which lacks the temperature, is measured again where the run's data are at hand, and used as it is where not.
"""

import torch
from torch import Tensor

from metalearn_cli.algorithms.capabilities import steps_at_test
from metalearn_cli.algorithms.losses import without_absent_classes
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.config.task_for_net import as_wanted, build_task
from metalearn_cli.errors import UserError
from metalearn_cli.learning.draws import EpisodeRange, draw_episodes
from metalearn_cli.run_folder import records, runs
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.files import turn
from metalearn_cli.tasks.base import Batch, Draw, TaskDistribution, draw_slice
from metalearn_cli.tasks.capabilities import check_split, label_names, make_ready, task_count
from metalearn_cli.trained.loading import UNLIKE, Stored, read_thresholds
from metalearn_cli.trained.model import Model
from metalearn_cli.trained.novelty import PROMISED, Threshold, Thresholds, calibrated, nearest_threshold, unlikeness
from metalearn_cli.trained.temperature import temperature_of

EPISODES = 100
QUERIES = 5  # of each class at most
TASKS_AT_ONCE = 8


def threshold_for(stored: Stored, model: Model, way: int, shot: int, trust: bool) -> tuple[Threshold | None, str]:
    """The threshold for `way`-way tasks whose smallest class has `shot` examples (or the closest one that flags less),
    measured now if it is not stored; and a sentence about it. (None, sentence) if none can be had."""
    if model.examples.columns is not None:
        return None, "no flag `unlike`: the tasks of a table share their classes"
    reasons: list[str] = []
    for size in _sizes(stored, model, way, shot) if stored.is_run else []:
        known = [kept for kept in model.thresholds if (kept.way, kept.shot) == size and kept.temperature]
        try:
            measured = known[0] if known else measure(stored, model, *size, trust)
            return measured, _sentence(measured, way, shot, reasons)
        except UserError as error:
            reasons.append(str(error))
    if (nearest := nearest_threshold(model.thresholds, way, shot, model.algo.is_metric)) is not None:
        return nearest, _sentence(nearest, way, shot, reasons)
    ways = ", ".join(map(str, sorted({kept.way for kept in model.thresholds})))
    reason = reasons[-1] if reasons else f"known are those of {ways} classes" if ways else "none is known here"
    sentence = f"no flag `unlike`: its threshold is measured on validation tasks ({reason})"
    if (other := nearest_threshold(model.thresholds, way, shot, any_way=True)) and other.temperature:
        kind = f"{other.way}-way {other.shot}-shot"
        sentence += f"; probabilities have the temperature {other.temperature:.3g} of {kind} tasks"
    return None, sentence


def _sizes(stored: Stored, model: Model, way: int, shot: int) -> list[tuple[int, int]]:
    """Ways and shots of validation tasks, the first the best."""
    trained_way = stored.examples.spec.outputs
    if "way" not in stored.config["task"]:
        return [(trained_way, shot)]  # a user's own task is what it is
    ways = [way, trained_way] if model.algo.is_metric else [way]
    return list(dict.fromkeys((a_way, a_shot) for a_way in ways for a_shot in (shot, 1)))


def _sentence(used: Threshold, way: int, shot: int, reasons: list[str]) -> str:
    of_classes = f" of {used.classes} classes" if used.classes else ""
    kind = f"flag `unlike`: by {used.queries} queries of {used.way}-way {used.shot}-shot validation tasks{of_classes}, "
    kind += f"of which {used.share:.1%} are flagged"
    if (used.way, used.shot) != (way, shot):
        why = f" ({reasons[0]})" if reasons else ""
        return f"{kind}, as nothing is known of {way}-way {shot}-shot ones{why}"
    if used.promised is None:
        return f"{kind}; measured by an earlier version, which promised more than it kept"
    few = "" if used.promised <= PROMISED else ": more validation classes would make it less"
    end = f"{used.promised:.0%} at most of the queries of new classes (upper end of a 95% interval{few})"
    hot = "" if used.temperature is None else f"; probabilities have the temperature {used.temperature:.3g} of these"
    return f"{kind}; true for {end}{hot}"


def measure(stored: Stored, model: Model, way: int, shot: int, trust: bool) -> Threshold:
    """The threshold of such validation tasks. Raises UserError where they cannot be had."""
    node = stored.config["task"]
    task = as_wanted(build_task({**node, **_keys(node, way, shot)}, ConfigSource(trust=trust)), model.net)
    runs.check_same_data(stored.folder, task.fingerprint)
    if "val" not in task.splits:
        raise UserError("the run has no validation classes")
    check_split(task, "val")
    make_ready(task, "val")
    number = task_count(task, "val")
    episodes = EPISODES if number is None else min(EPISODES, number)
    outputs: list[Tensor] = []
    labels: list[Tensor] = []
    classes: list[str] = []
    done = 0
    with Progress(Console(), "measuring the flag `unlike`", episodes, passing=True) as progress:
        for draw in draw_episodes(task, EpisodeRange("val", episodes, 0)):
            tasks = task.gather(draw, model.device).to(model.dtype)
            classes += _classes(task, draw, tasks, len(classes))
            for batch in tasks.chunks(TASKS_AT_ONCE):
                predict, _ = model.predictor(batch.support, task.spec.outputs)
                with torch.no_grad():
                    out = without_absent_classes(predict(batch.query_x, model.batch_norm, batch.query_mask), batch.way)
                mask = batch.query_mask
                is_real = torch.ones_like(batch.query_y, dtype=torch.bool) if mask is None else mask
                outputs.append(out[is_real])
                labels.append(batch.query_y[is_real])
                done += len(batch.key)
                progress.advance(done, "tasks")
    out, label = torch.cat(outputs).cpu(), torch.cat(labels).cpu()
    value, share, promised = calibrated(unlikeness(out), classes)
    temperature = temperature_of(out, label, 1.0)
    made_with = (way, shot, model.batch_norm.name, steps_at_test(model.algo, model.net.spec), stored.step)
    return Threshold(
        *(value, *made_with, episodes, len(out), task.fingerprint, share, len(set(classes)), promised, temperature),
    )


def _classes(task: TaskDistribution, draw: Draw, tasks: Batch, before: int) -> list[str]:
    """The class of each query of the tasks of a draw, in their order; where classes have no names, all queries of a
    task are of one, which is called by the number of queries before it."""
    classes: list[str] = []
    for number in range(len(draw["key"])):
        labels = tasks.task(number).query_y[0].tolist()
        names = label_names(task, draw_slice(draw, number, number + 1))
        classes += [names[label] if names else f"task after {before + len(classes)}" for label in labels]
    return classes


def _keys(task: Config, way: int, shot: int) -> Config:
    """The keys of a task whose validation tasks all have this size; its training tasks stay what they are."""
    if not {"train_way", "train_shot", "train_query", "variable"} <= task.keys():  # a user's own task
        return {}
    train = {f"train_{key}": task[f"train_{key}"] or task[key] for key in ("way", "shot", "query")}
    equal = dict.fromkeys({"query_balance"} & task.keys())
    return {**train, **equal, "way": way, "shot": shot, "query": min(task["query"], QUERIES), "variable": False}


def keep_threshold(stored: Stored, measured: Threshold) -> None:
    """Keep a threshold in the run's folder, in the place of one for the same tasks. What other processes have kept
    there since it was read stays. Raises OSError."""
    with turn(stored.folder, f"waiting for another process that writes {stored.folder / UNLIKE}") as alone:
        for leftover in stored.folder.glob(f"{UNLIKE}.tmp-*") if alone else ():  # a killed process's
            leftover.unlink(missing_ok=True)
        known = read_thresholds(stored.folder)
        if measured not in known:
            others = [kept for kept in known if kept.made_for != measured.made_for]
            records.write_record(stored.folder / UNLIKE, Thresholds((*others, measured)))
