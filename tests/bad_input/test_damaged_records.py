"""Row C26 of the fault matrix: records of a run in which a key is missing or has another value. The command ends with
one sentence, or goes on, and never with a traceback.
"""

import copy as copies
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from commands import run
from foreign import COMMANDS, copy, forge

HUGE, MISSING = 10**25, "missing"
VALUES: dict[str, Any] = {
    "missing": MISSING,
    "null": None,
    "list": [],
    "text": "x",
    "object": {},
    "huge": HUGE,
    "nan": float("nan"),
    "negative": -1,
    "abstract class": "metalearn_cli.algorithms.base.Algorithm",
    "class of another kind": "metalearn_cli.tasks.base.Batch",
}


class Damage(NamedTuple):
    command: str
    record: str
    place: tuple[Any, ...]  # of the value in the record; none: all of it
    value: str  # of VALUES

    @property
    def name(self) -> str:
        return f"{self.command}: {self.record} {'.'.join(map(str, self.place)) or 'all'} {self.value}"


# The places that each command looks at, and what may stand there instead. A huge number of inner steps takes its time.
PLACES: dict[tuple[str, str], dict[tuple[Any, ...], tuple[str, ...]]] = {
    ("train on", "choices.json"): {(): ("list",), ("threads",): ("text", "huge"), ("ranks",): ("text",)},
    ("train on", "environment.json"): {("data",): ("list", "huge"), ("choices",): ("list",), ("torch",): ("list",)},
    ("eval", "environment.json"): {
        (): ("list", "text"),
        ("choices",): ("null", "list", "text", "huge"),
        ("choices", "task"): ("missing", "huge", "list"),
        ("data",): ("null", "list", "huge"),
    },
    ("eval", "results.json"): {("step",): ("missing", "null", "text", "huge", "nan", "list")},
    ("report", "outcome.json"): {(): ("list", "huge", "text", "null"), ("failed",): ("list",), ("number",): ("nan",)},
    ("predict", "config.yaml"): {
        ("algo", "_target_"): ("abstract class", "class of another kind", "text", "list"),
        ("algo", "inner_lr"): ("missing", "text", "huge"),
        ("algo", "test_steps"): ("negative",),
        ("model", "hidden"): ("text", "huge", "object"),
    },
    ("predict", "task.json"): {(): ("list",), ("spec",): ("list",), ("columns", "features"): ("huge",)},
    ("predict of an export", "model.json"): {
        ("step",): ("missing", "huge", "null", "text"),
        ("format",): ("text", "null", "list"),
        ("sha256",): ("list",),
        ("unlike",): ("huge", "text"),
        ("config", "algo"): ("list",),
        ("config", "algo", "_target_"): ("text", "huge"),
        ("config", "algo", "inner_lr"): ("missing", "text", "list"),
        ("config", "algo", "test_steps"): ("negative",),
        ("config", "model", "hidden"): ("text", "huge", "object"),
    },
    ("train", "results.json"): {
        ("steps",): ("missing", "text"),
        ("select",): ("missing",),
        ("metric",): ("missing",),
        ("batch_norm",): ("missing",),
        ("episodes",): ("missing",),
        ("per_step",): ("missing", "nan", "null", "text", "huge"),
        ("per_step", 0, "step"): ("missing", "list", "object", "null"),
        ("per_step", 0, "mean"): ("missing", "list", "object", "text"),
        ("per_step", 0, "diverged"): ("missing",),
        ("other_batch_norm",): ("missing", "null", "list", "text", "huge", "nan"),
        ("learned",): ("missing", "text", "huge", "nan"),
        ("paper",): ("missing", "list", "object", "text", "nan"),
        ("baselines",): ("text", "huge", "nan"),
    },
}
CASES = [
    Damage(command, record, place, value)
    for (command, record), places in PLACES.items()
    for place, values in places.items()
    for value in values
]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    content = copies.deepcopy(content)
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    if value == MISSING:
        inside.pop(place[-1], None)
    else:
        inside[place[-1]] = value
    return content


def damage(folder: Path, one: Damage) -> None:
    path = folder / ("exported" if one.record == "model.json" else "outputs/run") / one.record
    if one.record == "config.yaml":
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(path.read_text()), one.place, VALUES[one.value])))
        return
    whole = json.loads(path.read_text()) if path.exists() else {}
    forge(path, changed(whole, one.place, VALUES[one.value]))


def tells(one: Damage, made: Path, folder: Path) -> str | None:
    """Why the command did not end as it should; None where it did."""
    copy(made, folder)
    damage(folder, one)
    done = run(folder, *COMMANDS[one.command])
    if "Traceback" in done.err or done.code not in (0, 1):
        return done.err
    said = [line for line in done.err.splitlines() if line.startswith("metalearn: ")]
    return None if done.code == 0 or len(said) == 1 else done.err


@pytest.mark.row("C26", ci=8, full=len(CASES))
def test_a_damaged_record_is_a_sentence(attempt: int, made: Path, tmp_path: Path) -> None:
    one = CASES[attempt * 37 % len(CASES)]
    assert tells(one, made, tmp_path) is None, one.name
