"""What a test stands beside: scores, on the same episodes, of predictors that learn nothing.

constant           the mean of each task's support targets, for values; for a normal distribution with their deviation,
                   which is 0.1 at least
oracle             the task itself, for values, where it is known
oracle_floored     the same with no deviation below that of the networks (task.deviation_floor)
oracle_joint       the same, told the query values before each one: of log-likelihoods the joint one per query
least_squares      the shortest linear function nearest to the support set, for values of several inputs
nearest_pixels     the class of the nearest support example, for pictures: the least squared distance between the pixels
                   of pictures that are averaged down to at most 16 x 16
prototypes         the class whose mean feature is nearest by the cosine, for pictures that a frozen network embeds

Beside a frozen network, whose features are kept and whose test is quick, the baselines are those of the first
twenty-fourth of the episodes, at least 24: of all episodes they would take as long as the test itself.

Shapes: T tasks, S support and Q query examples, F features, E episodes.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.losses import mean_of_real, task_scores, without_absent_classes
from metalearn_cli.algorithms.protonet import prototypes
from metalearn_cli.learning.draws import EpisodeRange, draw_episodes
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.base import Batch, Draw, Support, TaskDistribution, draw_slice
from metalearn_cli.tasks.capabilities import joint_oracle, least_squares, offers, oracle, thumbnails
from metalearn_cli.tasks.likelihood import EXACT, Gaussian, Likelihood, SquaredError

_AT_ONCE = 8  # tasks that a processor's cache holds
LEAST_DEVIATION = 0.1  # of `constant`
_SHARE, _LEAST = 24, 24  # one episode in so many, and so many of them at least, beside a frozen network


class Baseline(NamedTuple):
    words: str  # for a person
    is_beaten: bool  # by what has learned something


BASELINES = {
    "constant": Baseline("mean of the support", True),
    "oracle": Baseline("the task itself", False),
    "oracle_floored": Baseline("the task itself, with the floor of deviations", False),
    "least_squares": Baseline("least squares on the support", False),
    "nearest_pixels": Baseline("1-NN on pixels", True),
    "prototypes": Baseline("frozen prototypes", True),
}


def baselines(
    task: TaskDistribution, episodes: EpisodeRange, device: torch.device, ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """The scores of the baselines that this kind of task has, [E] float64 each on the CPU, in every rank; each computes
    its share. Those in another metric than the headline have its name behind theirs. Beside a frozen network they are
    of the first episodes only."""
    if is_embedded(task):
        episodes = episodes._replace(number=min(episodes.number, max(_LEAST, episodes.number // _SHARE)))
    mine: list[dict[str, Tensor]] = []
    of_kind = _of_classes if task.spec.kind == "classes" else _of_values
    for draw in draw_episodes(task, episodes):
        first, last = ranks.share(len(draw["key"]))
        scores = of_kind(task, draw_slice(draw, first, last), device) if first < last else {}
        mine.append({name: score.to("cpu", torch.float64) for name, score in scores.items()})
    parts = [part for block in zip(*ranks.gather(mine), strict=True) for part in block]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if part]) for name in names}


def is_embedded(task: TaskDistribution) -> bool:
    """Whether the examples of a task are features of pictures."""
    return len(task.spec.input_shape) == 1 and offers(task, "thumbnails")


def _of_values(task: TaskDistribution, draw: Draw, device: torch.device) -> dict[str, Tensor]:
    batch = task.gather(draw, device).to(torch.float64)
    likelihood = task.spec.likelihood
    is_density = likelihood.metric == Gaussian.metric
    floor = likelihood.floor if isinstance(likelihood, Gaussian) else 0.0
    predicted: dict[str, tuple[Likelihood, Tensor]] = {"constant": (SquaredError(), mean_target(batch.support))}
    if is_density:
        predicted["constant"] = EXACT, constant(batch)
    if (linear := least_squares(task, draw, device)) is not None:
        predicted["least_squares"] = SquaredError(), linear
    if (truth := oracle(task, draw, device)) is not None:
        predicted["oracle"] = truth
        if floor and truth[0] == EXACT:
            mean, deviation = EXACT.components(truth[1])
            predicted["oracle_floored"] = EXACT, torch.cat([mean, deviation.clamp(min=floor).log()], -1)
    scores = {}
    for name, (likelihood, out) in predicted.items():
        for metric, score in _scores(task, likelihood, out, batch).items():
            if metric == task.spec.metric:
                scores[name] = score
            elif metric == SquaredError.metric and name != "oracle_floored":
                scores[f"{name}_{metric}"] = score
    if is_density and (truth := joint_oracle(task, draw, device)) is not None:
        scores["oracle_joint"] = _scores(task, *truth, batch)["log_likelihood"]
    return scores


def _scores(task: TaskDistribution, likelihood: Likelihood, out: Tensor, batch: Batch) -> dict[str, Tensor]:
    spec = task.spec._replace(likelihood=likelihood)
    return task_scores(spec, out.double(), batch.query_y, batch.query_mask)


def _of_classes(task: TaskDistribution, draw: Draw, device: torch.device) -> dict[str, Tensor]:
    scores: dict[str, list[Tensor]] = {}
    for first in range(0, len(draw["key"]), _AT_ONCE):
        part = draw_slice(draw, first, first + _AT_ONCE)
        if (pictures := thumbnails(task, part, device)) is None:
            return {}
        scores.setdefault("nearest_pixels", []).append(nearest_pixels(pictures))
        if is_embedded(task):
            nearest = nearest_prototype(task.spec.outputs, task.gather(part, device))
            scores.setdefault("prototypes", []).append(nearest)
    return {name: torch.cat(parts) for name, parts in scores.items()}


def mean_target(support: Support) -> Tensor:
    """The mean of each task's values, [T, 1, targets]."""
    if support.mask is None:
        return support.y.mean(1, keepdim=True)
    real = support.mask.unsqueeze(-1)
    return support.y.where(real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True)


