"""What came of a paper's row: its line in a results.jsonl, and the verdict beside what was published."""

import dataclasses
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn_cli.compare.statistics import paired
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import figure
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.series import Damage, each_line
from metalearn_cli.system.typed_json import Json, is_finite

OWN = runs.OUTPUTS / "reproduce" / "results.jsonl"  # what `reproduce` writes
OURS = Path("benchmarks/papers/results.jsonl")  # what the authors of a checkout have measured; it is only read


class Published(NamedTuple):
    mean: float
    ci95: float | None


@dataclass(frozen=True)
class RowResult:
    """A line of a results.jsonl: one test of a row with one seed. Accuracies are in 0..1."""

    row: str
    seed: int
    cell: str  # which test it is
    published: str  # in percent, e.g. "98.70 +- 0.40"
    metric: str
    length: str
    mean: float | None
    ci95: float | None
    median: float | None = None
    diverged: float = 0.0
    inner_steps: int | None = None
    batch_norm: str | None = None
    others: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)  # batch-norm mode: mean, ci95
    episodes: int = 0
    episodes_sha256: str = ""
    steps: int = 0
    minutes: float = 0.0
    command: str = ""
    test: str = ""  # the command, where another one than the training's tested it
    source: str = ""
    date: str = ""
    commit: str = ""
    torch: str = ""
    device: str = ""

    @property
    def is_short(self) -> bool:
        return "short run" in self.length or " of " in self.length

    @property
    def paper(self) -> Published | None:
        """The published figure as a number; None where nothing was published."""
        words, scale = self.published.split(), 100 if self.metric == "accuracy" else 1
        try:
            ci95 = float(words[2]) / scale if words[1:2] == ["+-"] else None
            return Published(float(words[0]) / scale, ci95)
        except (ValueError, IndexError):
            return None


def read_measured(path: Path) -> list[RowResult]:
    """The lines of a results.jsonl; of each row, seed and test the newest one. A last line that a killed process left
    unfinished is skipped. Raises UserError for a line that is not such a result."""
    damage, names = Damage(), {each.name for each in dataclasses.fields(RowResult)}
    newest: dict[tuple[str, int, str], RowResult] = {}
    for number, line in each_line(path, damage):
        if not _is_result(line):
            damage.lines.append(f"{path} line {number} is not the result of a row, with its seed, mean and interval")
            break
        result = RowResult(**{name: value for name, value in line.items() if name in names})
        newest[result.row, result.seed, result.cell] = result
    if damage.lines:
        raise UserError(f"{damage.lines[0]}: mend or remove the line")
    return list(newest.values())


def _is_result(line: Json) -> bool:
    texts = all(isinstance(line.get(key), str) for key in ("row", "cell", "metric", "published", "length"))
    figures = all(line.get(key, 0) is None or is_finite(line.get(key)) for key in ("mean", "ci95"))
    return texts and figures and isinstance(line.get("seed"), int)


def mean_of(means: list[float | None]) -> float | None:
    """The mean over seeds; None where one of them diverged."""
    finite = [mean for mean in means if mean is not None]
    return statistics.mean(finite) if len(finite) == len(means) else None


def interval_over_seeds(means: list[float | None]) -> float | None:
    """The half width of the 95% interval of the mean over seeds; None for a single seed, or where one diverged."""
    return None if len(means) < 2 or None in means else paired(np.array(means, dtype=np.float64)).half


def verdict(paper: Published | None, seeds: list[RowResult]) -> str:
    """How the mean over seeds stands to the published figure.

    It is within the intervals where the two differ by no more than the intervals of both, and that of several seeds,
    allow together. Where that is more than the published figure itself, as for errors that a few diverged tasks make,
    any mean would be within, so that there is no verdict.
    """
    if paper is None:
        return "nothing to compare with"
    means, first = [seed.mean for seed in seeds], seeds[0]
    ours = mean_of(means)
    short = "a short run, " if first.is_short else ""
    if ours is None or first.ci95 is None:
        return f"{short}diverged"
    gap = ours - paper.mean if first.metric == "accuracy" else paper.mean - ours
    allowed = math.hypot(paper.ci95 or 0.0, first.ci95, interval_over_seeds(means) or 0.0)
    if allowed > abs(paper.mean):
        return f"{short}no verdict: the interval is wider than the published figure"
    if abs(gap) <= allowed:
        return f"{short}within the intervals"
    return f"{short}{'better' if gap > 0 else 'worse'} by {figure(abs(gap), first.metric)}"
