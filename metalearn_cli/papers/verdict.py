"""What came of a run beside what a paper published: where its figures are from, and the verdict."""

import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.compare.statistics import t_quantile
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import number
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.environment import read_environment
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.series import Damage, each_line, read_timing, training_seconds
from metalearn_cli.system.typed_json import is_finite


class Published(NamedTuple):
    mean: float
    ci95: float | None


OWN = runs.OUTPUTS / "reproduce" / "results.jsonl"  # what `reproduce` writes
OURS = Path("benchmarks/papers/results.jsonl")  # of a checkout, what its authors have measured; read alone


def measured(path: Path) -> list[dict[str, Any]]:
    """The lines of a results.jsonl, of each row, seed and test the newest one; a last line that a killed process left
    unfinished is not one. Raises UserError for a line that is no such result."""
    damage = Damage()
    objects = dict(each_line(path, damage))
    for at, line in objects.items():
        texts = all(isinstance(line.get(key), str) for key in ("row", "cell", "metric", "published", "length"))
        figures = all(line.get(key, 0) is None or is_finite(line.get(key)) for key in ("mean", "ci95"))
        if not (texts and figures and isinstance(line.get("seed"), int)):
            damage.lines.append(f"{path} line {at} is no result of a row, with its seed, mean and interval")
    if damage.lines:
        raise UserError(f"{damage.lines[0]}: mend or remove the line")
    return list({(line["row"], line["seed"], line["cell"]): line for line in objects.values()}.values())


def provenance(folder: Path) -> dict[str, Any]:
    """What a run was made with, and how long its training took."""
    made = read_environment(folder)
    commit = made.git_commit
    timing = read_timing(folder / "timing.jsonl")
    if timing.damage:
        raise UserError(f"{timing.damage[0]}: mend or remove the line")
    return {
        "steps": runs.load_config(folder / "config.yaml")["steps"],
        "minutes": round((training_seconds(timing) or 0.0) / 60, 1),
        "commit": commit[:7] + "+" * bool(made.git_dirty) if commit else f"metalearn {made.metalearn}",
        "torch": made.torch,
        "device": made.gpu or made.processor,
    }


def figures(results: Results, step: int | None, mode: str | None) -> dict[str, Any]:
    """The test after `step` inner steps (None: all of them), or in another batch-norm mode."""
    row = results.per_step[-1 if step is None else step]
    shown = row if mode in (None, results.batch_norm) else results.other_batch_norm[mode]
    others = {} if mode else results.other_batch_norm
    return {
        **{"mean": shown.mean, "ci95": shown.ci95, "median": shown.median},
        "others": {mode: [figure.mean, figure.ci95] for mode, figure in others.items()},
        "diverged": row.diverged,
        "metric": results.metric,
        "batch_norm": mode or results.batch_norm,
        "episodes": results.episodes,
        "episodes_sha256": results.episodes_sha256[:16],
    }


def published(paper: dict[str, Any], percent: bool) -> str:
    interval = f" +- {number(paper['ci95'], percent)}" if paper.get("ci95") is not None else ""
    return number(paper["mean"], percent) + interval


def parse_published(text: str, percent: bool) -> Published | None:
    """ "98.7 +- 0.4" -> 0.987 and 0.004; None where nothing was published."""
    words = text.split()
    scale = 100 if percent else 1
    try:
        return Published(float(words[0]) / scale, float(words[2]) / scale if words[1:2] == ["+-"] else None)
    except (ValueError, IndexError):
        return None


def mean_of(means: list[float | None]) -> float | None:
    """Over seeds; None where one of them diverged."""
    finite = [mean for mean in means if mean is not None]
    return statistics.mean(finite) if len(finite) == len(means) else None


def over_seeds(means: list[float]) -> float | None:
    """The half width of the 95% interval of the mean over seeds, by Student's t; None of one seed."""
    if len(means) < 2:
        return None
    return t_quantile(len(means) - 1) * statistics.stdev(means) / math.sqrt(len(means))


def verdict(
    paper: Published, means: list[float | None], ci95: float | None, higher_is_better: bool, length: str
) -> str:
    """How the mean over seeds stands to the published figure.

    Within: by no more than the intervals of both, and that of the seeds where there are several, allow together. Where
    that is more than the published figure itself, as of errors that a few diverged tasks make, any mean would be.
    """
    ours = mean_of(means)
    short = "a short run, " if "short run" in length else ""
    if ours is None or ci95 is None:
        return f"{short}diverged"
    finite = [mean for mean in means if mean is not None]
    of_seeds = over_seeds(finite) or 0.0
    gap = ours - paper.mean if higher_is_better else paper.mean - ours
    allowed = math.hypot(paper.ci95 or 0.0, ci95, of_seeds)
    if allowed > abs(paper.mean):
        return f"{short}no verdict: the interval is wider than the published figure"
    if abs(gap) <= allowed:
        return f"{short}within the intervals"
    return f"{short}{'better' if gap > 0 else 'worse'} by {number(abs(gap), higher_is_better).strip()}"
