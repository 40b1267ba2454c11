"""Time and memory of work on a device."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(device: torch.device, calls: int, work: Callable[[int], Result]) -> tuple[list[Result], float]:
    """Call work(0), work(1), ... -> what they return, and the seconds of one call."""
    synchronise(device)
    began = time.perf_counter()
    results = [work(call) for call in range(calls)]
    synchronise(device)
    return results, (time.perf_counter() - began) / calls


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def begin_peak(device: torch.device) -> int | None:
    """Count the peak of memory from now on -> the bytes that are in use; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident (man 5 proc)
    except OSError:
        return None
    return _bytes_in("/proc/self/status", "VmRSS")


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that were in use since `begin_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _bytes_in("/proc/self/status", "VmHWM")


def is_out_of_memory(failure: Exception) -> bool:
    """Whether Python, torch's CPU or a GPU had no memory left to give."""
    return isinstance(failure, MemoryError | torch.OutOfMemoryError) or (
        isinstance(failure, RuntimeError) and "can't allocate memory" in str(failure)
    )


def free_memory(device: torch.device) -> int | None:
    """The bytes that this process could hold, with those that it holds; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    resident, available = _bytes_in("/proc/self/status", "VmRSS"), _bytes_in("/proc/meminfo", "MemAvailable")
    if available is None or resident is None:
        return None
    return resident + min([available, *_free_in_cgroups()])


def _free_in_cgroups() -> list[int]:
    """The bytes that a container or a scheduler leaves to its processes, where it has set a bound."""
    free = []
    for limit, used in (  # of versions 2 and 1
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return free


def _bytes_in(path: str, field: str) -> int | None:
    """The bytes that a line "FIELD: 123 kB" of a file tells; None where the system has no such file."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    return None
