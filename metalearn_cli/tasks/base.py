"""What a task is: its specification, a batch of tasks, and the distribution they come from.

Shapes, here and everywhere: T tasks of the meta-batch, S support examples, Q query examples, `way` classes,
`shot` support examples per class.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.datasets.pictures import Preparation

Split = Literal["train", "val", "test"]

# What one draw of T tasks holds: indices or coefficients on the CPU, each tensor [T, ...].
Draw = dict[str, Tensor]


class Spec(NamedTuple):
    """What a task asks of a network."""

    input_shape: tuple[int, ...]  # of one example: (channels, height, width), or (features,)
    outputs: int  # classes of a validation or test task, or values per example
    train_outputs: int  # the same for training tasks; differs where training uses another way than the test
    kind: Literal["classes", "values"]
    padded: bool = False  # tasks have masks: their numbers of examples, and of classes, vary
    complete: bool = True  # of classes: every task's support has each of them

    @property
    def metric(self) -> Literal["accuracy", "mse"]:
        return "accuracy" if self.kind == "classes" else "mse"


@dataclass(frozen=True)
class Scale:
    """Numbers of a user's, minus a mean and over a deviation, are a task's."""

    mean: tuple[float, ...]  # of each feature or target
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """Between which numbers the inputs of the training tasks lie, in the units of their user."""

    low: tuple[float, ...]  # of each feature
    high: tuple[float, ...]


@dataclass(frozen=True)
class ColumnNames:
    """The columns of a table, from which a task's points are made."""

    features: tuple[str, ...]
    targets: tuple[str, ...]
    x_scale: Scale | None = None  # None: the numbers as they are
    y_scale: Scale | None = None
    labels: tuple[str, ...] = ()  # of classes that all tasks share: those numbered 0, 1, ...
    x_range: Range | None = None  # None: it is not known


class Support(NamedTuple):
    """The labelled examples of T tasks: all that an algorithm may look at before it predicts."""

    x: Tensor  # [T, S, *input]
    y: Tensor  # [T, S] int64 for classes, [T, S, outputs] for values
    key: Tensor  # [T] int64: the source of all randomness inside a task, see seeding.uniform
    mask: Tensor | None = None  # [T, S] bool: which examples are real; None: all
    way: Tensor | None = None  # [T] int64: the number of classes of each task; None: as many as there are outputs


class Batch(NamedTuple):
    """T tasks, each with its support and query set. Where they differ in size they are padded to the largest, and the
    masks tell which examples are real; labels of a task are 0 to way - 1."""

    support_x: Tensor  # [T, S, *input]
    support_y: Tensor  # [T, S] int64 for classes, [T, S, outputs] for values
    query_x: Tensor  # [T, Q, *input]
    query_y: Tensor  # [T, Q] or [T, Q, outputs]
    key: Tensor  # [T] int64
    support_mask: Tensor | None = None  # [T, S] bool; None: all are real
    query_mask: Tensor | None = None  # [T, Q] bool
    way: Tensor | None = None  # [T] int64; None: as many classes as the network has outputs

    @property
    def support(self) -> Support:
        return Support(self.support_x, self.support_y, self.key, self.support_mask, self.way)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def chunks(self, tasks: int) -> list[Batch]:
        """Cut into batches of at most `tasks` tasks."""
        parts = {name: torch.split(tensor, tasks) for name, tensor in self.tensors().items()}
        return [Batch(**dict(zip(parts, part, strict=True))) for part in zip(*parts.values(), strict=True)]

    def first(self, tasks: int) -> Batch:
        """The first tasks only."""
        return Batch(**{name: tensor[:tasks] for name, tensor in self.tensors().items()})

    def task(self, number: int) -> Batch:
        """One task without its padding. A GPU is waited for."""
        one = {name: tensor[number : number + 1] for name, tensor in self.tensors().items()}
        for part in ("support", "query"):
            if (mask := one.pop(f"{part}_mask", None)) is not None:
                one |= {name: one[name][:, mask[0]] for name in (f"{part}_x", f"{part}_y")}
        return Batch(**one)

    def to(self, dtype: torch.dtype) -> Batch:
        """The same batch with its real numbers in another precision."""
        return self._replace(
            **{name: tensor.to(dtype) for name, tensor in self.tensors().items() if tensor.is_floating_point()}
        )


