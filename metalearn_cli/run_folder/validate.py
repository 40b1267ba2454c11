"""Whether what stands in a run's folder is what a run writes there: a sentence with the file and the place for what is
not."""

from pathlib import Path
from typing import Any

import numpy as np

from metalearn_cli.config.conf_folder import GROUPS
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import is_finite

# What a value may be, in the words of the sentence that says it is not.
_NUMBER, _FIGURE, _SHARE = "a finite number", "a finite number or null", "a number from 0 to 1"
_WHOLE, _COUNT = "a whole number", "a whole number of 0 or above"
_TEXT, _NAME, _FLAG = "a text", "a text or null", "true, false or null"
_PART = "the name of a file in one folder"  # of which a path is made
_METRIC, _OBJECT, _MAYBE, _ROWS = "accuracy or mse", "an object", "an object or null", "a list of objects"


_SUMMARY = {"mean": _FIGURE, "ci95": _FIGURE, "median": _FIGURE}
_RESULTS = {"metric": _METRIC, **_SUMMARY, "episodes": _COUNT, "per_step": _ROWS, "episodes_sha256": _TEXT}
_STEP = {"step": _COUNT, **_SUMMARY, "diverged": _SHARE}
_MORE_RESULTS = {
    **{"batch_norm": _NAME, "algo": _NAME, "task": _NAME, "step": _COUNT, "steps": _COUNT},
    **{"paper": _MAYBE, "baselines": _MAYBE, "learned": _MAYBE},
}
_ENVIRONMENT = {
    **{"choices": _OBJECT, "git_commit": _NAME, "git_dirty": _FLAG, "gpu": _NAME, "ranks": _COUNT},
    **{"processor": _NAME, "metalearn": _NAME, "torch": _NAME, "python": _NAME, "data": _NAME},
}


def check_results(path: Path, results: dict[str, Any]) -> None:
    """Raises UserError where that is no results.json."""
    _check(path, "", results, {**_RESULTS, "seed": _WHOLE}, _MORE_RESULTS)
    for number, row in enumerate(results["per_step"]):
        _check(path, f"per_step[{number}].", row, _STEP)
    if (paper := results.get("paper")) is not None:
        _check(path, "paper.", paper, {"mean": _NUMBER}, {"ci95": _FIGURE})
    for name, value in (results.get("learned") or {}).items():
        _check(path, "learned.", {name: value}, {name: _NUMBER})
    for name, row in (results.get("baselines") or {}).items():
        _check(path, "baselines.", {name: row}, {name: _OBJECT})
        _check(path, f"baselines.{name}.", row, {"mean": _FIGURE, "ci95": _FIGURE})


def check_environment(path: Path, environment: dict[str, Any]) -> None:
    """Raises UserError where that is no environment.json."""
    _check(path, "", environment, {}, _ENVIRONMENT)
    for group, choice in environment.get("choices", {}).items():
        _check(path, "choices.", {group: choice}, {group: _PART if group in GROUPS else _TEXT})


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Raises UserError where that is no run's config.yaml; `config` is flat."""
    _check(path, "", config, {"seed": _WHOLE, "steps": _COUNT}, {"name": _NAME, "log_every": _COUNT})


def check_episodes(path: Path, arrays: dict[str, np.ndarray[Any, Any]], results: dict[str, Any]) -> None:
    """Raises UserError where these are not the episodes of these results: E of them, and K + 1 numbers of each."""
    shapes = {"metric": (results["episodes"], len(results["per_step"])), "episode": (results["episodes"],)}
    for name, array in arrays.items():
        wanted = shapes.get(name) or (shapes["episode"] if name.startswith("metric_") else array.shape)
        if array.dtype.kind not in "biuf" or array.shape != wanted:
            found = f"{array.dtype} of shape {list(array.shape)}"
            raise UserError(
                f"{path}: {name} is {found}, and the run's results.json says {list(wanted)}: metalearn eval run=... "
                "tests the run once more"
            )
    if "metric" not in arrays:
        raise UserError(f"{path} has no array metric: metalearn eval run=... tests the run once more")


def _check(
    path: Path, above: str, content: dict[str, Any], wanted: dict[str, str], optional: dict[str, str] | None = None
) -> None:
    for name, words in {**wanted, **(optional or {})}.items():
        if name not in content:
            if name in wanted:
                raise UserError(f"{path} has no {above}{name}: it is not whole, or not of a run")
        elif not _is(words, content[name]):
            shown = repr(content[name])
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise UserError(f"{path}: {above}{name} is {shown}, where {words} is wanted: mend or remove the file")


def _is(words: str, value: Any) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    match words:
        case "a finite number":
            return is_finite(value)
        case "a finite number or null":
            return value is None or is_finite(value)
        case "a number from 0 to 1":
            return is_finite(value) and 0 <= value <= 1
        case "a whole number":
            return is_whole
        case "a whole number of 0 or above":
            return is_whole and value >= 0
        case "the name of a file in one folder":
            return isinstance(value, str) and value.isprintable() and value not in ("", ".", "..") and "/" not in value
        case "a text":
            return isinstance(value, str)
        case "a text or null":
            return value is None or isinstance(value, str)
        case "true, false or null":
            return value is None or isinstance(value, bool)
        case "an object":
            return isinstance(value, dict)
        case "an object or null":
            return value is None or isinstance(value, dict)
        case "accuracy or mse":
            return value in ("accuracy", "mse")
        case "a list of objects":
            return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)
        case _:
            raise ValueError(words)
