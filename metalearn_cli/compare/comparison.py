"""Two or more sides on the same test episodes, and what their differences are.

E episodes and S seeds of a side. The difference of two runs on one episode is what pairing looks at: whether an episode
is hard or easy falls out of it. Seeds are another source of noise than episodes, and have an interval of their own.
"""

from typing import NamedTuple

import numpy as np

from metalearn_cli.compare.groups import Part, configuration, differences
from metalearn_cli.compare.statistics import Estimate, gains, holm, paired, together, unpaired, wilcoxon
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.errors import UserError
from metalearn_cli.learning.baselines import BASELINES
from metalearn_cli.learning.leakage import Leakage
from metalearn_cli.run_folder.read import RunFolder, Values
from metalearn_cli.run_folder.results import BASELINE, EPISODES, Results, read_episodes
from metalearn_cli.tasks.metrics import METRICS


class Side(NamedTuple):
    name: str
    seeds: list[int]
    values: Values  # [S, E]: the metric of each seed's run on each episode
    batch_norm: str | None
    settings: Config  # what decides the result, but for the seed
    inner_steps: int  # that its test took
    transductive_head: bool = False  # whether it predicts all queries of a task together
    leakage: Leakage | None = None  # of its first run


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
    p: float | None = None  # of the decisive one, after Holm's correction where there are several

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
    baselines: dict[str, Values]  # the metric of what learns nothing on each episode, or on the first ones


def make_comparison(parts: list[Part], mode: str | None, step: int | None) -> Comparison:
    """Compare the sides with the first. Raises UserError for what cannot be compared."""
    runs = [run for part in parts for run in part.runs]
    if unfinished := [run.folder for run in runs if run.results is None]:
        raise UserError(f"{unfinished[0]} has no results.json: finish it with the command that began it, then compare")
    metric = _results(runs[0]).metric
    for run in runs[1:]:
        if (other := _results(run).metric) != metric:
            raise UserError(
                f"{runs[0].folder} was tested by {metric} and {run.folder} by {other}: only tests by one metric can "
                "be compared"
            )
    fewest = min(map(_results, runs), key=lambda results: results.episodes)
    _check_same_episodes(runs, fewest.episodes)
    sides = [_side(part, fewest.episodes, mode, step) for part in parts]
    pairs = [difference(metric, sides[0], side) for side in sides[1:]]
    corrected = iter(holm([pair.decisive.p for pair in pairs if pair.decisive is not None]))
    pairs = [pair if pair.decisive is None else pair._replace(p=next(corrected)) for pair in pairs]
    beside: dict[str, Values] = {}
    for name, values in (pair for run in runs for pair in _baselines(run, fewest.episodes).items()):
        beside[name] = max(beside.get(name, values), values, key=len)
    return Comparison(metric, step, fewest.episodes, fewest.episodes_sha256, sides, pairs, beside)


def _results(run: RunFolder) -> Results:
    assert run.results is not None  # checked by `make_comparison`
    return run.results


def _check_same_episodes(runs: list[RunFolder], number: int) -> None:
    """Raises UserError where the first `number` episodes of these runs, which all have so many, are not the same."""
    first, tested = runs[0], _results(runs[0])
    if number < 2:
        raise UserError(f"{first.folder} was tested on one episode, which says nothing about others: test on more")
    for run in runs[1:]:
        if (results := _results(run)).episodes_sha256 == tested.episodes_sha256:
            continue
        hashes, others = (read_episodes(side.folder, _results(side)).get("episode") for side in (first, run))
        if results.episodes != tested.episodes and (hashes is None or others is None):
            raise UserError(
                f"{first.folder} was tested on {tested.episodes} episodes and {run.folder} on {results.episodes}, "
                "before each episode's hash was kept, so that nothing proves that the first ones are the same: "
                f"metalearn eval run=... test_episodes={max(_results(run).episodes for run in runs)} for both"
            )
        if hashes is None or others is None or not np.array_equal(hashes[:number], others[:number]):
            keys = differences([first, run])
            shown = [key for key in keys if key.startswith("task.") or key == "episodes_seed"]
            what = ", ".join(f"{key} {keys[key][0]} and {keys[key][1]}" for key in shown)
            raise UserError(
                f"{first.folder} and {run.folder} were not tested on the same episodes "
                f"({what or 'their data differ'}): metalearn eval tests a run on other ones"
            )


def _side(part: Part, number: int, mode: str | None, step: int | None) -> Side:
    values = np.stack([_values(run, mode, step)[:number] for run in part.runs]).astype(np.float64)
    headline = _results(part.runs[0])
    values[np.isnan(values)] = METRICS[headline.metric].worst
    batch_norm = (mode or headline.batch_norm) if headline.batch_norm else None
    seeds = [run.config["seed"] for run in part.runs]
    settings = configuration(part.runs[0])
    told = headline.transductive_head, headline.leakage
    return Side(part.name, seeds, values, batch_norm, settings, headline.last.step, *told)


def _values(run: RunFolder, mode: str | None, step: int | None) -> Values:
    """The metric of a run on each of its episodes, [E]."""
    results = _results(run)
    arrays: dict[str, Values] = read_episodes(run.folder, results)
    last = arrays["metric"].shape[1] - 1  # of [E, K + 1]
    if step is not None and step > last:
        raise UserError(f"step={step}: {run.folder} was tested with {last} inner steps")
    if mode is None or results.batch_norm in (None, mode):
        return arrays["metric"][:, -1 if step is None else step]
    if step not in (None, last):
        raise UserError(f"step={step}: {run.folder} was scored with batch norm {mode} after the last inner step alone")
    if f"metric_{mode}" not in arrays:
        raise UserError(
            f"{run.folder} was not scored with batch norm {mode}: metalearn eval run=... batch_norm={mode} does that"
        )
    return arrays[f"metric_{mode}"]


def unbeaten_by(run: RunFolder) -> str:
    """Name the baselines that a tested run is not better than, see `unbeaten`; none where its episodes were removed."""
    results = _results(run)
    if not (run.folder / EPISODES).exists():
        return ""
    return unbeaten(results.metric, _values(run, None, None)[None], _baselines(run, results.episodes))


def unbeaten(metric: str, values: Values, baselines: dict[str, Values]) -> str:
    """Name the baselines [E] that values [S, E] of models should be better than, and are not as far as the 95% interval
    of the difference on the same episodes tells; empty: there are none."""
    words = []
    for name, other in baselines.items():
        gain = METRICS[metric].sign * gains(metric, other[None], values[:, : len(other)])
        is_better = len(gain) > 1 and np.isfinite(gain).all() and paired(gain).low > 0
        words += [BASELINES[name].words] if BASELINES[name].is_beaten and not is_better else []
    return " and ".join(words)


def _baselines(run: RunFolder, number: int) -> dict[str, Values]:
    """The metric of the baselines on each of a run's first `number` episodes, or of those that they are on, by their
    names; earlier versions kept none."""
    arrays = read_episodes(run.folder, _results(run))
    return {name: arrays[BASELINE + name][:number] for name in BASELINES if BASELINE + name in arrays}


def difference(metric: str, first: Side, second: Side) -> Difference:
    with np.errstate(invalid="ignore"):
        gain = gains(metric, first.values, second.values)  # [E]
        gain = np.nan_to_num(gain, nan=0.0, posinf=np.inf, neginf=-np.inf)  # both infinite: alike
    better, worse = ((gain > 0).mean(), (gain < 0).mean())[:: METRICS[metric].sign]
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
