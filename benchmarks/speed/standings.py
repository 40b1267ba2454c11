"""Who is how much faster: ratios, shares and winners, from the entries of one race."""

import statistics
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.speed.race import Entry
from benchmarks.speed.variants import side
from benchmarks.speed.workloads import SGEMM, WORKLOADS, work


class Ratio(NamedTuple):
    median: float
    low: float  # quartiles of the rounds
    high: float
    rounds: int


@dataclass(frozen=True)
class Standing:
    workload: str
    entries: list[Entry]

    def fastest(self, allocator: str, whose: str) -> Entry | None:
        """Of a side; those that raced come before those that did not."""
        timed = [e for e in self.entries if e.allocator == allocator and side(e.variant) == whose and e.step]
        return min(timed, key=lambda entry: (not entry.seconds, entry.step), default=None)

    def ratio(self, ours: str, theirs: str, whose: str = "torch") -> Ratio | None:
        """How many times faster ours is under one allocator than the best of a side under another."""
        mine, peer = self.fastest(ours, "ours"), self.fastest(theirs, whose)
        return None if mine is None or peer is None else ratio(mine, peer)

    @property
    def sgemm(self) -> float | None:
        """The matrix product's operations per second."""
        machine = self.fastest("tuned", "machine") or self.fastest("default", "machine")
        return SGEMM / machine.step if machine is not None and machine.step else None

    @property
    def sgemm_share(self) -> float | None:
        """What ours reaches of it."""
        ours = self.fastest("tuned", "ours") or self.fastest("default", "ours")
        if ours is None or ours.step is None or self.sgemm is None:
            return None
        return work(next(w for w in WORKLOADS if w.name == self.workload)) / ours.step / self.sgemm


def ratio(mine: Entry, peer: Entry) -> Ratio | None:
    """Round by round where both raced."""
    by_round = [theirs / own for own, theirs in zip(mine.seconds, peer.seconds, strict=False)]
    if len(by_round) > 1:
        low, median, high = statistics.quantiles(by_round, n=4, method="inclusive")
        return Ratio(median, low, high, len(by_round))
    if mine.step is None or peer.step is None:
        return None
    return Ratio(peer.step / mine.step, peer.step / mine.step, peer.step / mine.step, 1)
