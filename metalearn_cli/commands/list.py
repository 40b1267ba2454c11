"""`metalearn list`: what can be chosen, a line each."""

import os

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, family_of, list_choices, summary_of
from metalearn_cli.errors import UsageError
from metalearn_cli.system.console import tell
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.tasks.metrics import METRICS

KINDS = (*GROUPS, *PRESETS, "metric")

PLACE = 9
HELP = f"""\
List the choices of a group, a line each.

metalearn list {"|".join(KINDS)}
"""

# Every name that is written anywhere.
LINES = {
    **{name: f"{of.about}; {'higher' if of.sign > 0 else 'lower'} is better" for name, of in METRICS.items()},
    "train/loss": "query loss after adapting, mean over that step's meta-batch; optimizers: support loss at the end",
    "train/lr": "learning rate of the outer optimizer at that step",
    "val/loss": "query loss after the last inner step, mean over the validation episodes",
    "val/METRIC": "accuracy, mse or log_likelihood after the last inner step, mean over the validation episodes",
    "val/METRIC_stepK": "the same after K inner steps, of many about a dozen; step 0 is before adapting",
    "beside": "the other metrics of the test, in results.json, after the last inner step",
    "constant, oracle": "regression, beside the test: the scores of each support's mean, and of the task itself",
    "ci95": "1.96 standard deviations over episodes / sqrt(episodes): the noise of the episodes, not of training",
    "diverged": "share of episodes whose loss is not finite, or above a limit: docs/evaluation.md",
    "timing/steps_per_second": "meta-iterations a second since the last line of the log, validation included",
}


def complete(words: list[str]) -> list[str]:
    return list(KINDS)


def run(arguments: list[str]) -> int:
    match arguments:
        case ["metric"]:
            lines = LINES
        case ["task"]:
            lines = {choice: task_line(choice) for choice in list_choices("task")}
            place = os.environ.get("METALEARN_DATA") or "METALEARN_DATA, which is not set"
            tell(f"data sets are looked for in {place}")
        case ["algo"]:
            families = {choice: family_of(choice) for choice in list_choices("algo")}
            width = max(map(len, families.values()))
            lines = {
                choice: f"{families[choice]:<{width}}  {summary_of('algo', choice)}"
                for choice in sorted(families, key=lambda choice: families[choice])
            }
        case [group] if group in KINDS:
            lines = {choice: summary_of(group, choice) for choice in list_choices(group)}
        case _:
            raise UsageError(f"list needs one of {', '.join(KINDS)}")
    width = max(map(len, lines))
    for name, text in lines.items():
        print(f"{name:<{width}}  {text}")
    return 0


def task_line(choice: str) -> str:
    """Say what a task is; of one with a data set whether it is here, its size, its licence, and who made it."""
    summary = summary_of("task", choice)
    if (known := about_sets().get(choice)) is None:
        return summary
    is_here = bool(os.environ.get("METALEARN_DATA")) and known.is_in(known.folder_of())
    size = f"{known.classes:>5,} classes  {known.images:>7,} images"
    makers = summary.partition("(")[2].partition(")")[0]
    return f"{'found' if is_here else 'missing':<7}  {size}  {known.licence:<13}  {makers}"