def constant(batch: Batch) -> Tensor:
    """The normal distribution of each task's values, as outputs [T, Q, 2 targets] of EXACT."""
    support, mean = batch.support, mean_target(batch.support)
    variance = mean_target(support._replace(y=(support.y - mean).square()))
    out = torch.cat([mean, 0.5 * variance.clamp(min=LEAST_DEVIATION**2).log()], -1)
    return out.expand(-1, batch.query_y.shape[1], -1)


def nearest_pixels(pictures: Batch) -> Tensor:
    """The accuracy [T] of the class of the support example that is nearest, the first of several, in its pixels.

    The pixels of at most 3 x 16 x 16 are whole numbers from -128 to 127, so that sums of their products are below 2^24:
    exact in float32, in whatever order, and the nearest example is the same on every machine.
    """
    support, query = ((255 * x.flatten(2)).round() - 128 for x in (pictures.support_x, pictures.query_x))
    distance = support.square().sum(-1).double().unsqueeze(1) - 2 * (query @ support.mT).double()  # [T, Q, S], - |q|^2
    if pictures.support_mask is not None:
        distance = distance.masked_fill(~pictures.support_mask.unsqueeze(1), math.inf)
    predicted = pictures.support_y.gather(1, distance.argmin(-1))
    return mean_of_real((predicted == pictures.query_y).double(), pictures.query_mask)


def nearest_prototype(way: int, batch: Batch) -> Tensor:
    """The accuracy [T] of the class whose mean feature has the largest cosine: ProtoNet's metric=cosine, untrained."""
    means = F.normalize(prototypes(batch.support_x, batch.support, way), dim=-1)  # [T, way, F]
    cosine = without_absent_classes(batch.query_x @ means.mT, batch.way)  # times the length of the query
    return mean_of_real((cosine.argmax(-1) == batch.query_y).double(), batch.query_mask)
