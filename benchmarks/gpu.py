"""The same tasks, gradients and resume on a device as on the CPU; a table on stdout, exit 1 where one differs.

No data are needed: Omniglot's episodes are drawn from its list, over random pixels.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, Meta
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.seeding import generator, uniform
from metalearn_cli.system.device import resolve_device
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.gather import gather_episodes
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.sinusoid import Sinusoid

CPU = torch.device("cpu")
PIXELS = torch.randint(256, (32460, 1, 28, 28), generator=generator("gpu"), dtype=torch.uint8)


def omniglot(device: torch.device, tasks: int, step: int = 0, **fields: int) -> tuple[Spec, Batch]:
    task = Omniglot(replace(Omniglot.episodes, **fields))
    return task.spec, gather_episodes(task.draw(tasks, "train", generator(0, step)), PIXELS.to(device))


def sinusoid(device: torch.device, tasks: int, step: int = 0) -> tuple[Spec, Batch]:
    task = Sinusoid()
    return task.spec, task.gather(task.draw(tasks, "train", generator(0, step)), device)


def problems(device: torch.device) -> dict[str, tuple[Algorithm, Net, Batch]]:
    """Small enough to run in float64 on any card."""
    points_spec, points = sinusoid(device, 25)
    spec, images = omniglot(device, 4, query=3)
    stride = Conv4(spec, filters=16, downsample=Downsample.stride, spatial_mean=True, gamma=False)
    return {
        "maml, sinusoid, 3 steps": (MAML(inner_steps=3), MLP(points_spec), points),
        "maml, conv4, 2 steps": (MAML(inner_lr=0.1, inner_steps=2), Conv4(spec, filters=16), images),
        "maml first order, conv4": (MAML(inner_lr=0.1, first_order=True), Conv4(spec, filters=16), images),
        "maml, conv4 with stride": (MAML(inner_lr=0.1), stride, images),
        "protonet, conv4": (ProtoNet(), Conv4(spec, filters=16), images),
        "matching, fce, conv4": (Matching(fce=True), Conv4(spec, filters=16), images),
        "meta_sgd, conv4": (MetaSGD(), Conv4(spec, filters=16), images),
        "reptile, conv4": (Reptile(inner_steps=3, inner_batch=4), Conv4(spec, filters=16), images),
        "meta_lstm, conv4": (MetaLSTM(inner_steps=3), Conv4(spec, filters=8), images),
        "learned optimizer, sinusoid": (LearnedOptimizer(unroll=5, horizon=10), MLP(points_spec), points),
    }


def same_tasks(device: torch.device) -> float:
    """The largest difference between a batch gathered on the CPU and on the device."""
    worst = 0.0
    for make in (lambda d: sinusoid(d, 25)[1], lambda d: omniglot(d, 8)[1]):
        for here, there in zip(make(CPU), make(device), strict=True):
            worst = max(worst, (here - there.cpu()).abs().max().item())
    key = torch.arange(1000)
    assert torch.equal(uniform(key, 3, shape=(7,)), uniform(key.to(device), 3, shape=(7,)).cpu())
    return worst


def gradient(algorithm: Algorithm, net: Net, batch: Batch, device: torch.device) -> Tensor:
    """The float64 meta-gradient as one vector on the CPU. Raises RuntimeError where the host waits for the device."""
    meta = algorithm.init(net, generator(0))
    params = {name: value.to(device, torch.float64).requires_grad_() for name, value in meta.params.items()}
    buffers = {name: value.to(device, torch.float64) for name, value in meta.buffers.items()}
    batch = batch.to(torch.float64)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        update = algorithm.meta_gradient(net, Meta(params, buffers), batch, 0)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return torch.cat([value.flatten().cpu() for value in update.gradient.values()])


def resumes(name: str, device: torch.device) -> bool:
    """Ten steps in one go, and five, a checkpoint, and five: the same file?"""
    algorithm, net, batch = problems(device)[name]

    def learner() -> Learner:
        return Learner(algorithm, net, Optimizer(), generator(0), Execution(device))

    with tempfile.TemporaryDirectory() as folder:
        straight, first, second = learner(), learner(), learner()
        for step in range(10):
            straight.step(batch, step)
        for step in range(5):
            first.step(batch, step)
        second.load_state_dict(
            checkpoint.load_checkpoint(checkpoint.save(Path(folder), 5, first.state_dict(), {"best": None})).tensors
        )
        for step in range(5, 10):
            second.step(batch, step)
        ends = [checkpoint.save(Path(folder), 10, end.state_dict(), {"best": None}) for end in (straight, second)]
        return ends[0].name == ends[1].name


def main(device: torch.device) -> int:
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU itself"
    print(f"device: {name}, torch {torch.__version__}, deterministic kernels\n")
    difference = same_tasks(device)
    print(f"same tasks: largest difference {difference:.1e} (sinusoids' targets are computed on the device)")
    failed = difference > 1e-5

    print("\n| float64 meta-gradient | relative difference to the CPU | resumed to the bit |\n|---|---|---|")
    for problem, (algorithm, net, batch) in problems(device).items():
        here = gradient(algorithm, net, problems(CPU)[problem][2], CPU)
        there = gradient(algorithm, net, batch, device)
        error = ((there - here).norm() / here.norm()).item()
        same = resumes(problem, device)
        failed |= error > 1e-6 or not same
        print(f"| {problem} | {error:.1e} | {'yes' if same else 'NO'} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(resolve_device(sys.argv[1])))
