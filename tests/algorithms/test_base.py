"""What an algorithm refuses, in a sentence that names what would be right."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from problems import ALGORITHMS, ON_EMBEDDINGS, ON_MAPS, images, points

from metalearn_cli.algorithms.base import Algorithm
from metalearn_cli.algorithms.cavia import CAVIA
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.inner_loop import Head
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.proto_maml import ProtoMAML
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.errors import UserError
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import Categorical


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *ON_MAPS, CAVIA()])
def test_another_training_way_is_refused_where_a_head_is_learned(algorithm: Algorithm) -> None:
    net = Conv4(Spec((1, 16, 16), 5, 20, Categorical()))
    if isinstance(algorithm, ON_EMBEDDINGS):
        assert algorithm.init(net, torch.Generator()).params
        return
    with pytest.raises(UserError, match=r"task.train_way=20 must equal task.way=5; .* as algo=protonet does"):
        algorithm.init(net, torch.Generator())


@pytest.mark.parametrize(
    ("algorithm", "spec", "sentence"),
    [
        (ProtoNet(), points()[0], r"algo=protonet compares classes.*: take task=omniglot or algo=maml"),
        (Matching(), points()[0], r"algo=matching compares classes.*: take task=omniglot or algo=maml"),
        (Pretrain(), images()[0], "take task=omniglot, or algo=protonet"),
    ],
)
def test_a_task_of_the_wrong_kind_is_refused(algorithm: Algorithm, spec: Spec, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        algorithm.init(MLP(spec), torch.Generator())


@pytest.mark.parametrize(
    ("algorithm", "key", "value", "neutral"),
    [
        (Reptile(), "inner_batch", "10", "null"),
        (Reptile(inner_batch=None), "test_batch", "5", "null"),
        (Matching(fce=True), "fce", "true", "false"),
        (LearnedOptimizer(batch_size=4), "batch_size", "4", "null"),
        (HandOptimizer(batch_size=4), "batch_size", "4", "null"),
    ],
)
def test_a_key_that_needs_supports_of_one_size_is_refused_where_they_vary(
    algorithm: Algorithm, key: str, value: str, neutral: str
) -> None:
    net = MLP(images()[0]._replace(padded=True))
    sentence = f"algo.{key}={value} needs support sets of one size, and this task's vary: set algo.{key}={neutral}"
    with pytest.raises(UserError, match=sentence):
        algorithm.init(net, torch.Generator())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        *((partial(cls, first_order=True, remat=True), "save nothing") for cls in (MAML, ProtoMAML, CAVIA)),
        (lambda: MAML(adapted=AdaptedPart.body, head=Head.mean), r"algo\.adapted=body they would stay so"),
        (lambda: LearnedOptimizer(horizon=90), r"algo.horizon=90 must be a multiple of algo.unroll=20, e.g. 100"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(make: Callable[[], Algorithm], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
