"""What a task is: its specification, a batch of tasks, and the distribution they come from.

Shapes, here and everywhere: T tasks of the meta-batch, S support examples, Q query examples, `way` classes,
`shot` support examples per class.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.tasks.likelihood import Likelihood
from metalearn_cli.tasks.metrics import Headline

Split = Literal["train", "val", "test"]

# The tasks of one draw: indices or coefficients on the CPU, each tensor [T, ...].
Draw = dict[str, Tensor]


class Spec(NamedTuple):
    """What a task needs of a network."""

    input_shape: tuple[int, ...]  # of one example: (channels, height, width), or (features,)
    outputs: int  # of the network: the classes of a validation or test task, or what its values need
    train_outputs: int  # the same for training tasks; differs if training has another way than the test
    likelihood: Likelihood  # how outputs are a prediction
    padded: bool = False  # tasks have masks: their numbers of examples, and of classes, vary
    complete: bool = True  # for classes: every class occurs in every support set
    base: int | None = None  # the number of all training classes, if images can be drawn of them all at once
    unlabelled: bool = False  # all tasks have unlabelled examples
    one_way: bool = False  # of padded ones: all tasks have all classes, and only their numbers of examples vary

    @property
    def kind(self) -> Literal["classes", "values"]:
        return self.likelihood.kind

    @property
    def metric(self) -> Headline:
        return self.likelihood.metric

    @property
    def targets(self) -> int:
        """The numbers in the target of an example: 1 for a class."""
        return 1 if self.kind == "classes" else self.outputs // self.likelihood.width


class Support(NamedTuple):
    """The labelled examples of T tasks: all that an algorithm may read before it predicts."""

    x: Tensor  # [T, S, *input]
    y: Tensor  # [T, S] int64 for classes, [T, S, targets] for values
    key: Tensor  # [T] int64: the source of all randomness inside a task, see seeding.uniform
    mask: Tensor | None = None  # [T, S] bool: True for real examples; None: all are real
    way: Tensor | None = None  # [T] int64: the classes of each task; None: as many as the network has outputs
    progress: Tensor | None = None  # [T] in 0..1: the share of the training that is done; None: this is no training
    unlabelled: Tensor | None = None  # [T, U, *input]: without labels, of the task's classes and perhaps of others

    def first(self, number: int) -> Support:
        """Return the first `number` examples of each task, of all where they are fewer."""
        mask = None if self.mask is None else self.mask[:, :number]
        return self._replace(x=self.x[:, :number], y=self.y[:, :number], mask=mask)


class Batch(NamedTuple):
    """T tasks, each with its support and query set, padded to the largest; masks tell which examples are real. Labels
    of a task are 0 to way - 1."""

    support_x: Tensor  # [T, S, *input]
    support_y: Tensor  # [T, S] int64 for classes, [T, S, targets] for values
    query_x: Tensor  # [T, Q, *input]
    query_y: Tensor  # [T, Q] or [T, Q, targets]
    key: Tensor  # [T] int64
    support_mask: Tensor | None = None  # [T, S] bool; None: all are real
    query_mask: Tensor | None = None  # [T, Q] bool
    way: Tensor | None = None  # [T] int64; None: as many classes as the network has outputs
    progress: Tensor | None = None  # [T], see Support
    unlabelled_x: Tensor | None = None  # [T, U, *input]

    @property
    def support(self) -> Support:
        return Support(
            *(self.support_x, self.support_y, self.key),
            *(self.support_mask, self.way, self.progress, self.unlabelled_x),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def chunks(self, tasks: int) -> list[Batch]:
        """Cut the batch into batches of at most `tasks` tasks."""
        parts = {name: torch.split(tensor, tasks) for name, tensor in self.tensors().items()}
        return [Batch(**dict(zip(parts, part, strict=True))) for part in zip(*parts.values(), strict=True)]

    def task(self, number: int) -> Batch:
        """Return one task without its padding. Waits for a GPU."""
        tensors = {name: tensor[number : number + 1] for name, tensor in self.tensors().items()}
        for part in ("support", "query"):
            if (mask := tensors.pop(f"{part}_mask", None)) is not None:
                tensors |= {name: tensors[name][:, mask[0]] for name in (f"{part}_x", f"{part}_y")}
        return Batch(**tensors)

    def to(self, dtype: torch.dtype) -> Batch:
        """Return the same batch with its floating-point numbers in another precision."""
        floats = {name: tensor for name, tensor in self.tensors().items() if tensor.is_floating_point()}
        return self._replace(**{name: tensor.to(dtype) for name, tensor in floats.items()})


class TaskDistribution(ABC):
    """A distribution over tasks. A final class is a frozen dataclass whose fields are the keys of its yaml file.

    This is what every class has; what one may have besides, and how it is asked for, stands in tasks/capabilities.py.
    """

    @property
    @abstractmethod
    def spec(self) -> Spec: ...

    @property
    @abstractmethod
    def splits(self) -> tuple[Split, ...]:
        """The splits that exist; a distribution without "val" cannot choose the best checkpoint."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """The identity of the data: the hash of the pixels, or the formula's name. Reads the data on first use."""

    @abstractmethod
    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        """Draw T = `tasks` tasks, a pure function of its arguments, on the CPU. Holds `key` [T] int64."""

    @abstractmethod
    def gather(self, draw: Draw, device: torch.device) -> Batch:
        """Return the tasks of a draw (or of a slice of one) as float32 tensors on `device`."""


def draw_slice(draw: Draw, start: int, stop: int) -> Draw:
    """Return tasks `start` to `stop` of a draw."""
    return {name: tensor[start:stop] for name, tensor in draw.items()}


def on_device(draw: Draw, device: torch.device) -> Draw:
    """Copy the tensors of a draw to `device`. Only from pinned memory can the host go on meanwhile: from other memory
    it would wait until the GPU has finished all its work."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in draw.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in draw.items()}


def draw_keys(tasks: int, rng: torch.Generator) -> Tensor:
    """Draw a key for each task, [T] int64."""
    return torch.randint(2**63 - 1, (tasks,), generator=rng)


def draw_sha256(draws: list[Draw], fingerprint: str) -> str:
    """Hash the tasks in these draws and the fingerprint of their data: equal only for equal episodes."""
    digest = hashlib.sha256(fingerprint.encode())
    for draw in draws:
        for name in sorted(draw):
            digest.update(name.encode())
            digest.update(draw[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def episode_hashes(draws: list[Draw], fingerprint: str) -> Tensor:
    """Hash each task, [T] int64 (the first 8 bytes): it tells whether a run's tasks are the first ones of another's."""
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
