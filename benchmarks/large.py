"""Training from a packed set that is larger than the memory that a process may take, beside the same set in memory.

    python benchmarks/large.py --folder /tmp/large       # about 15 minutes; 2 GB of disk there; large.md has the output

Random pixels are packed, and trained on
1. by `metalearn train` under a limit of 1 GB on the memory that is the process's own (RLIMIT_DATA): where they lie, and
   copied into memory first, which the limit forbids;
2. in this process, with each batch gathered before its step or ahead of it, from memory, from a file that is in the
   system's cache, and from one that was just dropped from it: seconds a step, interleaved.
"""

import argparse
import ctypes
import datetime
import itertools
import mmap
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.datasets.image_set import ImageSet, Unpacked
from metalearn_cli.datasets.packed_set import find, packed
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.device import Precision, set_process
from metalearn_cli.system.prefetch import ahead
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes
from metalearn_cli.tasks.gather import gather_episodes

HERE = Path(__file__).resolve().parent
STEM = "random-pixels"
LIMIT = 10**9  # bytes
CLASSES, SHAPE = 160, (3, 84, 84)
IMAGES = 600  # of each class: 2.03 GB in all
CHUNK = 60  # images that are made at once


@dataclass(frozen=True)
class RandomPixels(TaskDistribution):
    """Classes of noise: what is learned is nothing, and what it costs is what it would cost with photographs."""

    episodes: Episodes = Episodes()
    in_memory: bool = False  # copied there first

    @property
    def spec(self) -> Spec:
        return self.episodes.spec(SHAPE)

    @property
    def splits(self) -> tuple[Split, ...]:
        return "train", "test"

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return not self.in_memory

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        half = torch.arange(CLASSES // 2) + (CLASSES // 2) * (split == "test")
        return self.episodes.draw(tasks, split, Classes(self._images.start, self._images.count).of(half), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._pixels, device)

    @cached_property
    def _images(self) -> ImageSet:
        return packed(STEM, noise)

    @cached_property
    def _pixels(self) -> Tensor:
        return self._images.pixels.clone() if self.in_memory else self._images.pixels


def noise() -> Unpacked:
    rng = torch.Generator().manual_seed(0)
    blocks = (
        torch.randint(256, (CHUNK, *SHAPE), generator=rng, dtype=torch.uint8) for _ in range(CLASSES * IMAGES // CHUNK)
    )
    return Unpacked(tuple(map(str, range(CLASSES))), [IMAGES] * CLASSES, SHAPE, blocks)


def drop(maps: list[Tensor]) -> None:
    """Let neither this process's maps nor the system's cache hold anything of the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    for pixels in maps:
        begin = pixels.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        length = pixels.data_ptr() + pixels.nbytes - begin
        if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise")
    with find(STEM)[0].open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through() -> None:
    with find(STEM)[0].open("rb", buffering=0) as file:
        while file.read(8 << 20):
            pass


# Under the limit

KEYS = ["task._target_=large.RandomPixels", "algo=protonet", "steps=40", "test_episodes=16", "eval_every=0"]
KEYS += ["select=last", "other_batch_norm=[]", "log_every=1", "threads=1", "tasks_per_step=1", "tasks_per_chunk=1"]


def train(folder: Path, name: str, limit: int | None, *keys: str) -> tuple[int, dict[str, int], str]:
    """One `metalearn train` -> its exit code, the most bytes that it had of each kind of memory, and its last line."""
    command = [sys.executable, "-m", "metalearn_cli", "train", *KEYS, *keys, f"name={name}"]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    limits = resource.getrlimit(resource.RLIMIT_DATA) if limit is None else (limit, limit)
    bound = partial(resource.setrlimit, resource.RLIMIT_DATA, limits)
    most = {"VmData": 0, "RssAnon": 0, "RssFile": 0}
    with open(folder / f"{name}.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=bound, stderr=log, stdout=log)
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if (field := line.partition(":")[0]) in most:
                    most[field] = max(most[field], 1024 * int(line.split()[1]))
            time.sleep(0.02)
    return process.returncode, most, (folder / f"{name}.log").read_text().splitlines()[-1]


# Beside the same set in memory

STEPS = 8  # of a round
CASES = ((16, 1), (16, 2))  # filters of Conv4, and threads
WAYS = {"before its step": map, "ahead of it": ahead}


def measure(rounds: int, threads: int, filters: int) -> dict[tuple[str, str], list[float]]:
    """Seconds a step of each round, by where the pixels are and by when a batch is gathered; and of a gather alone."""
    set_process(Precision.fp32, threads, Allocator.tuned)
    keys = [*KEYS, f"model.filters={filters}"]
    in_file, in_memory = load_job(keys), load_job([*keys, "+task.in_memory=true"])
    one_round(in_memory, map)  # copies the pixels, and warms up
    maps = [job.task._images.pixels for job in (in_file, in_memory)]  # type: ignore[attr-defined]
    places: dict[str, tuple[Job, Callable[[], object]]] = {
        "memory": (in_memory, lambda: None),
        "file, in the system's cache": (in_file, read_through),
        "file, dropped from the cache": (in_file, lambda: drop(maps)),
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        losses = set()
        for place, (job, before) in places.items():
            before()
            seconds.setdefault((place, "alone"), []).extend(gathers(job))
            for way, gathered in WAYS.items():
                before()
                taken, loss = one_round(job, gathered)
                seconds.setdefault((place, way), []).append(taken)
                losses.add(loss)
        assert len(losses) == 1, losses  # the same episodes, to the last bit
    return seconds


def gathers(job: Job) -> list[float]:
    """Seconds of drawing and gathering the first batches, without a step beside it."""
    times = [time.perf_counter()]
    for step in range(STEPS):
        job.task.gather(job.training_draw(step), torch.device("cpu"))
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


def one_round(job: Job, gathered: Callable[..., Iterator[Batch]]) -> tuple[float, float]:
    """The first steps of a training -> the seconds of one, the last loss."""
    learner = new_learner(job)
    began = time.perf_counter()
    batches = gathered(lambda step: job.task.gather(job.training_draw(step), learner.device), range(STEPS))
    for step, batch in enumerate(batches):
        loss = learner.step(batch, step)
    return (time.perf_counter() - began) / STEPS, loss.mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the packed set and the runs; 2 GB")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    os.environ["METALEARN_CACHE"] = str(chosen.folder / "cache")
    images = packed(STEM, noise)
    cpu = next((line for line in open("/proc/cpuinfo") if line.startswith("model name")), "model name: unknown")
    print(f"{images.pixels.nbytes / 1e9:.3g} GB, {cpu.partition(':')[2].strip()}, {os.cpu_count()} CPU cores,")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {datetime.date.today()}\n")

    runs = Path(tempfile.mkdtemp(dir=chosen.folder))
    print(
        "| `metalearn train` | limit | exit code | VmData, MB | RssAnon, MB | RssFile, MB |\n|---|---|---|---|---|---|"
    )
    for name, limit, keys in (
        ("file", LIMIT, []),
        ("memory", LIMIT, ["+task.in_memory=true"]),
        ("memory-unlimited", None, ["+task.in_memory=true"]),
    ):
        code, most, last = train(runs, name, limit, "model.filters=16", *keys)
        kinds = " | ".join(f"{bytes / 1e6:.0f}" for bytes in most.values())
        print(f"| {name} | {'1 GB' if limit else 'none'} | {code} | {kinds} |", flush=True)
        print(last, file=sys.stderr)
    metrics = [(runs / "outputs" / name / "metrics.jsonl").read_bytes() for name in ("file", "memory-unlimited")]
    print(f"\nThe two metrics.jsonl are {'the same' if metrics[0] == metrics[1] else 'NOT the same'}.\n")

    print("| filters | threads | pixels in | gather alone, ms | step, gathered before it, s | ahead of it, s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for filters, threads in CASES:
        seconds = measure(chosen.rounds, threads, filters)
        for place in dict.fromkeys(place for place, _ in seconds):
            alone = statistics.quantiles(seconds[place, "alone"])
            before, after = (seconds[place, way] for way in WAYS)
            ratios = sorted(b / a for a, b in zip(before, after, strict=True))
            figures = f"{1e3 * alone[1]:.1f} ({1e3 * alone[0]:.1f} to {1e3 * alone[2]:.1f}) | "
            figures += f"{statistics.median(before):.3g} | {statistics.median(after):.3g} | "
            figures += f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"| {filters} | {threads} | {place} | {figures} |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))  # so that this file is the module `large` of the configuration
    main()
