"""Row C26 of the fault matrix: records of a run in which a key is missing or has another value. The command ends with
one sentence, or goes on, and never with a traceback.
"""

from pathlib import Path
from typing import Any

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
    (command, record, place, value)
    for (command, record), places in PLACES.items()
    for place, values in places.items()
    for value in values
]


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    if value == MISSING:
        inside.pop(place[-1], None)
    else:
        inside[place[-1]] = value
    return content


@pytest.mark.row("C26", ci=8, full=len(CASES))
def test_a_damaged_record_is_a_sentence(attempt: int, made: Path, tmp_path: Path) -> None:
    command, record, place, value = CASES[attempt * 37 % len(CASES)]
    path = copy(made, tmp_path) / ("exported" if record == "model.json" else "outputs/run") / record
    content = yaml.safe_load(path.read_text()) if path.exists() else {}  # JSON too
    content = changed(content, place, VALUES[value])
    if record == "config.yaml":
        path.write_text(yaml.safe_dump(content))
    else:
        forge(path, content)
    done = run(tmp_path, *COMMANDS[command])
    said = [line for line in done.err.splitlines() if line.startswith("metalearn: ")]
    assert "Traceback" not in done.err, (command, record, place, value, done.err)
    assert done.code == 0 or (done.code == 1 and len(said) == 1), (command, record, place, value, done.err)
