"""A model for tasks of another number of classes than it was trained on."""

import torch

from metalearn_cli.algorithms.base import Algorithm, Meta
from metalearn_cli.nets.base import Net, Params, with_outputs
from metalearn_cli.tasks.base import Spec


def for_way(algo: Algorithm, net: Net, meta: Meta, way: int) -> tuple[Net, Meta, str]:
    """The network and what was learned for tasks of `way` classes, and what was done to them in a sentence.

    What has a row for each class (the head, its learned rates, its slots) gets the mean of the learned rows for every
    class; nothing else is another one for another way.
    """
    trained: Spec = net.spec
    if way == trained.outputs == trained.train_outputs:
        return net, meta, ""
    other = with_outputs(net, way)
    wanted = algo.init(other, torch.Generator())
    rows = [name for part, to in zip(meta, wanted, strict=True) for name in to if part[name].shape != to[name].shape]
    if not rows:
        return other, meta, ""
    algo.require_way(trained.outputs, way)
    fewer = trained.padded and way < trained.outputs  # as its own tasks had them

    def resized(part: Params, to: Params) -> Params:
        return {
            name: value
            if value.shape == to[name].shape
            else value[:way]
            if fewer
            else value.mean(0, keepdim=True).expand(way, *value.shape[1:])
            for name, value in part.items()
        }

    meta = Meta(*(resized(part, to) for part, to in zip(meta, wanted, strict=True)))
    if fewer:
        return other, meta, ""
    note = f"trained with {trained.outputs} classes and not {way}: each starts at the mean of the rows of the head"
    return other, meta, note
