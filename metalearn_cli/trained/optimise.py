"""Bayesian optimisation by a trained model's densities: how far below the maximum of a function the best query is.

Each function is one of the run's test distribution, on a grid of points. A search starts at a random point; each step
asks for the noisy value at the point that no earlier step has asked for and where the acquisition is largest:

    ei        E max(y - b, 0),  b the largest value so far    (Mockus 1975; Jones, Schonlau and Welch 1998)
    ucb       the quantile of y at 97.5%                      (Auer 2002; Srinivas et al. 2010, arXiv 0912.3995)
    thompson  a sample of y, of each point by itself          (Thompson 1933)

under p(y | x, the values so far). The simple regret after s steps is max_x f(x) - max over the queries f(x), of f
without noise. All searches have the same functions, start and noise.

Shapes: F functions, P points of the grid, N queries so far, K steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import ConfigSource, checked_fields
from metalearn_cli.config.task_for_net import build_task
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator, normals, uniform
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.console import Console, Progress, tell_each
from metalearn_cli.system.device import Precision, set_process
from metalearn_cli.system.limits import Count, Device, Limit, Natural, Threads, Way
from metalearn_cli.tasks.base import Draw, Support, TaskDistribution, draw_slice
from metalearn_cli.tasks.capabilities import columns_of, functions, offers, posterior
from metalearn_cli.tasks.likelihood import Density, Likelihood, merged
from metalearn_cli.trained.gp_regression import gp_outputs
from metalearn_cli.trained.loading import build_model, read_stored
from metalearn_cli.trained.model import Model

Rivals = Annotated[
    tuple[str, ...],
    Limit(
        "some of random, gp and oracle, e.g. [random,gp]",
        lambda value: all(name in ("random", "gp", "oracle") for name in value),
    ),
]
Surrogate = Callable[[Support, Tensor], tuple[Likelihood, Tensor]]  # at x [F, P, 1], outputs [F, P, outputs]

UPPER = 0.975  # of ucb
AT_ONCE = 1 << 15  # points that go through a model together
SAMPLED = 1 << 23  # numbers in the covariance of functions that are drawn together
_NOISE, _RANDOM = -8, -9  # salts


class Acquisition(Enum):
    ei = "ei"
    ucb = "ucb"
    thompson = "thompson"


@dataclass(frozen=True)
class Optimise:
    """The keys of the command."""

    run: str
    acquisition: Acquisition = Acquisition.ei
    steps: Count = 30  # K
    functions: Way = 100  # F
    points: Way = 1000  # P
    against: Rivals | None = None  # None: random, and oracle where the task has one
    seed: Natural = 0
    out: str | None = None
    device: Device | None = None  # None: the run's
    threads: Threads | None = None
    trust: bool = False


class Problem(NamedTuple):
    """Functions on a grid."""

    x: Tensor  # [F, P, 1]
    values: Tensor  # [F, P]
    noise: Tensor  # [F, K], of the values at the start and of all queries but the last, which no step is told
    start: Tensor  # [F, 1], a place in the grid
    key: Tensor  # [F]


class Regrets(NamedTuple):
    """Simple regrets by who has searched, "model" first, after 0, 1, ... K steps, [F, K + 1] each."""

    keys: Optimise
    step: int  # of the run's checkpoint
    of: dict[str, Tensor]


def optimise(values: Config) -> Regrets:
    """Search as these keys of the command line say. Raises UserError for a run without densities, and for a task that
    has no functions of one number."""
    keys = Optimise(**checked_fields(Optimise, OmegaConf.create(values), ""))
    stored = read_stored(Path(keys.run), keys.trust)
    tell_each(stored.notes)
    device, precision = keys.device or stored.config["device"], Precision[stored.config["precision"]]
    set_process(precision, keys.threads, Allocator.tuned, denormals_are_zero=stored.denormals_are_zero)
    model = build_model(stored, BatchNorm.inductive, device, precision, None, keys.trust)
    run = model.scored_run()
    task = build_task(run.config["task"], ConfigSource(trust=keys.trust))
    if not isinstance(task.spec.likelihood, Density):
        raise UserError(
            f"{keys.run} tells no density of a value, which {keys.acquisition.name} needs: take a run with "
            "task.likelihood=gaussian or bars"
        )
    against = keys.against
    if against is None:
        against = ("random", "oracle") if offers(task, "posterior") else ("random",)
    if "oracle" in against and not offers(task, "posterior"):
        raise UserError(f"against=[oracle]: the task of {keys.run} has no exact posterior: leave oracle out")
    draw = task.draw(keys.functions, "test", generator(keys.seed, "optimise"))
    problem = _problem(task, draw, keys, model.device)
    surrogates: dict[str, Surrogate | None] = {
        "model": partial(_by_model, model),
        "random": None,
        "gp": gp_outputs,
        "oracle": partial(_by_posterior, task, draw),
    }
    found: dict[str, Tensor] = {}
    with Progress(Console(), "optimise", keys.steps * (1 + len(against))) as progress:
        for name in ("model", *against):
            regrets: list[Tensor] = []
            for regret in search(surrogates[name], keys.acquisition, problem):
                progress.advance(keys.steps * len(found) + len(regrets), name)
                regrets.append(regret)
            found[name] = torch.stack(regrets, 1)
    return Regrets(keys, stored.step, found)


def _problem(task: TaskDistribution, draw: Draw, keys: Optimise, device: torch.device) -> Problem:
    """The functions of a draw on a grid over the range of their inputs, drawn as many together as memory allows."""
    columns, has_functions = columns_of(task), offers(task, "functions")
    if not has_functions or columns is None or columns.x_range is None or task.spec.input_shape != (1,):
        raise UserError(
            f"the task of {keys.run} has no functions of one number that can be asked anywhere: take a run of "
            "task=gaussian_process or of curves"
        )
    (low,), (high,) = columns.x_range.low, columns.x_range.high
    x = torch.linspace(low, high, keys.points, device=device).view(1, -1, 1).expand(keys.functions, -1, -1)
    values, size, noise = [], max(1, SAMPLED // keys.points**2), 0.0
    for first in range(0, keys.functions, size):
        part = functions(task, draw_slice(draw, first, first + size), x[first : first + size])
        assert part is not None
        values.append(part[0][..., 0])
        noise = part[1]
    key = draw["key"].to(device)
    start = torch.randint(keys.points, (keys.functions, 1), generator=generator(keys.seed, "start")).to(device)
    return Problem(x, torch.cat(values), noise * normals(key, _NOISE, count=keys.steps), start, key)


def search(surrogate: Surrogate | None, acquisition: Acquisition, problem: Problem) -> Iterator[Tensor]:
    """Yield the simple regrets [F] after 0, 1, ... K steps of a search by a surrogate's densities; without a surrogate
    each query is a random one."""
    x, values, noise, places, key = problem
    yield values.amax(1) - values.gather(1, places).amax(1)
    for step in range(noise.shape[1]):
        y = values.gather(1, places) + noise[:, : step + 1]
        merit = uniform(key, _RANDOM, step, shape=values.shape[1:]).double()
        if surrogate is not None:
            support = Support(x.gather(1, places.unsqueeze(-1)), y.unsqueeze(-1), key)
            merit = merit_of(acquisition, *surrogate(support, x), y.amax(1), merit)
        merit = merit.scatter(1, places, -torch.inf)
        places = torch.cat([places, merit.argmax(1, keepdim=True)], 1)
        yield values.amax(1) - values.gather(1, places).amax(1)


def merit_of(acquisition: Acquisition, likelihood: Likelihood, out: Tensor, best: Tensor, chance: Tensor) -> Tensor:
    """The acquisition of each point, [F, P]: outputs [F, P, outputs], the largest value so far [F], and uniform numbers
    [F, P] for a sample."""
    assert isinstance(likelihood, Density)
    out, chance = out.double(), chance.unsqueeze(-1)
    if acquisition is Acquisition.ei:
        return likelihood.improvement(out, best.double().view(-1, 1, 1))[..., 0]
    share = chance if acquisition is Acquisition.thompson else torch.full_like(chance, UPPER)
    return likelihood.quantile(out, share)[..., 0]


def _by_model(model: Model, support: Support, x: Tensor) -> tuple[Likelihood, Tensor]:
    """The model's outputs; a mixture becomes the normal distribution with its mean and deviation."""
    size, outs = max(1, AT_ONCE // x.shape[1]), []
    for first in range(0, len(x), size):
        known = Support(*(part[first : first + size] for part in support[:3]))
        predictor, _ = model.predictor(known, model.net.spec.outputs)
        with torch.no_grad():
            out = predictor(x[first : first + size], model.batch_norm)
        outs.append(merged(model.net.spec.likelihood, out))
    return model.net.spec.likelihood, torch.cat(outs)


def _by_posterior(task: TaskDistribution, draw: Draw, support: Support, x: Tensor) -> tuple[Likelihood, Tensor]:
    told = posterior(task, draw, support, x)
    assert told is not None
    return told
