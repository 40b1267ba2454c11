"""Neural processes: identities, gradients beside finite differences, and their bound beside a loop."""

import math
from dataclasses import replace

import pytest
import torch
from problems import DOUBLE, expect_definition, expect_slope, gaussian_points, init, with_padding
from torch import Tensor
from torch.distributions import Normal

from metalearn_cli.algorithms.base import BatchNorm, Predictor
from metalearn_cli.algorithms.inner_loop import final_of
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.neural_process import NeuralProcess, drawn, log_density
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.nets.neural_process import Latent
from metalearn_cli.nets.set_net import Context, attend
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import normals
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.likelihood import Gaussian, SquaredError, merged

CNP = NeuralProcess(width=6, heads=2, samples=2, test_samples=3)
KINDS = [replace(CNP, attention=attention, latent=latent) for attention in (False, True) for latent in (False, True)]
EACH_KIND = pytest.mark.parametrize("algorithm", KINDS, ids=["cnp", "np", "canp", "anp"])


def predictor(algorithm: NeuralProcess, batch: Batch, seed: int = 0) -> Predictor:
    net = Linear(gaussian_points()[0])
    return final_of(algorithm.adapt(net, init(algorithm, net, seed), batch.support, 0))


def predicted(algorithm: NeuralProcess, batch: Batch) -> Tensor:
    return predictor(algorithm, batch)(batch.query_x, BatchNorm.running, batch.query_mask)


@EACH_KIND
def test_the_meta_gradient_is_the_slope_of_the_loss(algorithm: NeuralProcess) -> None:
    spec, batch = gaussian_points()
    expect_slope(algorithm, MLP(spec, hidden=(5,), activation=Activation.tanh), batch, step=1e-6)  # features before it


@EACH_KIND
def test_order_padding_and_other_queries_change_no_prediction(algorithm: NeuralProcess) -> None:
    _, batch = gaussian_points()
    expected = predicted(algorithm, batch)
    shuffled = batch._replace(support_x=batch.support_x.flip(1), support_y=batch.support_y.flip(1))
    torch.testing.assert_close(predicted(algorithm, shuffled), expected, rtol=1e-10, atol=1e-10)
    alone = batch._replace(query_x=batch.query_x[:, 1:2], query_y=batch.query_y[:, 1:2])
    torch.testing.assert_close(predicted(algorithm, alone), expected[:, 1:2], rtol=1e-10, atol=1e-10)
    padded = with_padding(batch)
    torch.testing.assert_close(predicted(algorithm, padded)[:, :-1], expected, rtol=1e-10, atol=1e-10)
    net = Linear(gaussian_points()[0])
    updates = [algorithm.meta_gradient(net, init(algorithm, net), part, 0) for part in (batch, padded)]
    torch.testing.assert_close(updates[1].loss, updates[0].loss, rtol=1e-10, atol=0)
    for name, value in updates[0].gradient.items():
        torch.testing.assert_close(updates[1].gradient[name], value, rtol=1e-8, atol=1e-10)


@EACH_KIND
def test_a_bound_is_that_of_a_loop_over_samples_and_tasks(algorithm: NeuralProcess) -> None:
    spec, batch = gaussian_points()
    net = Linear(spec)
    over_sets = algorithm._over_sets(spec)

    def loss_of(params: Params, task: Batch) -> Tensor:
        x, y = torch.cat([task.support_x, task.query_x], 1), torch.cat([task.support_y, task.query_y], 1)
        context, both = Context(task.support_x, task.support_y), Context(x, y)
        if not algorithm.latent:
            return task_loss(spec, over_sets(params, context, x), y)
        prior, posterior = (Normal(*over_sets.latent_of(params, part)) for part in (context, both))
        total = torch.zeros((), dtype=x.dtype)
        noise = normals(task.key, -4, count=2 * algorithm.width).double().view(2, -1)
        for k in range(2):
            z = posterior.mean + posterior.stddev * noise[k]
            mean, deviation = Gaussian().moments(over_sets.decode(params, context, z, x)[:, :, 0])
            log_p = Normal(mean, deviation).log_prob(y).sum()
            weight = log_p + prior.log_prob(z).sum() - posterior.log_prob(z).sum()
            total = total + weight.exp() / 2
        return -total.log() / x.shape[1]

    expect_definition(algorithm, net, init(algorithm, net), batch, loss_of)


