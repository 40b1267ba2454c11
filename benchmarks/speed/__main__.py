"""Measure how fast an outer step is, here and in other programs, and write the figures and the tables."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed import record, report
from benchmarks.speed.plan import ALL, BOUND, LINEUPS, LOOSE, SWEEPS
from benchmarks.speed.race import Entry, race, say, sweep
from benchmarks.speed.remote import Host, Remote
from benchmarks.speed.workloads import WORKLOADS
from metalearn_cli.errors import UserError
from metalearn_cli.system.device import resolve_device

OUT = Path(__file__).parent / "results.json"
CHECKS = 3  # minutes, about, and not part of the budget


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--workloads", help=f"some of {','.join(LINEUPS)}, or none (default: all)")
    parser.add_argument("--sweeps", help=f"some of {','.join(SWEEPS)}, or none (default: all; none with --workloads)")
    parser.add_argument("--variants", help=f"some of {','.join(ALL)}; NAME is every NAME/... too (default: the plan's)")
    parser.add_argument("--allocators", default="tuned,default", help="tuned,default or one of them")
    parser.add_argument("--budget", type=float, help="seconds for all that is timed (default: 40 minutes for all)")
    parser.add_argument("--patience", type=float, default=90, help="seconds after which a step is given up")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    parser.add_argument("--out", type=Path, default=OUT, help="the figures; the tables and plots stand beside it")
    parser.add_argument("--again", action="store_true", help="measure anew what the file holds already")
    parser.add_argument("--render", action="store_true", help="only write the tables and plots anew")
    return parser.parse_args()


def choose(given: str | None, names: Sequence[str], what: str) -> list[str]:
    """The names in a list with commas, in the order of `names`, whatever their case."""
    if given is None:
        return list(names)
    asked = [] if given == "none" else [name.strip().lower() for name in given.split(",")]
    for name in asked:
        if not any(_covers(name, known) for known in names):
            raise UserError(f"there is no {what} {name}: take some of {', '.join(names)}")
    return [known for known in names if any(_covers(name, known) for name in asked)]


def _covers(asked: str, name: str) -> bool:
    return name.lower() == asked or name.lower().startswith(asked + "/")


def check(found: record.Record, wanted: dict[str, list[str]], host: Host) -> None:
    """The float64 meta-gradient of each variant (with the workloads that it is wanted for), where it is not known."""
    by_name = {w.name: w for w in WORKLOADS}
    for variant, names in wanted.items():
        known = found["checks"].setdefault(variant, {})
        remote: Remote | None = None
        for name in names:
            if name in known:
                continue
            if remote is None or not remote.alive:
                remote = Remote(variant, "default", host)
            known[name] = remote.started if "why" in remote.started else remote.check(by_name[name])
            error = known[name].get("error")
            result = known[name].get("why") if error is None else f"{error:.1e}" + (" WRONG" if error > BOUND else "")
            say(f"check {variant} on {name}: {result}")
        if remote is not None:
            remote.close()


def right(found: record.Record, variant: str, workload: str) -> bool:
    return variant == "sgemm" or found["checks"][variant][workload].get("error", 1) <= LOOSE.get(variant, BOUND)


def main() -> int:
    given = arguments()
    if given.again:
        given.out.unlink(missing_ok=True)
    found = record.load(given.out, given.device, given.threads, any_conditions=given.render)
    if not given.render:
        with open(given.out.with_suffix(".log"), "a") as log:
            measure(given, found, Host(given.device, given.threads, given.patience, log))
    for path in report.write(found, given.out):
        print(path)
    return 0


def measure(given: argparse.Namespace, found: record.Record, host: Host) -> None:
    resolve_device(given.device)  # or the sentence that says what is missing
    workloads = choose(given.workloads, list(LINEUPS), "workload")
    sweeps = choose(given.sweeps if given.workloads is None or given.sweeps else "none", list(SWEEPS), "sweep")
    variants = choose(given.variants, ALL, "variant")
    allocators = ["default"] if given.device == "cuda" else choose(given.allocators, ["tuned", "default"], "allocator")
    lineups = {name: _lineup(name, variants, given.variants is None, given.device) for name in workloads}
    lineups = {name: lineup for name, lineup in lineups.items() if not _known(found, name, lineup, allocators)}
    points = [(name, x) for name in sweeps for x in SWEEPS[name].points if str(x) not in found["sweeps"].get(name, {})]
    planned = sum(LINEUPS[name].seconds for name in lineups) + sum(SWEEPS[name].seconds for name, _ in points)
    scale = 1.0 if given.budget is None else given.budget / max(planned, 1)
    say(
        f"{len(lineups)} workloads and {len(points)} points of sweeps, "
        f"about {planned * scale / 60 + CHECKS:.0f} minutes"
    )

    wanted = {variant: [name for name in lineups if variant in lineups[name]] for variant in ALL if variant != "sgemm"}
    check(found, wanted, host)
    record.save(found, given.out)
    by_name = {w.name: w for w in WORKLOADS}
    for name, lineup in lineups.items():
        say(f"{name}: {by_name[name].title}, {LINEUPS[name].seconds * scale:.0f} s")
        racing = [variant for variant in lineup if right(found, variant, name)]
        entries = race(by_name[name], racing, allocators, host, LINEUPS[name].seconds * scale)
        entries += [
            Entry(variant, allocators[0], why=_refusal(found, variant, name))
            for variant in lineup
            if variant not in racing
        ]
        found["races"][name] = record.measured(entries)
        record.save(found, given.out)
    for name in dict.fromkeys(name for name, _ in points):
        chosen = [variant for variant in SWEEPS[name].variants if variant in variants]
        for x, entries in sweep(SWEEPS[name], [x for n, x in points if n == name], chosen, host, scale):
            found["sweeps"].setdefault(name, {})[str(x)] = record.measured(entries)
            record.save(found, given.out)


def _lineup(name: str, variants: list[str], as_planned: bool, device: str) -> list[str]:
    """The plan's, or those that were asked for and what the machine can do."""
    planned = [*LINEUPS[name].variants, *(["ours/cuda_graph"] if device == "cuda" else [])]
    return planned if as_planned else ["sgemm", *(variant for variant in variants if variant != "sgemm")]


def _known(found: record.Record, name: str, lineup: list[str], allocators: list[str]) -> bool:
    known = found["races"].get(name, {"entries": []})["entries"]
    return {e["variant"] for e in known} >= set(lineup) and {e["allocator"] for e in known} >= set(allocators)


def _refusal(found: record.Record, variant: str, workload: str) -> str:
    known = found["checks"][variant][workload]
    return known.get("why") or f"wrong: its float64 meta-gradient is off by {known['error']:.1e}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"benchmarks.speed: {error}")
    except KeyboardInterrupt:
        say("interrupted: the same command goes on after the last whole workload")
        sys.exit(130)
