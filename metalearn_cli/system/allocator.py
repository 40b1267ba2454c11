"""How the C library treats the memory of tensors that are no longer needed. By default glibc gives every large block
back to the system as soon as it is free, and the next tensor of that size costs a page fault for each 4 kB: a third of
a step's time with images, or more. Tuned, it keeps freed memory, and the process stays as large as at its peak."""

import ctypes
import sys
from enum import Enum
from typing import Any

# mallopt's parameters (malloc.h), and glibc's own values for them.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_TUNED = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}  # -1: never
_DEFAULT = {_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 128 * 1024}


class Allocator(Enum):
    tuned = "tuned"  # keep freed memory
    default = "default"  # as the C library has it


def set_allocator(allocator: Allocator) -> bool:
    """Set the allocator of this whole process -> whether it could be set: only glibc has the call."""
    mallopt = _c_function("mallopt")
    values = _TUNED if allocator is Allocator.tuned else _DEFAULT
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in values.items())


def trim_heap() -> None:
    """Return the memory that is kept to the system, where the C library can, after work that took much of it."""
    if trim := _c_function("malloc_trim"):
        trim(0)


def _c_function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
