"""LEO against a loop over tasks, classes and pairs, in float64."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, expect_symmetry, images, init, predicted
from torch import Tensor
from torch.distributions import Normal

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.features import members
from metalearn_cli.algorithms.leo import LAYERS, LEO, drawn, encoded
from metalearn_cli.algorithms.losses import call_on
from metalearn_cli.nets.base import Params, Pass
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.noise import dropped
from metalearn_cli.seeding import normals
from metalearn_cli.tasks.base import Batch

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3)
TRAINING = torch.zeros(3)  # the progress of three tasks
SMALL = LEO(latents=2, latent_steps=2, tuning_steps=2, latent_lr=0.5, tuning_lr=0.5, l2=0.1, encoder_penalty=0.3)


def relation(params: Params, pair: Tensor) -> Tensor:
    for name in LAYERS[1:3]:
        pair = torch.relu(params[f"{name}.weight"] @ pair)
    return params[f"{LAYERS[3]}.weight"] @ pair


predict = partial(predicted, net=NET, mode=BatchNorm.transductive)


def draw(codes: Tensor, offset: float, task: Batch, number: int) -> tuple[Tensor, Tensor]:
    """Of codes [way, N + N]; and its mean log density over that of N(0, I)."""
    mean, log = codes.chunk(2, 1)
    if task.progress is None:
        return mean, torch.zeros(())
    noise = normals(task.key, -3, number, count=mean.numel()).view_as(mean).double()
    deviation = (log.exp() - 1 + offset).clamp(min=1e-10)
    drawn = mean + deviation * noise
    return drawn, (drawn.square() / 2 - noise.square() / 2 - deviation.log()).mean()


@pytest.mark.parametrize("progress", [None, TRAINING], ids=["plain", "drawing"])
def test_the_meta_gradient_is_that_of_the_definition(progress: Tensor | None) -> None:
    """In training each step has draws and dropped features of its own; without, z and the weights are the means."""

    def definition(params: Params, task: Batch) -> Tensor:
        def left(features: Tensor, examples: Pass, step: int = 0) -> Tensor:
            return dropped(features[None], 0.3, call_on(task, examples, None, step), -1)[0]

        def decoded(z: Tensor, number: int) -> Tensor:
            return draw(z @ params["leo:decoder.weight"].T, math.sqrt(2 / (3 + 3)), task, number)[0]

        features = NET.features(params, torch.cat([task.support_x, task.query_x], 1))[0][0]
        support, query = (features / features.norm(dim=1, keepdim=True)).split([6, 6])
        y, codes = task.support_y[0], left(support, Pass.support, -1) @ params["leo:encoder.weight"].T
        of_example = torch.stack([sum(relation(params, torch.cat([a, b])) for b in codes) / 6 for a in codes])
        start, divergence = draw(torch.stack([of_example[y == k].mean(0) for k in range(3)]), 0.0, task, 0)
        z = start

        def loss(weights: Tensor, step: int) -> Tensor:
            out = left(support, Pass.support, step) @ weights.T
            return F.cross_entropy(out, y, reduction="sum") / 2  # shots

        for step in range(2):
            slope = torch.autograd.grad(loss(decoded(z, step + 1), step), z, create_graph=True)[0]
            z = z - params["leo:latent_lr"] * slope
        weights = decoded(z, 3)
        for step in (2, 3):
            slope = torch.autograd.grad(loss(weights, step), weights, create_graph=True)[0]
            weights = weights - params["leo:tuning_lr"] * slope
        layers = [params[f"{name}.weight"] for name in LAYERS]
        total = F.cross_entropy(left(query, Pass.query) @ weights.T, task.query_y[0]) + 0.1 * divergence
        total = total + 0.3 * F.mse_loss(start, z.detach())
        correlations = F.cosine_similarity(layers[-1].T[:, None], layers[-1].T[None], dim=2)
        total = total + 0.1 * F.mse_loss(correlations, torch.eye(2).double())
        return total + 0.1 * sum(weight.square().sum() / 2 for weight in layers)

    expect_definition(SMALL, NET, init(SMALL, NET), BATCH._replace(progress=progress), definition)


def test_the_meta_gradient_is_the_finite_difference_with_draws_too() -> None:
    net, batch = cases()[1]
    for progress in (None, TRAINING):  # the penalty takes the end of the steps for a constant
        expect_slope(replace(SMALL, encoder_penalty=0.0), net, batch._replace(progress=progress), step=1e-5)


def test_a_draw_and_its_divergence_are_those_of_torchs_distributions() -> None:
    codes = torch.tensor([0.3, -0.2, 0.4, -0.1, 0.5, -0.3]).double().expand(3, 2, 6)
    training = BATCH.support._replace(progress=TRAINING)
    draw, divergence = drawn(codes, 0.9, training, 1)
    mean, log = codes.chunk(2, 2)
    own, standard = Normal(mean, (log.exp() - 1 + 0.9).clamp(min=1e-10)), Normal(0.0, 1.0)
    expected = mean + own.scale * normals(BATCH.key, -3, 1, count=6).view(3, 2, 3).double()
    torch.testing.assert_close(draw, expected)
    torch.testing.assert_close(divergence, (own.log_prob(draw) - standard.log_prob(draw)).mean(2))
    assert not torch.equal(draw, drawn(codes, 0.9, training, 2)[0])
    assert torch.equal(drawn(codes, 0.9, BATCH.support, 1)[0], mean)  # no training


def test_a_class_that_a_task_lacks_has_no_divergence() -> None:
    meta, support = init(SMALL, NET), BATCH.support._replace(progress=TRAINING)
    features = NET.features(meta.params, BATCH.support_x)[0]
    is_class = members(support, 3) & torch.tensor([True, True, False])
    codes = encoded(meta.params, is_class, SMALL.dropped(features, support, -1))
    expected = drawn(codes, 0.0, support, 0)[1][:, :2].mean(1)
    torch.testing.assert_close(SMALL.adapted(SPEC, meta.params, support, is_class, features).divergence, expected)


def test_the_order_of_shots_and_the_names_of_classes_do_not_matter() -> None:
    for algorithm in (SMALL, LEO(latents=2, latent_steps=0, tuning_steps=0)):
        expect_symmetry(partial(predict, algorithm), BATCH)


def test_steps_fit_the_support_set_and_a_test_draws_nothing() -> None:
    meta, losses = init(SMALL, NET), []
    rates = {
        name: torch.full_like(meta.params[name], 0.05).requires_grad_() for name in ("leo:latent_lr", "leo:tuning_lr")
    }
    meta = meta._replace(params=meta.params | rates)
    features = NET.features(meta.params, BATCH.support_x)[0].detach()
    is_class = members(BATCH.support, 3)
    for latent_steps, tuning_steps in ((0, 0), (2, 0), (2, 2)):
        algorithm = LEO(latents=2, latent_steps=latent_steps, tuning_steps=tuning_steps)
        weights = algorithm.adapted(SPEC, meta.params, BATCH.support, is_class, features).weights
        losses.append(F.cross_entropy((features @ weights.mT).flatten(0, 1), BATCH.support_y.flatten()).item())
    assert losses == sorted(losses, reverse=True)
    assert len({*losses}) == 3
    other = BATCH._replace(key=BATCH.key + 9)
    assert torch.equal(predict(SMALL, BATCH, meta), predict(SMALL, other, meta))
    drawn_losses = [
        SMALL.meta_gradient(NET, meta, batch._replace(progress=TRAINING), 0).loss for batch in (BATCH, other)
    ]
    assert not torch.equal(*drawn_losses)
