"""The figures as tables in Markdown and as plots, made of the JSON file alone."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.speed import figures
from benchmarks.speed.plan import ABSENT, BOUND, GOALS, LINEUPS, LOOSE, SWEEPS
from benchmarks.speed.race import Entry
from benchmarks.speed.record import Record, entries
from benchmarks.speed.standings import Standing
from benchmarks.speed.variants import side
from benchmarks.speed.workloads import WORKLOADS

TITLES = {w.name: w.title for w in WORKLOADS}
HEAD = """# Speed

Made by `benchmarks/speed/run.sh` from [{json}]({json}), which holds every figure; [how it is measured](README.md).

- machine: {cpu}; device {device}, {threads} thread(s); float32
- versions: {versions}
- measured {dates}, metalearn {commits}; load average before it (of five minutes) {loads}
- commands: {commands}
"""
GOALS_TEXT = """## Against the goals

Steps per second are medians. A ratio is the median of the ratios within a round, in which every variant takes its turn,
with the quartiles of the rounds in brackets; above 1 ours is faster. The allocator is the same on both sides, but for
the column that says otherwise (what a user of each gets). sgemm: the exact work of a step in products (README.md), over
that of a matrix product in the same rounds.
"""
SPEED_TEXT = "## Outer steps per second, {} allocator\n\n`~`: one step after the first, not timed in rounds.\n"
MEMORY_TEXT = """## Peak memory in GB, {} allocator

Of a process after its first step, beyond its imports; ours at the fastest chunk and one task at a time.
"""
CHECKS_TEXT = """## The same meta-gradient

Relative error of one step's meta-gradient in float64 (the largest over the parameters) against a loop over tasks of
plain torch layers, on a small version of each workload. A variant above 1e-8 (qpth, whose solver stops earlier: 1e-3)
is wrong, and is not timed.
"""

SCALING_TEXT = """## Scaling

