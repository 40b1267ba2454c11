"""The compiled step is the eager one. Compiling takes seconds: the settings that are not here are behind `nightly`."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from commands import refuse, succeed
from places import ROOT
from problems import ALGORITHMS, DOUBLE, ON_MAPS, Module, images, points
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from metalearn_cli.algorithms.base import Algorithm, Meta, Update
from metalearn_cli.algorithms.cavia import CAVIA
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution, NonFinite
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.resnet12 import ResNet12
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.optimizer import Method, Optimizer
from metalearn_cli.system.compiled import _PLAIN, unchanged
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tuning.autotune import still_learner

# The warnings are torch's own, of what it imports to compile.
pytestmark = [
    pytest.mark.usefixtures("inductor_cache"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def pair(algorithm: Algorithm, net: Net, optimizer: Optimizer, chunk: int | None = None) -> tuple[Learner, Learner]:
    """The same learner, eager and compiled."""
    eager, compiled = (
        Learner(
            *(algorithm, net, optimizer, torch.Generator().manual_seed(0)),
            DOUBLE._replace(tasks_per_chunk=chunk, compile=compile),
        )
        for compile in (False, True)
    )
    return eager, compiled


def assert_equal(eager: Learner, compiled: Learner, batches: list[Batch]) -> None:
    """After each step; the batches' losses, then everything that was learned."""
    for step, batch in enumerate(batches):
        torch.testing.assert_close(compiled.step(batch, step), eager.step(batch, step), rtol=1e-10, atol=1e-12)
    expected, actual = eager.state_dict(), compiled.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-12, msg=name)


class Stepwise(MAML):
    """The gradient depends on the number of the step, which must not be a constant of the compiled code."""

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        update = super().meta_gradient(net, meta, batch, step, carry)
        return update._replace(gradient={name: (step + 1) * value for name, value in update.gradient.items()})


def test_a_compiled_step_is_the_eager_one_and_stops_like_it() -> None:
    optimizer = Optimizer(Method.sgd, lr=0.01, momentum=0.9, weight_decay=0.1, clip_value=1.0, clip_norm=0.5)
    eager, compiled = pair(Stepwise(), MLP(points()[0], (4,)), optimizer)
    batches = [points(seed=seed)[1] for seed in range(3)]
    before = {name: value.clone() for name, value in compiled.state_dict().items()}
    compiled.warm_up(batches[0], 0)
    assert all(torch.equal(value, before[name]) for name, value in compiled.state_dict().items())
    assert_equal(eager, compiled, batches)
    kept = {name: value.clone() for name, value in compiled.state_dict().items()}
    bad = batches[0].query_y.clone()
    bad[1, 0] = float("nan")
    with pytest.raises(NonFinite) as failure:
        compiled.step(batches[0]._replace(query_y=bad), 3)
    assert (failure.value.what, failure.value.step, failure.value.tasks) == ("loss", 3, [1])
    assert all(torch.equal(value, kept[name]) for name, value in compiled.state_dict().items())


