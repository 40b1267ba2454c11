"""The only two sources of randomness: `generator` for draws on the CPU, `uniform` for what happens inside a task. Both
are pure functions of their key, and so there is no random state to save: a run that was killed resumes with the same
bits, and a slice of a meta-batch gets the same numbers as the whole."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """Make a CPU generator for this key, e.g. `generator(seed, "train", step)`."""
    # torch's CPU generator (mt19937) uses only the low 32 bits of a seed.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def uniform(key: Tensor, *salt: int, shape: tuple[int, ...]) -> Tensor:
    """Draw uniform numbers in [0, 1) from each task's own key: key [T] int64 -> [T, *shape] float32. Number i of task t
    is hash(key[t], salt, i), in integer arithmetic: the same bits on every device and for every slice of the
    meta-batch. `salt` distinguishes the uses within one task (an inner step, a layer)."""
    numbers: Tensor = _uniform(key, salt, math.prod(shape))
    return numbers.view(len(key), *shape)


def normals(key: Tensor, *salt: int, count: int) -> Tensor:
    """Draw standard normal numbers from each task's own key by Box and Muller's transform, [T, count] float32."""
    numbers: Tensor = _normals(key, salt, count)
    return numbers


# Each is an operation of its own for torch, so that compiled code calls this very function: TorchInductor (2.13) folds
# constant integers without wrapping around, which gives other numbers without an error.
@torch.library.custom_op("metalearn::uniform", mutates_args=())
def _uniform(key: Tensor, salt: Sequence[int], count: int) -> Tensor:
    state = _mix(key)
    for value in salt:
        state = _mix(state ^ _mix(torch.full_like(key, value)))
    bits = _mix(state[:, None] + torch.arange(count, device=key.device) * _GOLDEN)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


@torch.library.custom_op("metalearn::normals", mutates_args=())
def _normals(key: Tensor, salt: Sequence[int], count: int) -> Tensor:
    radius, angle = uniform(key, *salt, shape=(2, count)).unbind(1)
    return torch.sqrt(-2 * torch.log(1 - radius)) * torch.cos(2 * math.pi * angle)


@_uniform.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], key: Tensor, salt: Sequence[int], count: int) -> tuple[Tensor, int]:
    keys = key.movedim(in_dims[0] or 0, 0)
    return _uniform(keys.flatten(), salt, count).view(*keys.shape, count), 0


@_uniform.register_fake
@_normals.register_fake
def _(key: Tensor, salt: Sequence[int], count: int) -> Tensor:
    return key.new_empty(len(key), count, dtype=torch.float32)


# The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
# int64 products wrap around on every device, which is what the hash needs.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift to the right without the sign, which torch's `>>` on int64 keeps."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
