"""LEO against a loop over tasks, classes and pairs, in float64."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, expect_symmetry, images, init, predicted
from torch import Tensor
from torch.distributions import Normal

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.features import members
from metalearn_cli.algorithms.leo import LAYERS, LEO, drawn
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
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


def test_the_meta_gradient_is_that_of_the_definition() -> None:
    """Without draws: z and the weights are the means."""

    def definition(params: Params, task: Batch) -> Tensor:
        features = NET.features(params, torch.cat([task.support_x, task.query_x], 1))[0][0]
        support, query = (features / features.norm(dim=1, keepdim=True)).split([6, 6])
        y, codes = task.support_y[0], support @ params["leo:encoder.weight"].T
        of_example = torch.stack([sum(relation(params, torch.cat([a, b])) for b in codes) / 6 for a in codes])
        z = start = torch.stack([of_example[y == k].mean(0)[:2] for k in range(3)])

        def loss(weights: Tensor) -> Tensor:
            return F.cross_entropy(support @ weights.T, y, reduction="sum") / 2  # shots

        for _ in range(2):
            weights = (z @ params["leo:decoder.weight"].T)[:, :3]
            z = z - params["leo:latent_lr"] * torch.autograd.grad(loss(weights), z, create_graph=True)[0]
        weights = (z @ params["leo:decoder.weight"].T)[:, :3]
        for _ in range(2):
            slope = torch.autograd.grad(loss(weights), weights, create_graph=True)[0]
            weights = weights - params["leo:tuning_lr"] * slope
        layers = [params[f"{name}.weight"] for name in LAYERS]
        total = F.cross_entropy(query @ weights.T, task.query_y[0]) + 0.3 * F.mse_loss(start, z.detach())
        correlations = F.cosine_similarity(layers[-1].T[:, None], layers[-1].T[None], dim=2)
        total = total + 0.1 * F.mse_loss(correlations, torch.eye(2).double())
        return total + 0.1 * sum(weight.square().sum() / 2 for weight in layers)

    expect_definition(SMALL, NET, init(SMALL, NET), BATCH, definition)


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