@pytest.mark.parametrize("stopped", [0.0, 1.0])
@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(lr=0.1),
        Optimizer(weight_decay=0.2, clip_norm=0.1),
        Optimizer(Method.adamw, weight_decay=0.2, clip_value=0.1),
        Optimizer(Method.sgd),
        Optimizer(Method.sgd, momentum=0.9, weight_decay=0.2),
        Optimizer(Method.sgd, momentum=0.9, nesterov=True),
        Optimizer(Method.sgd, momentum=0.9, dampening=0.5, rates=("1:3",)),
        Optimizer(Method.adamw, weight_decay=0.2, decay_norms=False, eps=1e-3),
    ],
)
def test_an_optimizer_in_plain_operations_is_the_fused_one(optimizer: Optimizer, stopped: float) -> None:
    """What is recorded, run as it stands, without a compiler."""
    rng = torch.Generator().manual_seed(0)
    fused = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 6), (), (3,))]
    plain = [param.clone() for param in fused]
    fused_slots, plain_slots = optimizer.slots(fused), optimizer.slots(plain)
    rate, flag = torch.tensor(0.01, dtype=torch.float64), torch.tensor(stopped)

    def step(*tensors: Tensor) -> None:
        tree = iter(tensors)
        params, gradient = [next(tree) for _ in plain], [next(tree) for _ in plain]
        slots = {name: [next(tree) for _ in plain] for name in plain_slots}
        optimizer.update(named(params), gradient, slots, next(tree), next(tree))

    def named(params: list[Tensor]) -> dict[str, Tensor]:
        return {str(place): param for place, param in enumerate(params)}

    recorded: Any = None
    for _ in range(3):
        gradient = [torch.randn(param.shape, generator=rng, dtype=torch.float64) for param in fused]
        inputs = [*plain, *gradient, *(value for values in plain_slots.values() for value in values), rate, flag]
        if recorded is None:
            with unchanged(inputs):
                recorded = make_fx(step, decomposition_table=_PLAIN)(*inputs)
        recorded(*inputs)
        optimizer.update(named(fused), gradient, fused_slots, rate, flag)
    assert not any("fused" in str(node.target) for node in recorded.graph.nodes)
    torch.testing.assert_close((plain, plain_slots), (fused, fused_slots), rtol=1e-12, atol=1e-14)


class Thrice(Pretrain):
    """Three updates from one meta-batch, by a number and a tensor that are carried."""

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        update = super().meta_gradient(net, meta, batch, step)
        turn, loss = carry or (0, update.loss)
        gradient = {name: (turn + loss.sum()) * value for name, value in update.gradient.items()}
        return update._replace(gradient=gradient, carry=(turn + 1, loss + 1) if turn < 2 else None)


@pytest.mark.nightly
def test_what_is_carried_and_another_number_of_tasks_are_compiled_apart() -> None:
    eager, compiled = pair(Thrice(), Linear(points()[0]), Optimizer())
    assert_equal(eager, compiled, [points(seed=seed)[1] for seed in range(2)])
    assert_equal(eager, compiled, [points(tasks=2)[1]])


SPEC = images()[0]
NETS = [MLP(SPEC, (4,), batch_norm=True), Conv4(SPEC, filters=2), module_net(Module, SPEC, {})]
DROPPING = [Conv4(SPEC, filters=2, dropout=0.3), ResNet12(SPEC, (2, 2, 2, 2), drop_block=0.3, drop_size=2)]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("algorithm", "net"),
    [
        *itertools.product(ALGORITHMS, NETS),
        *itertools.product([MAML(inner_steps=2), ProtoNet()], DROPPING),
        *((algorithm, NETS[1]) for algorithm in ON_MAPS),
        (CAVIA(inner_steps=2), Conv4(SPEC, filters=2, context=2)),
    ],
)
def test_every_algorithm_on_every_network(algorithm: Algorithm, net: Net) -> None:
    if isinstance(algorithm, LearnedOptimizer):
        algorithm = replace(algorithm, horizon=4)
    # Not Adam, whose step is of one size even where the exact derivative is zero, as that of a bias before batch norm.
    eager, compiled = pair(algorithm, net, Optimizer(Method.sgd, lr=0.1, momentum=0.9), chunk=2)
    assert_equal(eager, compiled, [images(seed=seed)[1] for seed in range(3)])


class Looking(MAML):
    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        update = super().meta_gradient(net, meta, batch, step, carry)
        return update if update.loss.sum() > 0 else update._replace(gradient=meta.params)


def test_an_algorithm_that_decides_by_a_value_is_refused_and_nothing_has_changed() -> None:
    compiled = Learner(Looking(), MLP(points()[0]), Optimizer(), torch.Generator(), Execution(compile=True))
    before = {name: value.clone() for name, value in compiled.state_dict().items()}
    with pytest.raises(UserError, match=r"this step cannot be compiled \(RuntimeError: .*: give compile=false"):
        compiled.step(points()[1], 0)
    assert all(torch.equal(value, before[name]) for name, value in compiled.state_dict().items())


