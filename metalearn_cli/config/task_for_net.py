"""The task that a configuration describes, and as the run's network takes it."""

import torch
from omegaconf import DictConfig

from metalearn_cli.backbones.feature_cache import Embedding
from metalearn_cli.config import schema
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.pretrained import Pretrained
from metalearn_cli.tasks.base import Spec, TaskDistribution
from metalearn_cli.tasks.capabilities import check_split, task_count
from metalearn_cli.tasks.embedded import embedded_images
from metalearn_cli.tasks.likelihood import Categorical, Likelihood
from metalearn_cli.tasks.resized import ResizedImages, can_resize


def build_task(node: DictConfig | Config, source: ConfigSource) -> TaskDistribution:
    """The task that a configuration's `task` describes. Its data may be read."""
    task: TaskDistribution = schema.build(node, "task", TaskDistribution, source)
    if not isinstance(given := task.spec.likelihood, Likelihood):  # of a class that was written for an earlier version
        raise UserError(
            f"task._target_={node['_target_']} has the likelihood {given!r} in its spec: give Categorical(), "
            "SquaredError() or Gaussian() of metalearn_cli.tasks.likelihood"
        )
    return task


def as_wanted(task: TaskDistribution, net: Net) -> TaskDistribution:
    """The task as a network with weights wants it: its pictures in the network's size, or, where the network stays as
    it is, features of them. Every other network has it as it is."""
    if not isinstance(net, Pretrained):
        return task
    backbone, given = net.backbone, task.spec.input_shape
    shape = (3, backbone.size, backbone.size)
    if not can_resize(task.spec, shape):
        vectors = ": vectors are for model=identity" if len(given) == 1 and task.spec.kind == "classes" else ""
        raise UserError(
            f"model=pretrained ({net.name}) needs classes of pictures, and this task has {task.spec.kind} of examples "
            f"of shape {list(given)}{vectors}"
        )
    if net.frozen:
        return embedded_images(task, embedding_of(net))
    return task if given == shape else ResizedImages(task, shape, backbone.resample)


def embedding_of(net: Pretrained) -> Embedding:
    return Embedding(net.backbone, net.runtime, getattr(torch, net.dtype.name))


def size_wanted(composed: DictConfig, source: ConfigSource) -> Config:
    """The keys of a task that can choose the size of its pictures, as a network with weights wants them: without those
    that the command names."""
    keys = {"size", "channels", "resample"}
    if composed.model.get("_target_") != schema.path_of(Pretrained) or not keys <= composed.task.keys():
        return {}
    net: Pretrained = schema.build(composed.model, "model", Net, source, Spec((3, 1, 1), 1, 1, Categorical()))
    wanted = {"size": net.backbone.size, "channels": 3, "resample": net.backbone.resample}
    return {key: value for key, value in wanted.items() if f"task.{key}" not in source.given_keys}


def why_no_validation(task: TaskDistribution, name: str) -> str | None:
    """Say why the task of this name has no validation tasks; None where it has some."""
    if "val" not in task.splits:
        what = "classes" if task_count(task, "test") is None else "tasks"
        return f"task={name} has no validation {what} with this split"
    try:
        check_split(task, "val")
    except UserError as sentence:
        return str(sentence)
    return None
