"""What algorithms tell the network: the inner step, and in training, and only there, what dropped units depend on."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from problems import ALGORITHMS, BY_FAMILY, DOUBLE, images, init, snapshot
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.capabilities import steps_at_test
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Params, Pass
from metalearn_cli.nets.layers import fold, linear, unfold
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.noise import dropout
from metalearn_cli.optimizer import Optimizer

SPEC, BATCH = images()
INNER = MLP(SPEC, hidden=(12,), batch_norm=True)
TOTAL = 8  # steps of the training


@dataclass(frozen=True)
class Dropping(Net):
    """Drops a third of another network's features, and remembers what it was told."""

    spec: Any
    inner: MLP = INNER
    calls: list[Call] = field(default_factory=list)

    def init(self, rng: torch.Generator) -> Params:
        return self.inner.init(rng)

    def init_stats(self) -> Params:
        return self.inner.init_stats()

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        self.calls.append(call)
        features, used = self.inner.features(params, x, call)
        return unfold(dropout(fold(features[..., None, None]), 1 / 3, call, 0), len(x)).flatten(2), used

    def __call__(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        features, used = self.features(params, x, call)
        return linear(params, "head", features), used


def by_name(algorithm: Algorithm) -> str:
    return type(algorithm).__name__


def learner(algorithm: Algorithm, chunk: int | None = None) -> Learner:
    execution = DOUBLE._replace(steps=TOTAL, tasks_per_chunk=chunk)
    return Learner(algorithm, Dropping(SPEC), Optimizer(), torch.Generator().manual_seed(0), execution)


@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=by_name)
def test_training_tells_each_step_and_what_noise_depends_on(algorithm: Algorithm) -> None:
    trained = learner(algorithm)
    calls: list[Call] = trained.net.calls  # type: ignore[attr-defined]
    calls.clear()  # of the start
    trained.step(BATCH, 2)
    assert calls
    for call in calls:
        assert call.noise is not None
        assert call.noise.key.unique().tolist() == BATCH.key.tolist()
        assert call.noise.progress.unique().tolist() == [2 / TOTAL]
    supports = [call.step for call in calls if call.noise and call.noise.examples is Pass.support]
    queries = [call.step for call in calls if call.noise and call.noise.examples is Pass.query]
    assert supports == sorted(supports)  # a window of a trajectory begins where the last one ended
    assert set(supports) == set(range(len(set(supports))))
    last = getattr(algorithm, "inner_steps", 0)
    assert queries in ([], [last], list(range(1, last + 1)))
    assert not queries or max(supports) in (last - 1, last)  # the support is seen once more after the last step, or not
    assert supports or [call.noise and call.noise.examples for call in calls] == [Pass.both]


@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=by_name)
def test_a_test_drops_nothing_and_knows_its_step(algorithm: Algorithm) -> None:
    tested = learner(algorithm)
    tested.evaluate(BATCH, [BatchNorm.transductive, BatchNorm.inductive])
    calls: list[Call] = tested.net.calls  # type: ignore[attr-defined]
    assert calls
    assert not any(call.noise for call in calls)
    steps = steps_at_test(algorithm, SPEC)
    assert max(call.step for call in calls) == (0 if by_name(algorithm) == "Matching" else steps)


@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=by_name)
def test_chunks_change_no_dropped_unit(algorithm: Algorithm) -> None:
    states = []
    for chunk in (None, 1):
        trained = learner(algorithm, chunk)
        trained.step(BATCH, 0)
        states.append(snapshot(trained))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12)


def test_masks_depend_on_the_step_and_noise_on_training_alone() -> None:
    net, algorithm = Dropping(SPEC), ALGORITHMS[0]
    meta = init(algorithm, net)
    losses = [
        algorithm.meta_gradient(net, meta, batch, 0).loss
        for batch in (BATCH, *(BATCH._replace(progress=torch.tensor([share] * 3)) for share in (0.0, 0.5)))
    ]
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(losses[1], losses[2])  # this network has no ramp
