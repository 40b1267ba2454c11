"""`metalearn embed`: the pictures of a set as vectors, in a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from metalearn_cli.commands.train import keys_and_values
from metalearn_cli.config.fields import types_in_source
from metalearn_cli.errors import UserError

if TYPE_CHECKING:  # else `--help` would import numpy
    from metalearn_cli.datasets.vector_writer import Vectors

PLACE = 11
HELP = """\
Write the features of a set's pictures into a file, as a network with weights, or a run's own, makes them.

metalearn embed task=... out=FILE [split=all] [model.name=...] [key=value ...]
metalearn embed run=FOLDER out=FILE [split=all] [device=...] [trust=true]

  metalearn embed task=cifar_fs out=cifar.npz                 all classes, with their split: EfficientNet-Lite0, 224 px
  metalearn embed task=cifar_fs split=test model.size=96 out=test.safetensors
  metalearn embed task=image_folder task.root=DIR out=mine.parquet
  metalearn embed run=outputs/base out=base.npz               by the network that a run has trained, of its own set
  metalearn train task=features task.root=cifar.npz           tasks of the vectors in the file

out: .npz, .safetensors or .parquet, with the class of each vector, its group and, for split=all, its split.
split: train, val, test or all. task.*, model.* and threads are as in `train`; docs/pretrained.md has the networks.
The features are kept beside the packed set, and each is computed once: what is interrupted goes on.
"""

SPLITS = ("train", "val", "test", "all")
OWN = {"split": "all", "out": ""}  # the keys of the command, besides those of a training
OF_RUN = "metalearn_cli.trained.run_vectors.EmbedRun"
# Tasks need some size, and embedding them needs none: a set with two classes of one picture will do.
SIZES = ("task.way=2", "task.shot=1", "task.query=1", "task.rotations=none", "task.augment=[]")


def complete(words: list[str]) -> list[str]:
    if words[-1].startswith("split="):
        return [f"split={name} " for name in SPLITS]
    return [*keys_and_values(words[-1]), *(f"{key}=" for key in types_in_source(OF_RUN)), "--help "]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, command_values

    values = OWN | {key: value for key, _, value in (word.partition("=") for word in arguments) if key in OWN}
    keys = [word for word in arguments if word.partition("=")[0] not in OWN]
    named = {word.partition("=")[0] for word in keys}
    of_run = command_values(arguments, "embed run=...", OF_RUN, {}) if "run" in named else None
    others = [] if of_run else [name for name in named if name.partition(".")[0] not in ("task", "model", "threads")]
    if others:
        raise UserError(f"embed has no key {min(others)}: it takes task, model and threads, and {' and '.join(OWN)}")
    if not named & {"task", "run"} or not values["out"]:
        raise UserError("embed needs task= or run=, and out=: metalearn embed task=cifar_fs out=FILE.npz")
    if values["split"] not in SPLITS:
        raise UserError(f"split={values['split']} must be one of {', '.join(SPLITS)}")
    out = Path(values["out"])
    check_file("out", out)

    from metalearn_cli.datasets.vector_file import SUFFIXES
    from metalearn_cli.datasets.vector_writer import write_vectors
    from metalearn_cli.system.console import show
    from metalearn_cli.trained.run_vectors import run_vectors

    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"out={out} must be a file whose name ends in {', '.join(SUFFIXES)}")
    vectors = run_vectors(of_run) if of_run else _vectors(keys, values["split"])
    write_vectors(out, vectors)
    number, features = vectors.x.shape
    show(f"{number:,} vectors of {features:,} numbers, of {len(vectors.names)} classes, are in {out}")
    return 0


def _vectors(keys: list[str], split: str) -> "Vectors":
    """The vectors of a task's set, by a network with weights."""
    from metalearn_cli.config.overrides import compose_run

    named = {word.partition("=")[0] for word in keys}
    sizes = [word for word in SIZES if word.partition("=")[0] not in named]
    model = [] if "model" in named else ["model=pretrained"]
    overrides = ["algo=protonet", "steps=0", "eval_every=0", "select=last", *model, *keys, *sizes]
    composed, choices = compose_run(overrides)

    from metalearn_cli.config.job import train_job
    from metalearn_cli.system.console import tell_each
    from metalearn_cli.system.device import set_process
    from metalearn_cli.tasks.embedded import EmbeddedImages

    job = train_job(composed, choices, overrides)
    task = job.task
    if not isinstance(task, EmbeddedImages):
        raise UserError("embed needs a network that stays as it is: model=pretrained with model.frozen=true")
    splits = task.splits if split == "all" else tuple(name for name in task.splits if name == split)
    if not splits:
        raise UserError(f"split={split}: task={choices['task']} has {', '.join(task.splits)} only")
    set_process(job.run.precision, job.run.threads, job.run.allocator)
    tell_each([*job.notes, *task.notes()])
    return task.vectors(splits)
