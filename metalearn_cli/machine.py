"""What a job runs on: its device, its learner, and what is set for the whole process."""

import ctypes
import os

import numpy as np
import torch

from metalearn_cli.allocator import Allocator, set_allocator
from metalearn_cli.config import Job, Precision, check_precision, resolve_device
from metalearn_cli.errors import UserError
from metalearn_cli.learner import Learner
from metalearn_cli.nets.reduced import Reduced
from metalearn_cli.parallel import ALONE, Ranks
from metalearn_cli.seeding import generator

DEFAULT_THREADS = torch.get_num_threads()  # before a run of this process has set another number


def own_device(text: str, ranks: Ranks) -> torch.device:
    """The device that the key names; of several ranks on the GPUs of a machine, each has its own. Raises UserError for
    one that is not here."""
    device = resolve_device(text)
    if ranks.size == 1 or device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(f"device={text} is one GPU for {ranks.size} ranks: give device=cuda, and each takes its own")
    if ranks.local_size > torch.cuda.device_count():
        raise UserError(
            f"{ranks.local_size} ranks on a machine of {torch.cuda.device_count()} GPU(s): start as many as there are, "
            "or give device=cpu"
        )
    return torch.device("cuda", ranks.local_rank)


def require_shares(job: Job, ranks: Ranks) -> None:
    """Raises UserError where a training cannot be split over these ranks."""
    settings = job.run
    if settings.tasks_per_step % ranks.size:
        fitting = ranks.size * max(1, round(settings.tasks_per_step / ranks.size))
        raise UserError(
            f"tasks_per_step={settings.tasks_per_step} cannot be split evenly over {ranks.size} ranks: give a multiple,"
            f" e.g. {fitting}, or start another number of ranks"
        )
    for key in ("compile", "cuda_graph"):
        if ranks.size > 1 and getattr(settings, key):
            raise UserError(f"{key}=true is for one process, and these are {ranks.size} ranks: give {key}=false")


def new_learner(job: Job, ranks: Ranks = ALONE) -> Learner:
    """The learner of step 0. Raises UserError where the device is missing or the parts do not fit together."""
    settings = job.run
    device = own_device(settings.device, ranks)
    check_precision(settings.precision, device)
    rng = generator(settings.seed, "init")
    net = Reduced(job.net.spec, job.net) if settings.precision is Precision.bf16 else job.net
    chunk = settings.tasks_per_chunk if isinstance(settings.tasks_per_chunk, int) else None
    return Learner(
        *(job.algo, net, job.optimizer, rng, device, settings.dtype, chunk),
        compile=settings.compile,
        cuda_graph=settings.cuda_graph,
        ranks=ranks,
    )


def set_process(
    precision: Precision,
    threads: int | None,
    allocator: Allocator,
    deterministic: bool = True,
    denormals_are_zero: bool = True,
) -> str:
    """Set what holds for the whole process (threads None: as many as there are cores) -> the allocator, and denormal
    numbers where they are kept, in words."""
    torch.set_num_threads(threads or DEFAULT_THREADS)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    torch.use_deterministic_algorithms(deterministic)
    # Else each new tensor is filled first, by a kernel of its own; nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Both said: torch's own start has TF32 in convolutions and not in products.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision is Precision.tf32
    said = f"{allocator.name} allocator"
    if not set_allocator(allocator) and allocator is not Allocator.default:
        said = "default allocator (this C library has no other)"
    if set_denormals(denormals_are_zero) != denormals_are_zero:
        return f"{said}, denormal numbers {'kept' if denormals_are_zero else 'as 0'} (this processor has no choice)"
    return said if denormals_are_zero else f"{said}, denormal numbers kept"


def set_denormals(are_zero: bool) -> bool:
    """Whether numbers below 1e-38 are 0 from now on, with which a processor computes a hundred times as fast: in this
    thread, in those that it starts, and in those of OpenMP -> whether they are."""
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
