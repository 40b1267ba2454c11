"""How fast a training step of TNP-D, CNP and ANP is, beside what their users run: the table of docs/speed.md.

    benchmarks/speed/install.sh VENV && VENV/bin/pip install neuralprocesses==0.2.7
    PYTHONPATH=. VENV/bin/python benchmarks/set_networks.py [ROUNDS]

TNP-D: the formulation of the authors' code (context and targets are one sequence of torch's TransformerEncoder, with a
mask), in its sizes. CNP and ANP: neuralprocesses, with widths for which a step multiplies as much as ours, or more. All
see one fixed batch of 16 tasks with 25 context and 12 target points; a step is the forward, the backward and Adam's.
Each round times ten steps of both, one thread, in CPU seconds. A ratio is the median over the rounds, with its
quartiles.

Shapes: T tasks, S points of the context, Q targets.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from pretrained import table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.system.console import Console
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tuning.prepare import prepare

T, S, Q = 16, 25, 12
STEPS = 10  # that are timed at once


class EncoderTNP(nn.Module):
    """TNP-D as one sequence of tokens, in which each token sees the context."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        embed: list[nn.Module] = [nn.Linear(2, width)]
        for _ in range(3):
            embed += [nn.ReLU(), nn.Linear(width, width)]
        self.embed = nn.Sequential(*embed)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=6)
        self.predict = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, batch: Batch) -> Tensor:
        """The loss of the targets."""
        shot = batch.support_x.shape[1]
        known = torch.cat([batch.support_x, batch.support_y], -1)
        asked = torch.cat([batch.query_x, torch.zeros_like(batch.query_y)], -1)
        tokens = torch.cat([known, asked], 1)
        unseen = torch.full((tokens.shape[1],) * 2, float("-inf"))
        unseen[:, :shot] = 0
        out = self.encoder(self.embed(tokens), mask=unseen)[:, shot:]
        mean, raw = self.predict(out).chunk(2, -1)
        return -torch.distributions.Normal(mean, raw.exp()).log_prob(batch.query_y).mean()


class NeuralProcesses(nn.Module):
    """A model of the library neuralprocesses: CNP, or an ANP with a latent variable. Context and targets are predicted,
    the latent variable by four samples from its posterior, as ours has it."""

    def __init__(self, batch: Batch, is_latent: bool, width: int, enc_layers: int) -> None:
        super().__init__()
        import neuralprocesses.torch as nps

        sizes = {"width": width, "dim_embedding": width, "num_enc_layers": enc_layers, "num_dec_layers": 3}
        if is_latent:
            self.model = nps.construct_agnp(dim_x=1, dim_y=1, likelihood="het", dim_lv=width, **sizes)
            self.score = partial(nps.elbo, self.model, num_samples=4, subsume_context=True)
        else:
            self.model = nps.construct_gnp(dim_x=1, dim_y=1, likelihood="het", **sizes)
            self.score = partial(nps.loglik, self.model)
        self(batch)  # makes its layers

    def forward(self, batch: Batch) -> Tensor:
        context, target = (
            (x.mT.contiguous(), y.mT.contiguous())  # [T, 1, S], [T, 1, Q]
            for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y))
        )
        if self.score.func.__name__ != "elbo":
            target = tuple(torch.cat(parts, 2) for parts in zip(context, target, strict=True))
        loss: Tensor = -self.score([context], *target, normalise=True).mean()
        return loss


def fixed_batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(T, number, 1, generator=rng) for number in (S, S, Q, Q)]
    return Batch(*parts, torch.arange(T))


def ours(preset: str, batch: Batch) -> Callable[[], None]:
    job = prepare(load_job([f"experiment={preset}", "threads=1"]), None, Console(is_silent=True))
    learner = new_learner(job)
    return lambda: learner.step(batch, 0)


def theirs(module: nn.Module, batch: Batch) -> Callable[[], None]:
    optimizer = torch.optim.Adam(module.parameters(), 5e-4)

    def step() -> None:
        optimizer.zero_grad()
        module(batch).backward()
        optimizer.step()

    return step


def products(step: Callable[[], None]) -> float:
    """Multiplications of a step, in millions."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2e6


def seconds(step: Callable[[], None]) -> float:
    began = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - began) / STEPS


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    batch = fixed_batch()
    peers = {
        "tnp/rbf": ("TransformerEncoder", EncoderTNP),
        "cnp/rbf": ("neuralprocesses", partial(NeuralProcesses, batch, False, 128, 4)),
        "anp/rbf": ("neuralprocesses", partial(NeuralProcesses, batch, True, 120, 3)),
    }
    rows = [["preset", "peer", "products, ours", "theirs", "ms a step, ours", "theirs", "ratio (quartiles)"]]
    for preset, (name, make) in peers.items():
        both = ours(preset, batch), theirs(make(), batch)
        counted = [products(step) for step in both]  # before the clock runs: first steps take longer
        took = np.array([[seconds(step) for step in both] for _ in range(rounds)])
        low, middle, high = np.quantile(took[:, 1] / took[:, 0], [0.25, 0.5, 0.75])
        ms = [f"{1e3 * value:.1f}" for value in np.median(took, 0)]
        work = [f"{value:.0f} M" for value in counted]
        rows.append([preset, name, *work, *ms, f"{middle:.2f} ({low:.2f} to {high:.2f})"])
    table(f"{T} tasks, {S} + {Q} points, {rounds} rounds", rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
