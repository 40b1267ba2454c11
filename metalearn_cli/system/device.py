"""The device, the number format of its products, and what is set for the whole process."""

import ctypes
import os
from enum import Enum

import numpy as np
import torch

from metalearn_cli.errors import UserError
from metalearn_cli.system.allocator import Allocator, set_allocator
from metalearn_cli.system.limits import Device, check_limit
from metalearn_cli.system.ranks import Ranks


class Precision(Enum):
    fp32 = "fp32"
    fp64 = "fp64"
    tf32 = "tf32"  # float32 whose products read 10 of the 23 bits behind the point: NVIDIA GPUs
    bf16 = "bf16"  # float32 with the network's products in bfloat16 (7 bits), see nets/bfloat16.py


def resolve_device(text: str) -> torch.device:
    """The device of this name; auto is the GPU where torch sees one. Raises UserError for a device that is not here."""
    check_limit("device", text, Device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, index = text.partition(":")
    if kind == "cuda" and gpus == 0:
        raise UserError(f"device={text}, but torch sees no GPU: use device=cpu")
    if kind == "cuda" and int(index or 0) >= gpus:
        raise UserError(f"device={text}, but torch sees {gpus} GPU(s), cuda:0 to cuda:{gpus - 1}")
    return torch.device(text)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises UserError where this device has no such products."""
    if precision is Precision.tf32 and device.type == "cpu":
        raise UserError("precision=tf32 is for NVIDIA GPUs, and this device is the cpu: take precision=fp32")
    if precision in (Precision.tf32, Precision.bf16) and device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        if capability < (8, 0) and torch.version.hip is None:
            raise UserError(f"precision={precision.name} needs a GPU of 2020 (Ampere) or later, not {name}: take fp32")


DEFAULT_THREADS = torch.get_num_threads()  # before a run of this process has set another number


def own_device(text: str, ranks: Ranks) -> torch.device:
    """The device that the key names; with several ranks on a machine, each has its own GPU."""
    device = resolve_device(text)
    if ranks.size == 1 or device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(f"device={text} is one GPU for {ranks.size} ranks: give device=cuda, and each takes its own")
    if ranks.local_size > (gpus := torch.cuda.device_count()):
        remedy = f"start {gpus}, or give device=cpu"
        raise UserError(f"{ranks.local_size} ranks need as many GPUs, and torch sees {gpus}: {remedy}")
    return torch.device("cuda", ranks.local_rank)


def set_process(
    precision: Precision,
    threads: int | None,
    allocator: Allocator,
    deterministic: bool = True,
    denormals_are_zero: bool = True,
) -> str:
    """Set what holds for the whole process (threads None: all cores) -> allocator and denormals, in words."""
    torch.set_num_threads(threads or DEFAULT_THREADS)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    # As torch.use_deterministic_algorithms, which would import the compiler: a second of each start.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # Else each new tensor is filled first, by a kernel of its own; nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Both said: torch's own start has TF32 in convolutions and not in products.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision is Precision.tf32
    sentence = f"{allocator.name} allocator"
    if not set_allocator(allocator) and allocator is not Allocator.default:
        sentence = "default allocator (this C library has no other)"
    if set_denormals(denormals_are_zero) != denormals_are_zero:
        return f"{sentence}, denormal numbers {'kept' if denormals_are_zero else 'as 0'} (this processor has no choice)"
    return sentence if denormals_are_zero else f"{sentence}, denormal numbers kept"


def set_denormals(are_zero: bool) -> bool:
    """Treat numbers below 1e-38 as 0 from now on, or keep them, with which a processor is a hundred times slower: in
    this thread, in those that it starts, and in those of OpenMP -> whether they are 0 now."""
    _ = np.finfo(np.float32), np.finfo(np.float64)  # kept by numpy, which before 2.0 warns where it finds none later
    torch.set_flush_denormal(are_zero)
    if _shares_of_zeros() not in (0.0, 1.0):  # threads of OpenMP are as they were started: end them
        ctypes.CDLL(None).omp_pause_resource_all(1)
    return _shares_of_zeros() == 1.0


def _shares_of_zeros() -> float:
    """The share of denormal products that come out as 0, over all threads."""
    per_thread = 2**16  # twice what a thread of torch's takes at least
    products = torch.full((per_thread * torch.get_num_threads(),), 1e-30) * 1e-10
    return (products == 0).double().mean().item()
