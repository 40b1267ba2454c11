"""What an algorithm refuses, in a sentence that names what would be right."""

import pytest
import torch
from problems import ALGORITHMS, images, points

from metalearn_cli.algorithms.base import Algorithm
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.tasks.base import Spec


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_training_way_is_refused_where_a_head_is_learned(algorithm: Algorithm) -> None:
    net = Conv4(Spec((1, 16, 16), 5, 20, "classes"))
    if isinstance(algorithm, ProtoNet | Matching):
        assert algorithm.init(net, torch.Generator()).params
        return
    with pytest.raises(UserError, match=r"task.train_way=20 must equal task.way=5; .* as algo=protonet does"):
        algorithm.init(net, torch.Generator())


@pytest.mark.parametrize(
    ("algorithm", "spec", "sentence"),
    [
        (ProtoNet(), points()[0], r"algo=protonet compares classes.*: take task=omniglot or algo=maml"),
        (Matching(), points()[0], r"algo=matching compares classes.*: take task=omniglot or algo=maml"),
        (Pretrain(), images()[0], "take task=sinusoid"),
    ],
)
def test_a_task_of_the_wrong_kind_is_refused(algorithm: Algorithm, spec: Spec, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        algorithm.init(MLP(spec), torch.Generator())
