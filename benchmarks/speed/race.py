"""Variants side by side: every variant in its process, one slice of steps after another, round by round."""

import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.speed.plan import LEAN, Sweep
from benchmarks.speed.remote import Host, Remote, available_memory
from benchmarks.speed.variants import side
from benchmarks.speed.workloads import Workload

SLICE = 0.3  # seconds of steps before another variant has its turn, or one step
ROUNDS = (2, 25)  # at least and at most, whatever the budget
SLOW, HOPELESS = 1.0, 2.0  # a step of more seconds, and than so many times the fastest peer's, is not timed in rounds


@dataclass(eq=False)
class Entry:
    """What is known of a variant under one allocator."""

    variant: str
    allocator: str
    first: float | None = None  # seconds of the first step, with what a program compiles in it
    alone: float | None = None  # seconds of a step before the race
    seconds: list[float] = field(default_factory=list)  # of a step, in each round
    peak: int | None = None  # bytes beyond the imports, without those of the first step
    idle: float = 0.0  # processor seconds while others had their turn
    why: str | None = None  # there is no figure, or only the one before the race

    @property
    def step(self) -> float | None:
        """Seconds, the median where there are some."""
        return statistics.median(self.seconds) if self.seconds else self.alone

    def __str__(self) -> str:
        name = f"{self.allocator} {self.variant}"
        if self.step is None:
            return f"{name}: {self.why}"
        memory = f", {self.peak / 1e9:.2f} GB" if self.peak else ""
        return f"{name}: {1 / self.step:.4g} steps/s{memory}" + (f" ({self.why})" if self.why else "")


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


Running = list[tuple[Entry, Remote]]


def race(w: Workload, variants: list[str], allocators: list[str], host: Host, budget: float) -> list[Entry]:
    """All variants under the first allocator, and those that race under the others too, for about `budget` seconds."""
    end, free = time.perf_counter() + budget, available_memory()
    entries: list[Entry] = []
    running: Running = []
    try:
        for allocator in allocators:
            names = variants if allocator == allocators[0] else [entry.variant for entry in _of(running, allocators[0])]
            for variant in names:
                entry, remote = Entry(variant, allocator), Remote(variant, allocator, host)
                entries.append(entry)
                running.append((entry, remote))
                qualify(entry, remote, w)
                running = retire(running, _failed(running), None)
                running = retire(running, hopeless(_of(running, allocator)), "too slow to race: one step")
                say(f"  {entry}")
            running = retire(running, _other_chunks(running, allocator), "not among the fastest chunks: one step")
        running = retire(running, _hungry(running, free), "all at once would not fit into memory: one step")
        say(f"  {len(running)} race, {max(0, end - time.perf_counter()):.0f} s")
        rounds(running, end)
    finally:
        for _, remote in running:
            remote.close()
    for entry, _ in running:
        say(f"  {entry}, {len(entry.seconds)} rounds")
    return entries


def sweep(
    of: Sweep, points: list[int], variants: list[str], host: Host, scale: float
) -> Iterator[tuple[int, list[Entry]]]:
    """Each point's figures, with the tuned allocator. A variant keeps its process from point to point, which ascend:
    one that fails is not asked again."""
    remotes = {variant: Remote(variant, "tuned", host) for variant in variants}
    try:
        for x in points:
            end = time.perf_counter() + of.seconds * scale
            say(f"{of.title}: {x} {of.axis}")
            running: Running = []
            for variant, remote in remotes.items():
                running.append((Entry(variant, "tuned"), remote))
                qualify(*running[-1], of.points[x])
            slow = hopeless(_of(running, "tuned"))
            rounds([(entry, remote) for entry, remote in running if entry not in slow], end)
            for entry, _ in running:
                say(f"  {entry}")
            yield x, [entry for entry, _ in running]
            remotes = {variant: remote for variant, remote in remotes.items() if remote.alive}
    finally:
        for remote in remotes.values():
            remote.close()


def qualify(entry: Entry, remote: Remote, w: Workload) -> None:
    """Build it, and take a first step and one more."""
    entry.why = remote.started.get("why")
    if entry.why is None:
        built = remote.build(w)
        entry.first, entry.why = built.get("first"), built.get("why")
    if entry.why is None:
        sliced = remote.slice(1)
        entry.alone, entry.peak, entry.why = sliced.get("seconds"), sliced.get("peak"), sliced.get("why")


def rounds(running: Running, end: float) -> None:
    """One slice of each after another, until the time is over."""
    running = [pair for pair in running if pair[0].why is None]
    while running:
        done = max(len(entry.seconds) for entry, _ in running)
        if done >= ROUNDS[1] or (done >= ROUNDS[0] and time.perf_counter() > end):
            return
        for entry, remote in running:
            assert entry.alone is not None
            answer = remote.slice(max(1, round(SLICE / entry.alone)))
            if "why" in answer:
                entry.why = answer["why"]
                continue
            entry.seconds.append(answer["seconds"])
            entry.peak = answer["peak"]
            entry.idle += answer["idle"]
        running = [pair for pair in running if pair[0].why is None]


def _of(running: Running, allocator: str) -> list[Entry]:
    return [entry for entry, _ in running if entry.allocator == allocator]


def retire(running: Running, leaving: list[Entry], why: str | None) -> Running:
    """Those that leave have the figure that they have; their memory is free."""
    for entry, remote in running:
        if entry in leaving:
            entry.why = why or entry.why
            remote.close()
    return [(entry, remote) for entry, remote in running if entry not in leaving]


def _failed(running: Running) -> list[Entry]:
    return [entry for entry, _ in running if entry.why is not None]


def hopeless(entries: list[Entry]) -> list[Entry]:
    """Of those under one allocator."""
    peers = [entry for entry in entries if side(entry.variant) in ("torch", "jax")]
    fastest = min((entry.alone for entry in peers if entry.alone), default=0.0)
    return [entry for entry in peers if entry.alone and entry.alone > max(SLOW, HOPELESS * fastest)]


def _other_chunks(running: Running, allocator: str) -> list[Entry]:
    """Of ours, all but the two fastest and those with the least memory, a task at a time."""
    ours = [entry for entry in _of(running, allocator) if side(entry.variant) == "ours"]
    ours.sort(key=lambda entry: entry.alone or 0)
    return [entry for entry in ours[2:] if entry.variant not in ("ours/1", LEAN)]


def _hungry(running: Running, free: int) -> list[Entry]:
    """The largest that are not the fastest of their side, until what all keep fits into four fifths of what is free."""
    fastest: dict[str, Entry] = {}
    for entry, _ in sorted(running, key=lambda pair: pair[0].alone or 0):
        fastest.setdefault(f"{entry.allocator} {side(entry.variant)}", entry)
    by_size = sorted((entry for entry, _ in running), key=lambda entry: entry.peak or 0)
    leaving: list[Entry] = []
    while by_size and sum(entry.peak or 0 for entry in by_size) > 0.8 * free:
        largest = by_size.pop()
        if largest not in fastest.values():
            leaving.append(largest)
    return leaving
