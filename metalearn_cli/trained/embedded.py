"""A support set and queries as features, where no run is given: by a network that comes with weights, or vectors that
somebody has computed.

Shapes: n examples, F features.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.backbones.base import Backbone
from metalearn_cli.backbones.encoder import Encoder, Runtime, encoder_of
from metalearn_cli.backbones.named import DEFAULT, open_backbone
from metalearn_cli.datasets.formats import Broken
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.pictures import Preparation, Resize
from metalearn_cli.datasets.vector_file import read_vectors
from metalearn_cli.errors import UserError
from metalearn_cli.nets.pretrained import Deviation, Mean
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.limits import InputSide, Text
from metalearn_cli.trained import file_inputs
from metalearn_cli.trained.python_inputs import classes_of, refuse_broken

_AT_ONCE = 32  # pictures in memory


class Embedded(NamedTuple):
    names: list[str]
    x: Tensor  # [n, F] float32, of length 1
    what: str  # "pictures", or "vectors"


@dataclass(frozen=True)
class Network:
    """The keys model.* of the command: those of model=pretrained."""

    name: Text = DEFAULT
    architecture: Text | None = None
    size: InputSide | None = None
    mean: Mean | None = None
    std: Deviation | None = None
    runtime: Runtime = Runtime.torch


def of_vectors(support: str, query: str) -> tuple[list[str], Embedded, Embedded, list[str]]:
    known, asked = read_vectors(expand(support), "support"), read_vectors(expand(query), "query", labelled=False)
    if (numbers := asked.x.shape[1]) != known.x.shape[1]:
        raise UserError(f"{asked.path} has vectors of {numbers} numbers, and {known.path} of {known.x.shape[1]}")
    labels = [known.labels.words[number] for number in known.labels.number.tolist()]
    examples = []
    for file in (known, asked):
        x = file.vectors()
        if not x.isfinite().all():
            raise UserError(f"{file.path} holds numbers that are not finite: give every vector all of its numbers")
        examples.append(Embedded([f"row {row}" for row in range(1, len(x) + 1)], F.normalize(x, dim=-1), "vectors"))
    note = "no run= is given, so nothing is trained: ridge regression on vectors of length 1 tells the classes"
    return labels, examples[0], examples[1], [note]


def of_pictures(support: str, query: str, network: Network) -> tuple[list[str], Embedded, Embedded, list[str]]:
    files = file_inputs.labelled_images(support)
    classes_of(files.labels)  # one class is refused before the network begins
    paths, notes = file_inputs.images(query)
    keys = dataclasses.asdict(network)
    runtime, backbone = keys.pop("runtime"), open_backbone(**keys)
    about = (
        f"no run= is given, so nothing is trained: {backbone.about} (licence: {backbone.licence}) makes "
        f"{backbone.features:,} numbers of the middle square of each picture at {backbone.size} x {backbone.size} "
        "pixels, and ridge regression tells the classes by them"
    )
    known, asked = _embedded([*files.paths, *paths], len(files.paths), backbone, encoder_of(backbone, runtime))
    return files.labels, known, asked, [*files.notes, *notes, about]


def _embedded(paths: list[Path], support: int, backbone: Backbone, encode: Encoder) -> tuple[Embedded, Embedded]:
    """Read pictures, of which so many are the support, and make features of them. Raises UserError for broken ones."""
    preparation = Preparation(backbone.size, 3, Resize.crop, backbone.resample)
    features, broken = [], list[str]()
    with Progress(Console(), "computing features", len(paths), passing=True) as progress:
        for start in range(0, len(paths), _AT_ONCE):
            pixels = []
            for path in paths[start : start + _AT_ONCE]:
                try:
                    pixels.append(preparation.read(path))
                except Broken as error:
                    broken.append(f"{path} {error}")
            if not broken:
                features.append(encode(torch.stack(pixels)))
            progress.advance(min(start + _AT_ONCE, len(paths)), "pictures")
    refuse_broken(broken, len(paths))
    x, names = F.normalize(torch.cat(features), dim=-1), list(map(str, paths))
    return (
        Embedded(names[:support], x[:support], "pictures"),
        Embedded(names[support:], x[support:], "pictures"),
    )
