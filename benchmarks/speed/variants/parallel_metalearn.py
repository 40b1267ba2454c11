"""parallel-metalearn 0.5.6, as its readme has it. Option: its chunk_size (80 without), or `sequential`."""

from typing import Any

import torch
import torch.nn.functional as F
from metalearn.algorithms import MAML
from metalearn.inner_optimizers import InnerSGD
from metalearn.loss import CategoricalAccuracy, CrossEntropy
from metalearn.loss.base import BaseLoss
from metalearn.model_wrappers import MAML_Model
from metalearn.nn_models.basic_layers.BatchNormalization import BatchNorm
from torch import Tensor, nn

from benchmarks.speed import nets
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload


class _Layers(nn.Module):
    """Only its own batch norm takes the wrapper's keyword arguments."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, **options) if isinstance(layer, BatchNorm) else layer(x)
        return x


class _SquaredError(BaseLoss):  # type: ignore[misc]
    def forward(self, out_dict: dict[str, Tensor], targets: dict[str, Tensor], **_: Any) -> tuple[Tensor, Tensor]:
        loss = F.mse_loss(out_dict["logits"], targets["labels"])
        return loss, loss.detach()


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "maml":
        raise Unsupported("was measured for MAML only")
    torch.set_default_dtype(nets.dtype(setting))  # of its inner learning rate
    *body, head = (_with_own_norm(layer) for layer in nets.network(w, setting))
    model = MAML_Model(backbone=_Layers(body), head=_Layers([head]))
    algorithm = MAML(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), 1e-3),
        inner_optimizer=InnerSGD(
            initial_fast_weights=model.get_fast_weights(),
            inner_lr=w.inner_lr,
            first_order=w.first_order,
            learn_lr=False,
        ),
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()) if w.size else _SquaredError(),
        inner_steps=w.steps,
        chunk_size=int(setting.option) if setting.option.isdigit() else 80,
        backend="sequential" if setting.option == "sequential" else "vmap",
        device=torch.device(setting.device),
    )
    xs, ys, xq, yq = nets.batch(w, setting)
    batch = (xs, {"labels": ys}, xq, {"labels": yq})
    return nets.runner(lambda: _step(algorithm, batch), list(model.parameters()), setting)


def _step(algorithm: Any, batch: tuple[Any, ...]) -> None:
    algorithm.step(iter([batch]), training=True)


def _with_own_norm(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.BatchNorm2d):
        return layer
    norm: nn.Module = BatchNorm(layer.num_features, track_running_stats=False).to(layer.weight)
    norm.load_state_dict(layer.state_dict())
    return norm
