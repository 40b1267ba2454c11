"""The test of a run as Python reads it: its episodes, and its scores after each inner step.

Shapes: S support examples, Q query examples, K inner steps.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.config.task_for_net import as_wanted, build_task
from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.errors import UserError
from metalearn_cli.learning.draws import EpisodeRange, draw_episodes
from metalearn_cli.learning.scores import figures
from metalearn_cli.nets.base import Net
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.proof import checked_results
from metalearn_cli.run_folder.results import Results, read_episodes
from metalearn_cli.tasks.base import TaskDistribution, draw_sha256, draw_slice
from metalearn_cli.tasks.capabilities import check_split, label_names
from metalearn_cli.trained.python_inputs import unscaled

Targets = Tensor | list[str]


class Episode(NamedTuple):
    """A task as `Model.adapt` takes it, on the CPU."""

    support_x: Tensor  # [S, *input]: pixels in 0..1, features of a frozen network, or numbers in the units of the data
    support_y: Targets  # [S] 0 to W - 1 for classes, the texts of a table's; [S, targets] values
    query_x: Tensor  # [Q, *input]
    query_y: Targets
    names: tuple[str, ...]  # of the classes 0 to W - 1, where they have some
    unlabelled_x: Tensor | None = None  # [U, *input], where tasks have unlabelled examples


class InnerCurve(NamedTuple):
    """A test after 0, 1, ... K inner steps, [K + 1] float64 each: means over its episodes and the half widths of their
    95% intervals. nan: it is not finite, or an earlier version did not keep it."""

    metric: str  # what `mean` is a mean of
    mean: Tensor
    ci95: Tensor
    loss: Tensor
    loss_ci95: Tensor


@dataclass(frozen=True)
class ScoredRun:
    """The folder of a run."""

    folder: Path
    config: Config
    trust: bool  # whether classes from outside of metalearn are imported, and weights from outside of the folder
    net: Net

    def episodes(self, split: str, columns: ColumnNames | None) -> Iterator[Episode]:
        """The episodes of a split. Raises UserError where they cannot be those that were scored."""
        task = as_wanted(build_task(self.config["task"], ConfigSource(trust=self.trust)), self.net)
        runs.check_same_data(self.folder, task.fingerprint)
        if split == "test":
            results = self._results()
            episodes = EpisodeRange("test", results.episodes, results.episodes_seed)
            if draw_sha256(list(draw_episodes(task, episodes)), task.fingerprint) != results.episodes_sha256:
                raise UserError(f"the test of {self.folder} had other episodes than this version draws: test it again")
        elif split == "val" and "val" in task.splits:
            check_split(task, "val")
            episodes = EpisodeRange("val", self.config["eval_episodes"], self.config["episodes_seed"])
        else:
            raise UserError(f"episodes({split!r}): {self.folder} has episodes of the splits test and val")
        return _episodes(task, episodes, columns)

    def inner_curve(self) -> InnerCurve:
        results = self._results()
        after = [(step.mean, step.ci95) for step in results.per_step]
        kept = read_episodes(self.folder, results).get("loss")
        losses = [] if kept is None else [figures(torch.from_numpy(loss))[:2] for loss in kept.T]
        return InnerCurve(results.metric, *_columns(after), *_columns(losses or [(None, None)] * len(after)))

    def _results(self) -> Results:
        results, _ = checked_results(self.folder, self.config)
        if results is None:
            raise UserError(f"{self.folder} is not finished: nothing was tested yet")
        return results


def _episodes(task: TaskDistribution, episodes: EpisodeRange, columns: ColumnNames | None) -> Iterator[Episode]:
    x_scale, y_scale = (columns.x_scale, columns.y_scale) if columns else (None, None)
    labels = columns.labels if columns else ()

    def targets(y: Tensor) -> Targets:
        return [labels[number] for number in y.tolist()] if labels else unscaled(y, y_scale)

    for block in draw_episodes(task, episodes):
        for number in range(len(block["key"])):
            draw = draw_slice(block, number, number + 1)
            batch = task.gather(draw, torch.device("cpu")).task(0)
            support_x, query_x = (unscaled(x[0], x_scale) for x in (batch.support_x, batch.query_x))
            unlabelled = None if batch.unlabelled_x is None else batch.unlabelled_x[0]
            names = tuple(labels) or label_names(task, draw)
            yield Episode(support_x, targets(batch.support_y[0]), query_x, targets(batch.query_y[0]), names, unlabelled)


def _columns(rows: list[tuple[float | None, float | None]]) -> list[Tensor]:
    """[K + 1] pairs -> two columns."""
    values = [[math.nan if value is None else value for value in row] for row in rows]
    return list(torch.tensor(values, dtype=torch.float64).T)