Steps per second with the tuned allocator, the fastest in bold; where it is not ours, another program is the better
choice for that size. `~`: one step, by a program that was too slow to be timed in rounds.
"""


def write(found: Record, out: Path) -> list[Path]:
    """The Markdown file, and the plot of the sweeps, beside `out`."""
    text = [_head(found, out.name)]
    if found["races"]:
        text += [_goals(found), *(_speeds(found, allocator) for allocator in ("tuned", "default"))]
        text += [_memory(found, allocator) for allocator in ("tuned", "default")]
        text += [_checks(found), _why(found)]
    paths = [out.with_name("RESULTS.md" if out.stem == "results" else f"{out.stem}.md")]
    if found["sweeps"]:
        text.append(_scaling(found))
        plot = out.with_name("scaling.png" if out.stem == "results" else f"{out.stem}.png")
        if figures.draw(found, plot):
            text.append(f"![steps per second over tasks, inner steps, ways and widths]({plot.name})\n")
            paths.append(plot)
    paths[0].write_text("\n".join(part for part in text if part))
    return paths


def _head(found: Record, json: str) -> str:
    conditions = found["conditions"]
    parts = [*found["races"].values(), *(point for points in found["sweeps"].values() for point in points.values())]

    def distinct(key: str) -> str:
        return ", ".join(dict.fromkeys(str(part[key]) for part in parts))

    dates = sorted(part["date"] for part in parts)
    loads = [part["load"] for part in parts]
    return HEAD.format(
        json=json,
        cpu=conditions["cpu"],
        device=conditions["device"],
        threads=conditions["threads"],
        versions=", ".join(f"{name} {version}" for name, version in conditions["versions"].items()),
        dates=f"{dates[0]} to {dates[-1]}" if dates else "never",
        commits=distinct("commit"),
        loads=f"{min(loads):.1f} to {max(loads):.1f}" if loads else "unknown",
        commands=", ".join(f"`{command}`" for command in dict.fromkeys(part["command"] for part in parts)),
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _goals(found: Record) -> str:
    head = ["", "ours", "best torch peer", "ratio, both tuned", "both default", "ours tuned, theirs default"]
    head += ["to the best JAX", "of sgemm", "goals"]
    rows = []
    for name in _raced(found):
        place = Standing(name, entries(found["races"][name]))
        ours, peer = place.fastest("tuned", "ours"), place.fastest("tuned", "torch")
        rows.append(
            [
                f"{name}: {TITLES[name]}",
                *(_speed(ours, named=True), _speed(peer, named=True)),
                *(_ratio(place, *pair) for pair in (("tuned", "tuned"), ("default", "default"), ("tuned", "default"))),
                *(_ratio(place, "tuned", "tuned", "jax"), _share(place), _reached(name, place)),
            ]
        )
    return GOALS_TEXT + "\n" + _table(head, rows)


def _raced(found: Record) -> list[str]:
    return [name for name in LINEUPS if name in found["races"]]


def _speed(entry: Entry | None, named: bool = False) -> str:
    if entry is None or entry.step is None:
        return "-"
    speed = f"{1 / entry.step:#.3g}".rstrip(".")
    return ("" if entry.seconds else "~") + speed + (f" ({entry.variant})" if named else "")


def _ratio(place: Standing, ours: str, theirs: str, whose: str = "torch") -> str:
    ratio = place.ratio(ours, theirs, whose)
    if ratio is None:
        return "-"
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.rounds > 1 else f"~{ratio.median:.3g}"


def _share(place: Standing) -> str:
    share, sgemm = place.sgemm_share, place.sgemm
    return "-" if share is None or sgemm is None else f"{share:.0%} of {sgemm / 1e9:.0f} GF/s"


def _reached(name: str, place: Standing) -> str:
    goal, parts = GOALS[name], []
    for what, wanted, got in (
        ("torch", goal.peer, place.ratio("tuned", "tuned")),
        ("JAX", goal.jax, place.ratio("tuned", "tuned", "jax")),
        ("as users get it", goal.as_users, place.ratio("tuned", "default")),
    ):
        if wanted is not None:
            parts.append(f"{what} {wanted:g}: {_verdict(wanted, got.median if got else None)}")
    if goal.sgemm is not None:
        parts.append(f"sgemm {goal.sgemm:.0%}: {_verdict(goal.sgemm, place.sgemm_share)}")
    return "; ".join(parts)


def _verdict(wanted: float, got: float | None) -> str:
    return "not measured" if got is None else "reached" if got >= wanted else "short"


def _speeds(found: Record, allocator: str) -> str:
    return _by_variant(found, allocator, SPEED_TEXT, _speed)


def _memory(found: Record, allocator: str) -> str:
    def gigabytes(entry: Entry | None) -> str:
        return f"{entry.peak / 1e9:.2f}" if entry is not None and entry.peak else "-"

    return _by_variant(found, allocator, MEMORY_TEXT, gigabytes)


def _by_variant(found: Record, allocator: str, text: str, cell: Callable[[Entry | None], str]) -> str:
    names, by_key = _raced(found), {}
    for name in names:
        for entry in entries(found["races"][name]):
            if entry.allocator == allocator and side(entry.variant) != "machine":
                by_key[entry.variant, name] = entry
    variants = dict.fromkeys(variant for variant, _ in by_key)
    rows = [[variant, *(cell(by_key.get((variant, name))) for name in names)] for variant in variants]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    return text.format(allocator) + "\n" + _table(["", *names], rows) if rows else ""


def _checks(found: Record) -> str:
    names = _raced(found)
    rows = []
    for variant, known in found["checks"].items():
        cells = [known.get(name, {}).get("error") for name in names]
        marks = [
            "-" if error is None else f"**{error:.0e} wrong**" if error > LOOSE.get(variant, BOUND) else f"{error:.0e}"
            for error in cells
        ]
        if set(marks) != {"-"}:
            rows.append([variant, *marks])
    return CHECKS_TEXT + "\n" + _table(["", *names], rows)


def _why(found: Record) -> str:
    """Who has no figure, or only the one of a step, and why."""
    lines = [f"- {name}: {reason}" for name, reason in ABSENT.items()]
    for name in _raced(found):
        by_reason: dict[str, list[str]] = {}
        for entry in entries(found["races"][name]):
            if entry.why is not None:
                by_reason.setdefault(entry.why, []).append(entry.variant)
        lines += [f"- {name}: {', '.join(dict.fromkeys(who))}: {why}" for why, who in by_reason.items()]
    return "## Who did not race, and why\n\n" + "\n".join(lines) + "\n"


def _scaling(found: Record) -> str:
    """Steps per second along each sweep, the winner in bold."""
    parts = [SCALING_TEXT]
    for name, of in SWEEPS.items():
        points = found["sweeps"].get(name, {})
        shown = [x for x in of.points if str(x) in points]
        if not shown:
            continue
        columns = {x: {entry.variant: entry for entry in entries(points[str(x)])} for x in shown}
        variants = [variant for variant in of.variants if any(columns[x].get(variant) for x in shown)]
        rows = [[variant, *(_point(columns[x], variant) for x in shown)] for variant in variants]
        rows = [row for row in rows if set(row[1:]) != {"-"}]
        rows.append(["ours to the best torch peer", *(_lead(columns[x], "torch") for x in shown)])
        if any(side(variant) == "jax" for variant in variants):
            rows.append(["ours to the best JAX", *(_lead(columns[x], "jax") for x in shown)])
        failed = [f"{e.variant} at {x}: {e.why}" for x in shown for e in columns[x].values() if e.why is not None]
        notes = "".join(f"\n- {line}" for line in failed)
        parts.append(f"### {of.title}\n\n" + _table([of.axis, *map(str, shown)], rows) + notes + "\n" * bool(notes))
    return "\n".join(parts)


def _point(column: dict[str, Entry], variant: str) -> str:
    best = min((entry.step for entry in column.values() if entry.step), default=None)
    entry = column.get(variant)
    return f"**{_speed(entry)}**" if entry is not None and entry.step and entry.step == best else _speed(entry)


def _lead(column: dict[str, Entry], whose: str) -> str:
    place = Standing("", list(column.values()))
    return _ratio(place, "tuned", "tuned", whose)
