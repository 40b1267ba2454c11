"""P>M>F, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import images, init, predicted
from torch import Tensor
from torch.func import functional_call

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.pmf import PMF
from metalearn_cli.algorithms.protonet import Nearness, ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.capabilities import as_module
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.tasks.augment import Augment, changed_copies

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3)
TUNED = PMF(tuning_steps=3, lr=0.01)


predict = partial(predicted, net=NET, mode=BatchNorm.running)


@pytest.mark.parametrize("still", [PMF(lr=0.0), PMF(tuning_steps=0)], ids=repr)
def test_without_tuning_it_is_protonet_with_cosines(still: PMF) -> None:
    nearest = ProtoNet(Nearness.cosine)
    assert torch.equal(predict(still, BATCH), predict(nearest, BATCH))
    assert not torch.equal(predict(TUNED, BATCH), predict(nearest, BATCH))
    update, expected = (algorithm.meta_gradient(NET, init(nearest, NET), BATCH, 0) for algorithm in (TUNED, nearest))
    assert torch.equal(update.loss, expected.loss)
    assert all(torch.equal(update.gradient[name], value) for name, value in expected.gradient.items())


def test_it_tunes_as_a_loop_over_torchs_own_layers_does() -> None:
    """One task after another, through a plain module in evaluation mode."""
    meta, outs = init(TUNED, NET), []
    for task in BATCH.chunks(1):
        module = as_module(NET, {name: value for name, value in meta.params.items() if name != "scale"}, meta.buffers)
        module = module.double().eval()
        (x, y), query = (task.support_x[0], task.support_y[0]), task.query_x[0]
        weights = {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}
        adam = torch.optim.Adam(weights.values(), 0.01)

        def logits(images: Tensor, x: Tensor = x, y: Tensor = y, weights=weights, module=module) -> Tensor:  # type: ignore[no-untyped-def]
            support, other = (functional_call(module, weights, (part,)) for part in (x, images))
            means = torch.stack([support[y == label].mean(0) for label in range(3)])
            return meta.params["scale"] * F.normalize(other, dim=-1) @ F.normalize(means, dim=-1).T

        for step in range(3):
            changed = changed_copies(task.support, 1, TUNED.augment, step).x[0]
            adam.zero_grad()
            F.cross_entropy(logits(changed), y).backward()
            adam.step()
        outs.append(logits(query).detach())
    torch.testing.assert_close(predict(TUNED, BATCH), torch.stack(outs), rtol=1e-7, atol=1e-7)


def test_each_step_changes_the_images_anew_and_chunks_change_nothing() -> None:
    first, second = (changed_copies(BATCH.support, 1, TUNED.augment, turn).x for turn in (0, 1))
    assert not torch.equal(first, second)
    whole = predict(TUNED, BATCH)
    for number, task in enumerate(BATCH.chunks(1)):
        torch.testing.assert_close(predict(TUNED, task)[0], whole[number], rtol=1e-7, atol=1e-7)


def test_vectors_cannot_be_changed_like_images() -> None:
    net = MLP(SPEC._replace(input_shape=(7,)))
    with pytest.raises(UserError, match=r"algo.augment changes images, and this task has none: give algo.augment=\[\]"):
        init(PMF(augment=(Augment.flip,)), net)
    init(PMF(augment=()), net)
    with pytest.raises(UserError, match=r"algo=pmf tunes a network on each task, and here is none below the head"):
        init(PMF(), Linear(SPEC._replace(input_shape=(7,))))  # of a frozen network: before its images are asked for
    init(PMF(lr=0.0), Linear(SPEC))
