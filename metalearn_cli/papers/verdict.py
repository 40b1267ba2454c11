"""The result of a paper's row: its line in a results.jsonl, and the verdict beside what was published."""

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from metalearn_cli.compare.statistics import paired
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import text_of
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.series import CUT_OFF, each_line
from metalearn_cli.system.typed_json import from_json
from metalearn_cli.tasks.metrics import METRICS, Headline

OWN = runs.OUTPUTS / "reproduce" / "results.jsonl"  # what `reproduce` writes
OURS = Path("benchmarks/papers/results.jsonl")  # what the authors of a checkout have measured; it is only read


@dataclass(frozen=True)
class RowResult:
    """A line of a results.jsonl: one test of a row with one seed. Accuracies are in 0..1."""

    row: str
    seed: int
    cell: str  # which test it is
    published: str  # in percent, e.g. "98.70 +- 0.40"
    metric: Headline
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
    torch: str | None = ""
    device: str | None = ""

    @property
    def is_short(self) -> bool:
        return "short run" in self.length or " of " in self.length

    @property
    def paper(self) -> tuple[float, float] | None:
        """The published mean, and the half width of its interval (0: unknown); None where nothing was published."""
        words, scale = self.published.split(), METRICS[self.metric].factor
        try:
            return float(words[0]) / scale, float(words[2]) / scale if words[1:2] == ["+-"] else 0.0
        except (ValueError, IndexError):
            return None


def read_measured(path: Path) -> list[RowResult]:
    """Read the lines of a results.jsonl; of each row, seed and test the newest one. A last line that is cut off is
    skipped. Raises UserError for a line that is not a result."""
    newest: dict[tuple[str, int, str], RowResult] = {}
    for place, line in each_line(path):
        if line == CUT_OFF:
            break
        if isinstance(line, str):
            raise UserError(f"{place} {line}: mend or remove the line")
        result = from_json(RowResult, line, Path(place))
        newest[result.row, result.seed, result.cell] = result
    return list(newest.values())


def mean_of(means: list[float | None]) -> float | None:
    """The mean over seeds; None where one of them diverged."""
    finite = [mean for mean in means if mean is not None]
    return statistics.mean(finite) if len(finite) == len(means) else None


def interval_over_seeds(means: list[float | None]) -> float | None:
    """The half width of the 95% interval of the mean over seeds; None for a single seed, or where one diverged."""
    return None if len(means) < 2 or None in means else paired(np.array(means, dtype=np.float64)).half


def verdict(seeds: list[RowResult]) -> str:
    """Say how the mean over seeds compares with the published figure: within the intervals where the two differ by no
    more than the intervals of both, and that over seeds, allow together. Where that is more than the published figure
    itself, as for errors that a few diverged tasks make, there is no verdict."""
    means, first = [seed.mean for seed in seeds], seeds[0]
    if first.paper is None:
        return "nothing to compare with"
    ours, (published, half) = mean_of(means), first.paper
    short = "a short run, " if first.is_short else ""
    if ours is None or first.ci95 is None:
        return f"{short}diverged"
    gap = METRICS[first.metric].sign * (ours - published)
    allowed = math.hypot(half, first.ci95, interval_over_seeds(means) or 0.0)
    if allowed > abs(published):
        return f"{short}no verdict: the interval is wider than the published figure"
    if abs(gap) <= allowed:
        return f"{short}within the intervals"
    return f"{short}{'better' if gap > 0 else 'worse'} by {text_of(abs(gap), first.metric)}"
