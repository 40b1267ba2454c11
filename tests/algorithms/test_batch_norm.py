"""Whose statistics normalise what, in numbers, for every algorithm. float64.

Shapes: T = 3 tasks.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from problems import ALGORITHMS, ON_MAPS, images, init
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.embedding import PredictorByEmbedding
from metalearn_cli.algorithms.inner_loop import AdaptedNet
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.pmf import PMF
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.nets.base import Call, Params
from metalearn_cli.nets.conv4 import Conv4

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3)
MODES = pytest.mark.parametrize("mode", BatchNorm)


def with_other_averages(meta: Meta) -> Meta:
    """Also of those that a step has of its own."""
    return meta._replace(buffers={name: value * (1.5 if "norm" in name else 1) for name, value in meta.buffers.items()})


@pytest.mark.parametrize("algorithm", ALGORITHMS + ON_MAPS)
def test_running_statistics_move_a_tenth_towards_those_of_the_meta_batch(algorithm: Algorithm) -> None:
    """Whatever they were before: the target is the meta-batch's."""
    meta = init(algorithm, NET)
    targets = []
    for start in (meta, with_other_averages(meta)):
        moved = algorithm.meta_gradient(NET, start, BATCH, 0).buffers
        targets.append({name: 10 * (moved[name] - 0.9 * start.buffers[name]) for name in NET.init_stats()})
    for name, value in targets[0].items():
        torch.testing.assert_close(targets[1][name], value)
        assert not torch.allclose(value, meta.buffers[name], rtol=0.01)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_mode_running_reads_the_running_statistics_and_no_other_does(algorithm: Algorithm) -> None:
    if isinstance(algorithm, PMF):
        algorithm = replace(algorithm, tuning_steps=0)  # which go by the running statistics
    meta = init(algorithm, NET)
    with torch.no_grad():
        for mode in BatchNorm:
            outs = []
            for start in (meta, with_other_averages(meta)):
                predict = next(iter(algorithm.adapt(NET, start, BATCH.support, 0)))
                outs.append(predict(BATCH.query_x, mode))
            assert torch.equal(*outs) is (mode is not BatchNorm.running), mode


@pytest.mark.parametrize("algorithm", ALGORITHMS + ON_MAPS)
def test_every_mode_is_another_prediction_and_only_the_transductive_one_depends_on_its_neighbours(
    algorithm: Algorithm,
) -> None:
    meta = init(algorithm, NET)
    with torch.no_grad():
        *_, predict = algorithm.adapt(NET, meta, BATCH.support, algorithm.test_steps)
        together = {mode: predict(BATCH.query_x, mode) for mode in BatchNorm}
        for mode in BatchNorm:
            alone = predict(BATCH.query_x[:, :1], mode)
            has_neighbours = algorithm.transductive_head and mode is not BatchNorm.one_query
            sees_neighbours = has_neighbours or mode is BatchNorm.transductive
            assert torch.allclose(together[mode][:, :1], alone) is not sees_neighbours, mode
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(together.values(), 2))


@pytest.mark.parametrize("algorithm", [MAML(inner_steps=2), MetaSGD(inner_steps=2), MetaLSTM(inner_steps=2)])
def test_running_statistics_move_towards_those_of_the_adapted_networks_on_the_query_sets(
    algorithm: MAML | MetaSGD | MetaLSTM,
) -> None:
    meta = init(algorithm, NET)
    buffers = algorithm.meta_gradient(NET, meta, BATCH, 0).buffers
    with torch.no_grad():
        *_, adapted = algorithm.adapt(NET, meta, BATCH.support, 2)
        assert isinstance(adapted, AdaptedNet)
        _, stats = NET(adapted.params, BATCH.query_x)
    for name, value in buffers.items():
        torch.testing.assert_close(value, 0.9 * meta.buffers[name] + 0.1 * stats[name].mean(0))


def used_for(mode: BatchNorm, meta: Meta) -> Params | None:
    """The statistics for a forward in this mode; None: its own."""
    match mode:
        case BatchNorm.inductive:
            return NET.features(meta.params, BATCH.support_x)[1]
        case BatchNorm.running:
            return meta.buffers
    return None


@MODES
def test_a_network_is_read_under_each_mode(mode: BatchNorm) -> None:
    meta = init(MAML(), NET)
    out = AdaptedNet(NET, meta.params, meta.buffers, BATCH.support, 0)(BATCH.query_x, mode)
    if mode is BatchNorm.one_query:
        count = BATCH.query_x.shape[1]
        outs = [NET(meta.params, torch.cat([BATCH.support_x, BATCH.query_x[:, i : i + 1]], 1))[0] for i in range(count)]
        expected = torch.stack([out[:, -1] for out in outs], 1)
    else:
        expected = NET(meta.params, BATCH.query_x, Call(used_for(mode, meta)))[0]
    torch.testing.assert_close(out, expected)


@MODES
def test_embeddings_are_compared_under_each_mode(mode: BatchNorm) -> None:
    meta = init(ProtoNet(), NET)

    def head(support: Tensor, query: Tensor) -> Tensor:
        return query @ support.transpose(1, 2)

    out = PredictorByEmbedding(NET, meta.params, meta.buffers, BATCH.support, head)(BATCH.query_x, mode)
    shots = BATCH.support_x.shape[1]
    queries = BATCH.query_x.split(1, 1) if mode is BatchNorm.one_query else (BATCH.query_x,)
    parts = []
    for query_x in queries:
        together = torch.cat([BATCH.support_x, query_x], 1)
        features, _ = NET.features(meta.params, together, Call(used_for(mode, meta)))
        parts.append(head(features[:, :shots], features[:, shots:]))
    torch.testing.assert_close(out, torch.cat(parts, 1))