class TaskDistribution(ABC):
    """A distribution over tasks. A final class is a frozen dataclass whose fields are the keys of its yaml file."""

    @property
    @abstractmethod
    def spec(self) -> Spec: ...

    @property
    @abstractmethod
    def splits(self) -> tuple[Split, ...]:
        """The splits that exist; a distribution without "val" cannot choose the best checkpoint."""

    def check_split(self, split: Split) -> None:  # noqa: B027 - most can give whatever is asked
        """Raises UserError where `split` cannot give such tasks. Only a run that validates asks for "val"; what every
        run needs is checked when the distribution is made."""

    def identities(self, split: Split) -> frozenset[str]:
        """The names of the classes of `split`, where the fields choose them or another task has the same, or of its
        tasks, where those are counted: a model that was trained on one of them must not be tested on it. None where
        there is no such danger."""
        return frozenset()

    def class_names(self, split: Split) -> list[str]:
        """The identities of a split as a reader knows them, sorted, once the data are read."""
        return sorted(self.identities(split))

    def task_count(self, split: Split) -> int | None:
        """How many tasks there are, where they are counted: each is then tested once. None: as many as are drawn."""
        return None

    def notes(self) -> list[str]:
        """What whoever starts a run should know about the data. Reads them on first use."""
        return []

    @abstractmethod
    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        """Choose T = `tasks` tasks: a pure function of its arguments, on the CPU. Holds `key` [T] int64."""

    def draw_numbers(self, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw:
        """The tasks with these numbers [T], of 0 to task_count(split) - 1."""
        raise NotImplementedError  # of a distribution that counts its tasks

    @abstractmethod
    def gather(self, draw: Draw, device: torch.device) -> Batch:
        """The tasks of a draw (or of a slice of one) as float32 tensors on `device`."""

    def may_wait_for_disk(self, device: torch.device) -> bool:
        """Whether gathering on `device` may wait for a disk, so that it is worth a thread of its own, in which `draw`
        and `gather` are called then."""
        return False

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        """The classes of the draw's first task by name, in the order of their labels; none where they have no names."""
        return ()

    @property
    def preparation(self) -> Preparation | None:
        """How a picture becomes an example. None for a task without images, or that does not tell."""
        return None

    @property
    def columns(self) -> ColumnNames | None:
        """From which columns the examples are made. None where no column has a name."""
        return None

    def oracle(self, draw: Draw, device: torch.device) -> Tensor | None:
        """What is predicted for the query set by whoever knows the tasks, [T, Q, outputs]: the values without noise.
        None where nobody does."""
        return None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What tells the data apart: the hash of the pixels, or the formula's name. Reads the data on first use."""


def draw_slice(draw: Draw, start: int, stop: int) -> Draw:
    """Tasks `start` to `stop` of a draw."""
    return {name: tensor[start:stop] for name, tensor in draw.items()}


def on_device(draw: Draw, device: torch.device) -> Draw:
    """The tensors of a draw on `device`. To a GPU from pinned memory, while the host goes on: before it copied from any
    other memory, it would wait for all that the GPU has still to do."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in draw.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in draw.items()}


def draw_keys(tasks: int, rng: torch.Generator) -> Tensor:
    """One key per task, [T] int64."""
    return torch.randint(2**63 - 1, (tasks,), generator=rng)


def draw_sha256(draws: list[Draw], fingerprint: str) -> str:
    """The hash of the tasks in these draws over the data with this fingerprint: equal for the same episodes only."""
    digest = hashlib.sha256(fingerprint.encode())
    for draw in draws:
        for name in sorted(draw):
            digest.update(name.encode())
            digest.update(draw[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def episode_hashes(draws: list[Draw], fingerprint: str) -> Tensor:
    """A hash of each task, [T] int64 (the first 8 bytes): it tells whether some tasks are the first ones of others."""
    start = hashlib.sha256(fingerprint.encode())
    hashes = []
    for draw in draws:
        rows = {name: draw[name].contiguous().numpy() for name in sorted(draw)}
        for task in range(len(next(iter(rows.values())))):
            digest = start.copy()
            for name, row in rows.items():
                digest.update(name.encode())
                digest.update(row[task].tobytes())
            hashes.append(int.from_bytes(digest.digest()[:8], "little", signed=True))
    return torch.tensor(hashes)