def test_a_sample_of_no_spread_is_the_mean_and_the_process_then_a_conditional_one() -> None:
    """With the deviation of z at its mean's place a neural process is a conditional one with the same weights."""
    spec, batch = gaussian_points()
    net, process = Linear(spec), replace(CNP, latent=True)
    meta = init(process, net)
    shared = {
        name: value[: CNP.width] if name.startswith("set:latent.pooled1") else value
        for name, value in meta.params.items()
    }
    context = Context(batch.support_x, batch.support_y)
    z = drawn(Latent(process._over_sets(spec).latent_of(meta.params, context).mean, torch.zeros(())), batch.key, 3)
    out = process._over_sets(spec).decode(meta.params, context, z, batch.query_x)
    expected = CNP._over_sets(spec)(shared, context, batch.query_x)
    torch.testing.assert_close(out, expected.unsqueeze(2).expand(-1, -1, 3, -1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged(spec.likelihood, out), expected, rtol=1e-6, atol=1e-9)


def test_without_queries_the_two_distributions_of_z_are_one() -> None:
    spec, batch = gaussian_points()
    net, process = Linear(spec), replace(CNP, latent=True)
    meta, over_sets = init(process, net), process._over_sets(spec)
    empty = batch._replace(query_x=batch.query_x[:, :0], query_y=batch.query_y[:, :0])
    posterior = over_sets.latent_of(meta.params, Context(batch.support_x, batch.support_y))
    z = drawn(posterior, batch.key, 2)
    update = process.meta_gradient(net, meta, empty, 0)
    out = over_sets.decode(meta.params, Context(batch.support_x, batch.support_y), z, batch.support_x)
    log_p = -5 * torch.stack([task_loss(spec, out[:, :, k], batch.support_y) for k in range(2)], 1)
    torch.testing.assert_close(update.loss, -(log_p.logsumexp(1) - math.log(2)) / 5)  # no divergence
    assert log_density(posterior, z).shape == (3, 2)


def test_attention_to_equal_keys_is_a_mean_and_to_each_head_its_own() -> None:
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, size, 6, generator=rng, dtype=torch.float64) for size in (3, 4, 4))
    mask = torch.tensor([[True, True, False, True], [True] * 4])
    means = torch.stack([value[0, mask[0]].mean(0), value[1].mean(0)])
    seen = attend(query, key[:, :1].expand(-1, 4, -1), value, 3, mask.unsqueeze(1))
    torch.testing.assert_close(seen, means.unsqueeze(1).expand(-1, 3, -1), rtol=1e-12, atol=1e-12)
    heads = [
        torch.nn.functional.scaled_dot_product_attention(
            *(part[..., 2 * h : 2 * h + 2] for part in (query, key, value))
        )
        for h in range(3)
    ]
    torch.testing.assert_close(attend(query, key, value, 3, None), torch.cat(heads, -1), rtol=1e-12, atol=1e-12)


def test_a_test_is_scored_by_the_mixture_of_its_samples() -> None:
    spec, batch = gaussian_points()
    learner = Learner(replace(CNP, latent=True), Linear(spec), Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    scores = learner.evaluate(batch, [BatchNorm.running])[BatchNorm.running]
    predict = learner.adapt(batch.support)
    out = predict(batch.query_x, BatchNorm.running)
    assert out.shape == (3, 4, 3, 2)
    densities = [Normal(*Gaussian().moments(out[:, :, z])).log_prob(batch.query_y).exp() for z in range(3)]
    expected = (sum(densities) / 3).log().mean((1, 2))  # type: ignore[union-attr]
    torch.testing.assert_close(scores.metric[:, -1], expected)
    assert {"mse", "crps", "coverage_90"} <= scores.beside.keys()


def test_what_it_cannot_do_is_said() -> None:
    spec, _ = gaussian_points()
    values = spec._replace(outputs=1, train_outputs=1, likelihood=SquaredError())
    with pytest.raises(UserError, match=r"algo\.latent=true needs a density: give task\.likelihood=gaussian"):
        init(replace(CNP, latent=True), Linear(values))
    init(CNP, Linear(values))
    with pytest.raises(UserError, match=r"algo\.width as a multiple of algo\.heads, and they are 4, 6 and 4"):
        replace(CNP, attention=True, heads=4)
