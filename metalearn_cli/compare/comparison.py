"""Two or more sides on the same test episodes, and what their differences are.

E episodes and S seeds of a side. The difference of two runs on one episode is what pairing looks at: whether an episode
is hard or easy falls out of it. Seeds are another source of noise than episodes, and have an interval of their own.
"""

from typing import NamedTuple

import numpy as np

from metalearn_cli.compare.groups import Part, differences
from metalearn_cli.compare.statistics import Estimate, gains, holm, paired, together, unpaired, wilcoxon
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import is_better
from metalearn_cli.run_folder.read import RunFolder, Values
from metalearn_cli.run_folder.results import Results, read_episodes


class Side(NamedTuple):
    name: str
    seeds: list[int]
    values: Values  # [S, E]: the metric of each seed's run on each episode
    batch_norm: str | None
    settings: str = ""  # what decides the result, but for the seed
    inner_steps: int | None = None  # that its test took


class Difference(NamedTuple):
    """The second side minus the first."""

    first: Side
    second: Side
    episodes: Estimate | None  # over test episodes, of these very models; None: a mean is not finite
    as_if_unpaired: Estimate | None  # the same without knowing that the episodes are the same
    wilcoxon: float | None
    better_on: float  # the share of the episodes on which the second is better
    worse_on: float
    seeds: Estimate | None  # over training seeds, on these very episodes; None: a side has one seed
    seeds_paired: bool
    both: Estimate | None  # over seeds and episodes together

    @property
    def decisive(self) -> Estimate | None:
        return self.both or self.episodes


class Comparison(NamedTuple):
    metric: str
    step: int | None  # after which inner step; None: each side's last
    episodes: int
    sha256: str  # of those episodes; of more, where only the first of them are common
    sides: list[Side]
    differences: list[Difference]  # of every other side against the first
    p_values: list[float | None]  # of each, after Holm's correction where there are several


def make_comparison(found: list[Part], mode: str | None = None, step: int | None = None) -> Comparison:
    """Raises UserError for what cannot be compared."""
    every = [run for part in found for run in part.runs]
    if unfinished := [run.folder for run in every if run.results is None]:
        raise UserError(f"{unfinished[0]} has no results.json: finish it with the command that began it, then compare")
    metric = _results(every[0]).metric
    for run in every[1:]:
        if (other := _results(run).metric) != metric:
            raise UserError(
                f"{every[0].folder} was tested by {metric} and {run.folder} by {other}: only tests by one metric can "
                "be compared"
            )
    number = common_episodes(every)
    sides = [make_side(part, number, mode, step) for part in found]
    made = [difference(metric, sides[0], side) for side in sides[1:]]
    p_values = [None if one.decisive is None else one.decisive.p for one in made]
    known = holm([p for p in p_values if p is not None])
    corrected = [None if p is None else known.pop(0) for p in p_values]
    shortest = min(every, key=lambda run: _results(run).episodes)
    return Comparison(metric, step, number, _results(shortest).episodes_sha256, sides, made, corrected)


def _results(run: RunFolder) -> Results:
    assert run.results is not None  # checked by `make_comparison`
    return run.results


def common_episodes(every: list[RunFolder]) -> int:
    """How many episodes all these runs were tested on. Raises UserError where they were not the same ones."""
    first, numbers = every[0], sorted({_results(run).episodes for run in every})
    if numbers[0] < 2:
        raise UserError(f"{first.folder} was tested on one episode, which says nothing about others: test on more")
    hashes = (
        {run.folder: read_episodes(run.folder, _results(run)).get("episode") for run in every}
        if len(numbers) > 1
        else {}
    )
    for run in every[1:]:
        if _results(run).episodes_sha256 == _results(first).episodes_sha256:
            continue
        one, other = hashes.get(first.folder), hashes.get(run.folder)
        if _results(run).episodes != _results(first).episodes and (one is None or other is None):
            most = max(numbers)
            raise UserError(
                f"{first.folder} was tested on {_results(first).episodes} episodes and {run.folder} on "
                f"{_results(run).episodes}, before each episode's hash was kept, so that nothing proves that the first "
                f"ones are the same: metalearn eval run=... test_episodes={most} for both"
            )
        if one is None or other is None or not np.array_equal(one[: numbers[0]], other[: numbers[0]]):
            keys = differences([first, run])
            shown = {key: value for key, value in keys.items() if key.startswith("task.") or key == "episodes_seed"}
            what = ", ".join(f"{key} {value[0]} and {value[1]}" for key, value in shown.items())
            raise UserError(
                f"{first.folder} and {run.folder} were not tested on the same episodes "
                f"({what or 'their data differ'}): metalearn eval tests a run on other ones"
            )
    return numbers[0]


def make_side(part: Part, number: int, mode: str | None, step: int | None) -> Side:
    rows = [_values(run, mode, step)[:number] for run in part.runs]
    headline = _results(part.runs[0])
    batch_norm = (mode or headline.batch_norm) if headline.batch_norm else None
    values = np.stack(rows).astype(np.float64)
    # Only an error can be NaN, and then it is beyond every bound.
    return Side(
        part.name,
        [run.config["seed"] for run in part.runs],
        np.nan_to_num(values, nan=np.inf),
        batch_norm,
        part.settings,
        headline.last.step,
    )


def _values(run: RunFolder, mode: str | None, step: int | None) -> Values:
    """The metric of a run on each of its episodes, [E]."""
    results = _results(run)
    arrays = read_episodes(run.folder, results)
    headline = arrays["metric"]  # [E, K + 1]
    if step is not None and step >= headline.shape[1]:
        raise UserError(f"step={step}: {run.folder} was tested with {headline.shape[1] - 1} inner steps")
    if mode is None or results.batch_norm in (None, mode):
        values: Values = headline[:, -1 if step is None else step]
        return values
    if step not in (None, headline.shape[1] - 1):
        raise UserError(f"step={step}: {run.folder} was scored with batch norm {mode} after the last inner step alone")
    if f"metric_{mode}" not in arrays:
        raise UserError(
            f"{run.folder} was not scored with batch norm {mode}: metalearn eval run=... batch_norm={mode} does that"
        )
    other: Values = arrays[f"metric_{mode}"]
    return other


def difference(metric: str, first: Side, second: Side) -> Difference:
    with np.errstate(invalid="ignore"):
        gain = gains(metric, first.values, second.values)  # [E]
        gain = np.nan_to_num(gain, nan=0.0, posinf=np.inf, neginf=-np.inf)  # both infinite: alike
    better, worse = ((gain > 0).mean(), (gain < 0).mean())[:: 1 if is_better(metric, 1, 0) else -1]
    if not np.isfinite(gain).all():
        return Difference(first, second, None, None, wilcoxon(gain), better, worse, None, False, None)
    over_episodes, over_seeds, both = paired(gain), None, None
    seeds_paired = first.seeds == second.seeds
    if min(len(first.seeds), len(second.seeds)) > 1:
        by_seed = first.values.T, second.values.T
        over_seeds = paired(gains(metric, *by_seed)) if seeds_paired else unpaired(*(side.mean(0) for side in by_seed))
        both = together(over_seeds, over_episodes)
    ranks, alone = wilcoxon(gain), unpaired(first.values.mean(0), second.values.mean(0))
    return Difference(first, second, over_episodes, alone, ranks, better, worse, over_seeds, seeds_paired, both)
