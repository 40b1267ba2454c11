"""What `precision` changes, and what stays float32."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from commands import refuse, succeed
from problems import BY_FAMILY, images, init, points, relative_error
from torch import nn

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.proto_maml import ProtoMAML
from metalearn_cli.algorithms.tpn import TPN
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.bfloat16 import Reduced
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.system.console import Console
from metalearn_cli.system.device import Precision, check_precision
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tuning.prepare import prepare

SPEC, IMAGES = images(size=28, query=4)


NETS: list[Net] = [Conv4(SPEC, filters=4), MLP(SPEC, (8,), batch_norm=True)]


def single(meta: Meta, batch: Batch) -> tuple[Meta, Batch]:
    """In float32."""
    params = {name: value.detach().float().requires_grad_() for name, value in meta.params.items()}
    return Meta(params, {name: value.float() for name, value in meta.buffers.items()}), batch.to(torch.float32)


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=lambda algorithm: type(algorithm).__name__)
def test_all_but_the_products_stays_float32(algorithm: Algorithm, net: Net) -> None:
    meta, batch = single(init(algorithm, net), IMAGES)
    exact = algorithm.meta_gradient(net, meta, batch, 0)
    reduced = algorithm.meta_gradient(Reduced(net.spec, net), meta, batch, 0)
    for part in ("gradient", "buffers"):
        for name, value in getattr(reduced, part).items():
            assert value.dtype is torch.float32, name
            assert value.isfinite().all(), name
    assert reduced.loss.dtype is torch.float32
    rounding = 0.3 if isinstance(algorithm, ProtoMAML | TPN) else 0.1  # these multiply that of the features
    torch.testing.assert_close(reduced.loss, exact.loss, rtol=rounding, atol=rounding)
    assert not torch.equal(reduced.loss, exact.loss)
    for adapted in algorithm.adapt(Reduced(net.spec, net), meta, batch.support, 1):
        for mode in BatchNorm:
            assert adapted(batch.query_x, mode).dtype is torch.float32


def gradient(algorithm: Algorithm, net: Net, meta: Meta, batch: Batch) -> Params:
    return {name: value.double() for name, value in algorithm.meta_gradient(net, meta, batch, 0).gradient.items()}


def test_the_second_order_is_there_in_bfloat16() -> None:
    """Nearer to the exact meta-gradient than the first-order one by far, and not as near as float32."""
    net = Conv4(SPEC, filters=16)
    second, first = MAML(inner_lr=0.5), MAML(inner_lr=0.5, first_order=True)
    meta = init(second, net)
    exact = gradient(second, net, meta, IMAGES)
    at32 = single(meta, IMAGES)
    error = relative_error(gradient(second, Reduced(SPEC, net), *at32), exact)
    assert 1e-3 < error < 0.5 * relative_error(gradient(first, net, meta, IMAGES), exact)
    assert relative_error(gradient(second, net, *at32), exact) < 1e-3


def test_a_users_module_is_refused() -> None:
    """Its convolutions would silently stay as they are."""

    class Flat(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(28 * 28, SPEC.outputs))

    with pytest.raises(UserError, match="precision=bf16 does not reach the convolutions of Flat"):
        Reduced(SPEC, module_net(Flat, SPEC, {}))


def test_products_of_values_are_reduced_too() -> None:
    spec, batch = points()
    net = MLP(spec)
    meta, batch = single(init(MAML(), net), batch)
    reduced = net.features(meta.params, batch.query_x)[0], Reduced(spec, net).features(meta.params, batch.query_x)[0]
    torch.testing.assert_close(*reduced, rtol=0.05, atol=0.05)
    assert not torch.equal(*reduced)


@pytest.mark.nightly
@pytest.mark.usefixtures("packed_omniglot")
def test_a_run_in_bfloat16_trains_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    small = ["task=omniglot", "model.filters=4", "task.query=2", "debug=quick", "threads=1", "other_batch_norm=[]"]
    for name, precision in (("exact", "fp32"), ("straight", "bf16")):
        done = succeed(tmp_path, "train", *small, f"precision={precision}", f"name={name}")
        assert f" on omniglot, cpu, {precision}, " in done.err
    for steps in (10, 20):
        succeed(tmp_path, "train", *small, "precision=bf16", f"steps={steps}", "name=cut")
    runs = [tmp_path / "outputs" / name for name in ("straight", "cut", "exact")]
    straight, cut, exact = ([path.name for path in run.glob("checkpoints/step-00000020-*")] for run in runs)
    assert straight == cut != exact
    lines = [map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) for run in runs]
    losses = [[line["train/loss"] for line in each if "train/loss" in line] for each in lines]
    assert losses[0] == pytest.approx(losses[2], rel=0.1)
    assert "precision: bf16" in (runs[0] / "config.yaml").read_text()
    # Another precision is another run; a test may take one of its own.
    assert "precision: bf16 -> fp32" in refuse(tmp_path, "train", *small, "precision=fp32", "name=cut")
    succeed(tmp_path, "eval", "run=outputs/cut", "precision=fp32")


def test_the_learner_of_another_precision_keeps_float32_parameters() -> None:
    learner = new_learner(load_job(["precision=bf16", "device=cpu"]))
    assert isinstance(learner.net, Reduced)
    assert {value.dtype for value in learner.state_dict().values()} == {torch.float32}
    assert not isinstance(new_learner(load_job(["precision=fp32", "device=cpu"])).net, Reduced)


@pytest.fixture
def _settings() -> Iterator[None]:
    """Of the whole process, as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before[:2]
    torch.use_deterministic_algorithms(before[2])
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_settings")
def test_fp32_has_no_tf32_anywhere() -> None:
    """torch's own start has it in the convolutions of a GPU."""
    for precision, expected in (("fp32", False), ("tf32", True), ("fp64", False), ("bf16", False)):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not expected
        job = load_job([f"precision={precision}", "threads=1", "allocator=default"])
        prepare(job, None, Console())
        for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
            assert (backend.fp32_precision == "tf32") is expected
        assert torch.utils.deterministic.fill_uninitialized_memory is False  # type: ignore[attr-defined]


def test_a_gpu_without_such_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for precision in (Precision.tf32, Precision.bf16):
        with pytest.raises(UserError, match=f"precision={precision.name} needs .* not Tesla T4: take fp32"):
            check_precision(precision, gpu)
    check_precision(Precision.fp32, gpu)
    check_precision(Precision.fp64, gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_precision(Precision.tf32, gpu)
