"""Predictions without a run: ridge regression on the features of a network that comes with weights, or on vectors.

What they are worth is measured on the support itself (left_out.py): how many of its examples are right where they are
left out, from which score on a query is unlike every class, and the temperature of the probabilities. The constants
were measured with the default network on classes of CIFAR-FS: benchmarks/own_pictures.md.

Shapes: n support examples, Q queries, F features, W classes.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.algorithms.solvers import ridge, with_ones
from metalearn_cli.backbones.encoder import Runtime
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import checked_fields
from metalearn_cli.datasets.listing import some
from metalearn_cli.datasets.vector_file import SUFFIXES
from metalearn_cli.errors import UserError
from metalearn_cli.trained.embedded import Embedded, Network, of_pictures, of_vectors
from metalearn_cli.trained.left_out import conformal_limit, copies, counted, fair_outputs, likeness, share_interval
from metalearn_cli.trained.novelty import PROMISED, unlikeness
from metalearn_cli.trained.python_inputs import classes_of
from metalearn_cli.trained.temperature import temperature_of

PENALTY = 1.0  # algo.penalty of algo=ridge
# Cosines above which two examples of a class are one: of any network, and of the default.
IDENTICAL, NEARLY = 1 - 1e-5, 0.97


class Judged(NamedTuple):
    """What a support set says of queries, and of itself by those of its examples that count (left_out.counted)."""

    out: Tensor  # [Q, W] of the ridge head
    probabilities: Tensor  # [Q, W]
    temperature: float
    copy: Tensor  # [n] the number of the picture in its class
    counts: Tensor  # [n] bool
    guess: Tensor  # [counted] the class that each is given when it is left out
    unlike: Tensor | None = None  # [Q] bool; None: no example counts
    promised: float = 1.0  # the share of queries of the support's classes that are `unlike` at most, on average
    found: float = 0.0  # the share of examples that are so when their class is left out


class Predictions(NamedTuple):
    files: list[str] | None  # of the queries; None: vectors
    classes: list[str]
    judged: Judged
    notes: list[str]  # how it was done, in sentences


def usual_temperature(shot: float) -> float:
    """The temperature for so many examples of each class, before anything is known of the support."""
    return float(0.033 * shot**0.3)


def predict_by_pretrained(support: str, query: str, model: Config) -> Predictions:
    """Predict the queries by the support, as files or folders name them; `model` has the keys of a Network."""
    network = Network(**checked_fields(Network, OmegaConf.create(model), "model."))
    if Path(support).suffix.lower() in SUFFIXES:
        if model:
            raise UserError(f"model.{next(iter(model))} is of a network, and support={support} holds vectors already")
        labels, known, asked, notes = of_vectors(support, query)
    else:
        labels, known, asked, notes = of_pictures(support, query, network)
    classes = classes_of(labels)
    label = torch.tensor([classes.index(word) for word in labels])
    is_default = known.what == "pictures" and network in (Network(), Network(runtime=Runtime.onnx))
    told = judged(known.x, label, asked.x, NEARLY if is_default else IDENTICAL)
    notes += _about_copies(known, label, told.copy, is_default)
    notes += _about_accuracy(known.what, classes, label, told)
    notes += [
        _most_alike(known, label),
        _about_probabilities(told, known.what, is_default),
        _about_unlike(told, known.what),
    ]
    return Predictions(asked.names if known.what == "pictures" else None, classes, told, notes)


def judged(known: Tensor, label: Tensor, asked: Tensor, same: float) -> Judged:
    """Judge queries [Q, F] by a support [n, F] with labels [n], all of length 1; above a cosine of `same` two examples
    of a class are one."""
    copy = copies(known, label, same)
    counts, x, y = counted(label, copy), with_ones(known[None]), F.one_hot(label)
    fair, own = fair_outputs(x[0], label, copy, PENALTY)[counts], label[counts]
    out = (with_ones(asked[None]).double() @ ridge(x, y[None], PENALTY))[0]
    shot = float(torch.unique(torch.stack([label, copy]), dim=1)[0].bincount().double().log().mean().exp())
    temperature = temperature_of(fair, own, usual_temperature(shot))
    told = Judged(out, (out / temperature).softmax(1), temperature, copy, counts, fair.argmax(1))
    if not len(own):
        return told
    cosines = likeness(known, label, copy)[counts]
    limit, promised = conformal_limit(unlikeness(cosines), PROMISED)
    strange = unlikeness(cosines.scatter(1, own[:, None], -2)) > limit
    unlike = unlikeness(asked @ F.normalize(y.float().T @ known, dim=1).T) > limit
    return told._replace(unlike=unlike, promised=promised, found=float(strange.double().mean()))


def _about_copies(known: Embedded, label: Tensor, copy: Tensor, is_default: bool) -> list[str]:
    """Name examples of a class that are one, or nearly."""
    names = dict[tuple[int, int], list[str]]()
    for name, own, number in zip(known.names, label.tolist(), copy.tolist(), strict=True):
        names.setdefault((own, number), []).append(name)
    alike = [" and ".join(several) for several in names.values() if len(several) > 1]
    how = f"the same or nearly (features of a cosine above {NEARLY})" if is_default else "the same"
    return [f"{known.what} that are {how} are left out together and count once: {some(alike, '; ')}"] * bool(alike)


def _most_alike(known: Embedded, label: Tensor) -> str:
    """Name the two examples of different classes with the largest cosine."""
    largest, pair = -2.0, (0, 0)
    for start in range(0, len(label), 1000):
        cosine = (known.x[start : start + 1000] @ known.x.T).masked_fill(label[start : start + 1000, None] == label, -2)
        if (value := float(cosine.max())) > largest:
            first, second = divmod(int(cosine.argmax()), len(label))
            largest, pair = value, (start + first, second)
    names = " and ".join(known.names[number] for number in pair)
    if largest > IDENTICAL:
        return f"warning: {names} are the same, in two classes: remove one"
    return f"most alike of two classes (cosine {largest:.2f}): {names}"


def _about_accuracy(what: str, classes: list[str], labels: Tensor, told: Judged) -> list[str]:
    """The accuracy where examples are left out, by the labels [n] and the guesses of those that count, and what would
    help."""
    label, guess = labels[told.counts], told.guess
    if not (number := len(label)):
        return [f"how many are right is not known: no class has two {what}, of which one could be left out"]
    right, total = (
        label[guess == label].bincount(minlength=len(classes)).tolist(),
        label.bincount(minlength=len(classes)).tolist(),
    )
    low, high = share_interval(sum(right), number)
    judged = sum(map(bool, total))
    kept = f" of the {judged} classes that have two" * (judged < len(classes))
    notes = [
        f"of {number} {what}{kept}, each left out with one of each other class, {sum(right) / number:.1%} are "
        f"right (95% interval {low:.0%} to {high:.0%}); with all of them it is rather more"
    ]
    shares = [right[own] / total[own] if total[own] else 0.0 for own in range(len(classes))]
    worst = [own for own in sorted(range(len(classes)), key=lambda own: (shares[own], total[own])) if shares[own] < 1]
    if worst:
        sizes = labels.bincount(minlength=len(classes)).tolist()
        of_one = [f"one only{f', {size} times' * (size > 1)}" for size in sizes]
        parts = [
            f"{classes[own]} ({f'{right[own]} of {total[own]} right' if total[own] else of_one[own]})"
            for own in worst[:3]
        ]
        notes.append(f"more {what} would help most of {', '.join(parts)}")
    wrong = Counter((int(own), int(other)) for own, other in zip(label, guess, strict=True) if own != other)
    for (own, other), times in wrong.most_common(1):
        notes[-1] += f"; most often taken for another: {classes[own]} for {classes[other]} ({times})"
    return notes


def _about_probabilities(told: Judged, what: str, is_default: bool) -> str:
    by = f"probabilities: a softmax of temperature {told.temperature:.2g}"
    if number := len(told.guess):
        return f"{by}, calibrated by the {number} {what} that were left out"
    if is_default:
        return f"{by}, which was right for other photographs (CIFAR-FS): yours cannot calibrate it"
    return f"{by}; they are not calibrated"


def _about_unlike(told: Judged, what: str) -> str:
    if told.unlike is None:
        return f"no flag `unlike`: it is measured by {what} that are left out, and each class has one"
    return (
        f"flag `unlike`: by {len(told.guess)} {what} that were left out; true for {told.promised:.0%} at most of the "
        f"queries of your classes, on average, and for {told.found:.0%} of the {what} of a class that is left out"
    )
