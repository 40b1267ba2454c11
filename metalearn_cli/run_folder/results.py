"""The result of a test: results.json, and episodes.npz, from whose values its figures are computed again.

Shapes: E episodes, K inner steps, W classes of an episode.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from metalearn_cli.config.conf_folder import Paper
from metalearn_cli.errors import UserError
from metalearn_cli.learning.leakage import Leakage, told
from metalearn_cli.learning.scores import Figures, Summary, figures, figures_beside, has_diverged, parse_expectation
from metalearn_cli.run_folder.records import MOST_BYTES, TEST_AGAIN, Array, arrays_of, read_record
from metalearn_cli.system.files import read_bytes
from metalearn_cli.system.limits import Count, Fraction, Limit, Natural
from metalearn_cli.system.typed_json import Json, from_json, read_value
from metalearn_cli.tasks.calibration import BINS, LEVELS
from metalearn_cli.tasks.metrics import METRICS, Headline

RESULTS = "results.json"
EPISODES = "episodes.npz"
BASELINE = "baseline_"  # before its name in episodes.npz
_CLOSE = 1e-6  # of a figure that is computed again: another machine sums in another order


@dataclass(frozen=True)
class StepResult:
    """The test after an inner step."""

    step: Natural
    mean: float | None  # None: not finite
    ci95: float | None
    median: float | None
    diverged: Fraction  # of the episodes


@dataclass(frozen=True, kw_only=True)
class Results:
    """A test; earlier versions wrote neither baselines, first of values and then of pictures, nor hashes."""

    split: str = "test"
    episodes: Natural
    episodes_sha256: str
    metric: Headline
    mean: float | None  # this and the next two are those after the last inner step
    ci95: float | None
    median: float | None
    per_step: Annotated[tuple[StepResult, ...], Limit("a list of objects", bool)]  # K + 1, the first before adapting
    beside: dict[str, Figures] = field(default_factory=dict)  # of the other metrics, after the last inner step
    batch_norm: str | None = None  # the mode of all figures above; None: the network has none
    transductive_head: bool = False  # whether in every mode the queries of a task were predicted together
    other_batch_norm: dict[str, Summary] = field(default_factory=dict)  # by their modes, after the last inner step
    algo: str | None = None
    task: str | None = None
    adapted: str | None = None  # how the images of another task were made to fit
    experiment: str | None = None
    seed: int
    episodes_seed: int = 0
    step: Natural  # of the checkpoint that was tested
    steps: Natural  # of the training
    select: str = "best"
    paper: Json | None = None  # as the configuration has it; `published` are its figures
    learned: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, Figures] = field(default_factory=dict)
    baseline_episodes: Count | None = None  # the first ones, on which the baselines are; None: all
    leakage: Leakage | None = None  # None: no network with weights, or nothing is known of its training set
    episodes_npz: str | None = None  # the hash of that file
    config: Json | None = None  # the keys that decide what is trained

    def omitted(self) -> tuple[str, ...]:
        return tuple(name for name in ("leakage", "baseline_episodes") if getattr(self, name) is None)

    @property
    def last(self) -> StepResult:
        return self.per_step[-1]

    @property
    def published(self) -> Paper | None:
        return None if self.paper is None else from_json(Paper, self.paper, Path(RESULTS))


def read_results(folder: Path) -> Results:
    """Read the results in this folder. Raises UserError where they are missing, damaged or changed."""
    results = read_record(Results, folder / RESULTS)
    if results.paper is not None:
        read_value(Paper, results.paper, folder / RESULTS, "paper")
    for name in results.beside.keys() - METRICS.keys():
        raise UserError(f"{folder / RESULTS}: beside.{name} is not one of {', '.join(METRICS)}: {TEST_AGAIN}")
    return results


def shortfall(text: str | None, results: Results) -> str | None:
    """Say how the results fall short of `expect`, with the value measured; None where they do not."""
    if text is None:
        return None
    expectation = parse_expectation(text, results.metric, len(results.per_step) - 1)
    mean = results.mean if expectation.step is None else results.per_step[expectation.step].mean
    if expectation.met(mean):
        return None
    name = results.metric + ("" if expectation.step is None else f"_step{expectation.step}")
    return f"{name} is {'not finite' if mean is None else f'{mean:.6g}'} and falls short of expect={text!r}"


def read_episodes(folder: Path, results: Results) -> dict[str, Array]:
    """Read episodes.npz. Raises UserError where its shapes, [E, K + 1], [E], [E, 3, 15], [E, 20], [E, W, 2] and
    [E, W], are not those of these results."""
    path = folder / EPISODES
    arrays = arrays_of(path)
    shapes = {"metric": (results.episodes, len(results.per_step)), "episode": (results.episodes,)}
    shapes |= {"calibration": (results.episodes, 3, BINS), "pit": (results.episodes, LEVELS)}
    shapes |= dict.fromkeys(METRICS, shapes["episode"])
    if "by_label" in arrays:
        way = arrays["by_label"].shape[1:2]
        shapes |= {"by_label": (results.episodes, *way, 2), "named": (results.episodes, *way)}
    for name, array in arrays.items():
        expected = shapes.get(name) or (shapes["episode"] if name.startswith("metric_") else array.shape)
        if name.startswith(BASELINE):
            expected = (results.baseline_episodes or results.episodes,)
        if array.dtype.kind not in "biuf" or array.shape != expected:
            odd = f"{array.dtype} of shape {list(array.shape)}, and the run's results.json says {list(expected)}"
            raise UserError(f"{path}: {name} is {odd}: {TEST_AGAIN}")
    if "metric" not in arrays:
        raise UserError(f"{path} has no array metric: {TEST_AGAIN}")
    return arrays


def check_figures(folder: Path, results: Results) -> None:
    """Raises UserError where the figures of results.json are not those of episodes.npz, if there is that file."""
    path = folder / EPISODES
    if not path.exists():
        return
    if results.episodes_npz not in (None, hashlib.sha256(read_bytes(path, MOST_BYTES)).hexdigest()):
        raise UserError(f"{path} is not the file that results.json beside it was made of: put it back, or {TEST_AGAIN}")
    for place, row, computed in _computed(results, read_episodes(folder, results)):
        for name, value in computed.items():
            if not _is_close(written := getattr(row, name), value):
                raise UserError(
                    f"{folder / RESULTS}: {place}{name} is {written}, and by the values in episodes.npz it is {value}: "
                    f"put it back, or {TEST_AGAIN}"
                )


def _computed(results: Results, arrays: dict[str, Array]) -> Iterator[tuple[str, object, dict[str, float | None]]]:
    """Yield the place of figures in results.json, the record that holds them, and what episodes.npz says."""
    worst = METRICS[results.metric].worst
    steps = [_figures(values, worst) for values in arrays["metric"].T]
    yield "", results, steps[-1]
    shares = _diverged(results.metric, arrays)
    for number, (row, computed) in enumerate(zip(results.per_step, steps, strict=True)):
        yield f"per_step[{number}].", row, computed | ({"diverged": shares[number]} if shares else {})
    for mode, summary in results.other_batch_norm.items():
        if (values := arrays.get(f"metric_{mode}")) is not None:
            yield f"other_batch_norm.{mode}.", summary, _figures(values, worst)
    for name, baseline in results.baselines.items():
        if (values := arrays.get(BASELINE + name)) is not None:
            yield f"baselines.{name}.", baseline, _figures(values, math.inf)
    if results.leakage is not None and {"by_label", "named"} <= arrays.keys():
        by_label, named = torch.from_numpy(arrays["by_label"]), torch.from_numpy(arrays["named"]).bool()
        kinds = results.leakage.named, results.leakage.others
        for kind, record, chosen in zip(("named", "others"), kinds, (named, ~named), strict=True):
            queries, accuracy, ci95 = told(by_label, chosen)
            yield f"leakage.{kind}.", record, {"queries": queries, "accuracy": accuracy, "ci95": ci95}
    kept = {name: torch.from_numpy(arrays[name]) for name in (*METRICS, "calibration", "pit") if name in arrays}
    for name, shown in figures_beside(kept).items():
        if name in results.beside:
            yield f"beside.{name}.", results.beside[name], shown._asdict()


def _figures(values: Array, worst: float) -> dict[str, float | None]:
    return figures(torch.from_numpy(values.astype(np.float64)), worst)._asdict()


def _diverged(metric: str, arrays: dict[str, Array]) -> list[float]:
    """The share of diverged episodes after each inner step; [] where the losses were not kept."""
    loss = arrays.get("loss")
    if loss is None or loss.shape != arrays["metric"].shape or loss.dtype not in (np.float32, np.float64):
        return []
    losses = torch.from_numpy(loss)
    shares: list[float] = has_diverged(metric, losses, losses[:, 0]).double().mean(0).tolist()
    return shares


def _is_close(written: float | None, computed: float | None) -> bool:
    if written is None or computed is None:
        return written is computed
    return math.isclose(written, computed, rel_tol=_CLOSE, abs_tol=1e-9)