COMMAND = ["train", "task=sinusoid", "algo=maml", "name=run"]


def test_without_a_compiler_it_is_said_before_anything_begins(tmp_path: Path) -> None:
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert "compile=true needs a C++ compiler" in refuse(tmp_path, *COMMAND, "compile=true")
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_compiles_nothing_does_not_import_the_compiler(tmp_path: Path) -> None:
    """It takes a second of each start."""
    code = "from metalearn_cli.cli import main; main(['train', 'debug=quick', 'threads=1', 'steps=1']); "
    code += "import sys, torch; assert torch.are_deterministic_algorithms_enabled(); "
    code += "sys.exit('torch._inductor' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment).returncode == 0


def test_a_test_is_never_compiled(tmp_path: Path) -> None:
    """Of a compiled run, where there is no compiler; nor of a run of a version without the key."""
    short = ["steps=1", "model.hidden=[4]", "test_episodes=4", "eval_every=0", "select=last"]
    succeed(tmp_path, *COMMAND, *short)
    path = tmp_path / "outputs/run/config.yaml"
    config = path.read_text()
    for other in ("compile: true\ncuda_graph: true\n", ""):
        path.write_text(config.replace("compile: false\ncuda_graph: false\n", other))
        assert path.read_text() != config
        with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
            succeed(tmp_path, "eval", "run=outputs/run", "test_episodes=8")


def test_what_is_timed_at_the_start_is_not_compiled() -> None:
    assert still_learner(load_job(["compile=true"]), None)._runner._number is None


def test_each_is_for_its_own_device(tmp_path: Path) -> None:
    said = refuse(tmp_path, *COMMAND, "cuda_graph=true", "device=cpu")
    assert said == "metalearn: cuda_graph=true is for a GPU, and this run is on cpu: give cuda_graph=false"
    with pytest.raises(UserError, match="compile=true is for the CPU, and this run is on meta"):
        Learner(MAML(), MLP(points()[0]), Optimizer(), torch.Generator(), Execution(torch.device("meta"), compile=True))


# What can be tried of a CUDA graph without a GPU: a capture that runs three times before, and a replay that runs.


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []

    def capture(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        made.append(1)
        for _ in range(4):
            run()
        return run

    monkeypatch.setattr("metalearn_cli.system.cuda_graph._capture", capture)
    monkeypatch.setattr("metalearn_cli.learning.step.require_gpu", lambda device: None)
    return made


def test_a_captured_step_is_the_eager_one(captures: list[int]) -> None:
    net = MLP(images()[0], (4,), batch_norm=True)
    optimizer = Optimizer(clip_norm=0.1)
    eager, captured = (
        Learner(Stepwise(), net, optimizer, torch.Generator().manual_seed(0), Execution(cuda_graph=cuda_graph))
        for cuda_graph in (False, True)
    )
    for step, tasks in enumerate((3, 3, 2, 2)):
        batch = images(tasks=tasks, seed=step)[1]
        assert torch.equal(captured.step(batch, step), eager.step(batch, step))
    actual = captured.state_dict()
    assert all(torch.equal(value, actual[name]) for name, value in eager.state_dict().items())
    assert len(captures) == 2


def test_an_algorithm_with_several_updates_is_not_captured(captures: list[int]) -> None:
    algorithm = LearnedOptimizer((2,), unroll=1, horizon=2)
    captured = Learner(algorithm, Linear(points()[0]), Optimizer(), torch.Generator(), Execution(cuda_graph=True))
    before = {name: value.clone() for name, value in captured.state_dict().items()}
    with pytest.raises(UserError, match="several updates from one meta-batch"):
        captured.step(points()[1], 0)
    assert all(torch.equal(value, before[name]) for name, value in captured.state_dict().items())
