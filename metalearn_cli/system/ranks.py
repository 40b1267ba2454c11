"""Several processes that train one learner, as torchrun starts them: each takes its share of the tasks of a meta-batch.
They have equal parameters, and each makes the update of the mean over all of them; the first one writes.

What ends one rank ends all. It writes its reason into the store, a small server that torchrun keeps, and closes its
connections, which the others notice wherever they wait for it. Shapes: T tasks of the meta-batch, N ranks.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metalearn_cli.errors import RunFailed, SaidByAnother, UserError
from metalearn_cli.system.processes import is_one_of_several
from metalearn_cli.system.signals import Interrupted

Item = TypeVar("Item")
Named = dict[str, Tensor]

# How long a rank is waited for that is connected and does not answer, as the others do not while the first one alone
# times, writes or sends something. A rank that has died is noticed at once, by its connection.
_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """The number of this process among all that train together, which call the same methods in the same order."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine
    local_size: int = 1
    store: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, tasks: int) -> tuple[int, int]:
        """The half-open range of `tasks` tasks that this rank computes."""
        return tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size

    def mean(self, loss: Tensor, gradient: Named, buffers: Named) -> tuple[Tensor, Named, Named]:
        """Exchange the loss [T / N] of this rank's tasks, and means over them -> the loss [T] of all, and the means
        over all, in one collective call, which gives all ranks the same bits."""
        if self.size == 1:
            return loss, gradient, buffers
        losses = loss.new_zeros(self.size, len(loss))
        losses[self.rank] = loss
        tensors = [value / self.size for value in (*gradient.values(), *buffers.values())]
        flat = torch.cat([losses.flatten(), *(tensor.flatten() for tensor in tensors)])
        with self._collective():
            dist.all_reduce(flat)
        summed, *rest = torch.split(flat, [losses.numel(), *(tensor.numel() for tensor in tensors)])
        values = [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(rest, tensors, strict=True)]
        means = dict(zip(gradient, values[: len(gradient)], strict=True))
        return summed.to(loss.dtype), means, dict(zip(buffers, values[len(gradient) :], strict=True))

    def agree(self, number: int | None) -> int | None:
        """The highest of the ranks' numbers, which are above 0; None where no rank has a number."""
        if self.size == 1:
            return number
        highest = torch.tensor(number or 0)  # on the CPU: a GPU is not waited for
        with self._collective():
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest) or None

    def gather(self, item: Item) -> list[Item]:
        """The items of all ranks, in their order."""
        items = [item] * self.size
        if self.size > 1:
            with self._collective():
                dist.all_gather_object(items, item)
        return items

    def from_first(self, work: Callable[[], Item]) -> Item:
        """Do `work` in the first rank alone -> what it returns, in every rank."""
        items: list[Any] = [work() if self.is_first else None]
        if self.size > 1:
            with self._collective():
                dist.broadcast_object_list(items)
        result: Item = items[0]
        return result

    @contextlib.contextmanager
    def _collective(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's own, of a connection that broke
            _disconnect()
            raise self._reason(error) from error

    def _reason(self, error: RuntimeError) -> BaseException:
        """The exception that says why another rank ended."""
        try:
            if self.store.check(["failed"]):
                failed = json.loads(self.store.get("failed"))
                return Interrupted(failed["signal"]) if failed["signal"] else _FromAnother(failed["sentence"])
            self.store.set(f"lives/{self.rank}", "")
            with contextlib.suppress(RuntimeError):
                self.store.wait([f"lives/{rank}" for rank in range(self.size)], timedelta(seconds=3))
            lost = [rank for rank in range(self.size) if not self.store.check([f"lives/{rank}"])]
        except RuntimeError:  # the store is gone with the first rank, or with torchrun
            lost = [0]
        sentence = f"the {self.size} ranks lost one another ({' '.join(str(error).split())[:200]})"
        if lost:
            sentence = f"rank {lost[0]} of {self.size} is gone: its process was killed, or its machine is lost"
        return _FromAnother(sentence)

    def _end(self, failure: BaseException) -> bool:
        """Tell the other ranks why this one ends -> whether this one tells the user."""
        sentence = str(failure) or type(failure).__name__
        if not isinstance(failure, _FromAnother):
            kind = "" if isinstance(failure, UserError | RunFailed) else f"{type(failure).__name__}: "
            sentence = f"rank {self.rank} of {self.size}: {kind}{sentence}"
        signal = failure.code - 128 if isinstance(failure, Interrupted) else 0
        try:
            self.store.compare_set("failed", "", json.dumps({"signal": signal, "sentence": sentence}))
            _disconnect()
            if self.is_first:
                self.store.set("said", "")
            else:
                self.store.wait(["said"], timedelta(seconds=5))
        except RuntimeError:  # the first rank is gone
            _disconnect()
            return True
        return self.is_first


class _FromAnother(UserError):
    """The sentence of another rank."""


ALONE = Ranks()


@contextlib.contextmanager
def join() -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started, and leave with them; without torchrun there are no others."""
    if not is_one_of_several() or "RANK" not in os.environ:
        yield ALONE
        return
    store, rank, size = next(dist.rendezvous("env://", timeout=_TIMEOUT))  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    ranks = Ranks(rank, size, *local, dist.PrefixStore("metalearn", store))  # type: ignore[attr-defined]
    try:
        yield ranks
    except (Exception, Interrupted) as failure:
        is_silent = not ranks._end(failure)
        if is_silent and isinstance(failure, UserError | Interrupted):
            raise SaidByAnother(failure.code if isinstance(failure, Interrupted) else 1) from failure
        raise
    finally:
        _disconnect()


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def busy() -> float:
    """The processors that other processes keep busy: the last minute's load, or what runs now where that is less."""
    try:
        load = os.getloadavg()[0]
        runs_now = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
    except OSError:  # of another system; its load alone may be that of a process which has just ended
        return 0.0
    return min(load, int(runs_now) - 1.0)


_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, "200000 100000": microseconds in a period


def cores() -> int:
    """The processor cores that this process may use, by affinity and quota; two threads of a core count once."""
    logical = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        number_of_cores = len({Path(siblings.format(number)).read_text() for number in logical})
    except OSError:
        number_of_cores = len(logical)
    if _QUOTA.exists() and (words := _QUOTA.read_text().split())[0] != "max":
        number_of_cores = min(number_of_cores, max(1, int(words[0]) // int(words[1])))
    return number_of_cores
