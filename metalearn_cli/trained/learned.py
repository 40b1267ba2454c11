"""What was learned, as the network that a new task, or somebody else, takes."""

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, Meta
from metalearn_cli.algorithms.capabilities import network, require_way
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import CONTEXT, Net, Params, with_outputs


def for_way(algo: Algorithm, net: Net, meta: Meta, way: int) -> tuple[Net, Meta, str]:
    """Adapt the network and what was learned to tasks of `way` classes, and say in a sentence what was done: what has a
    row for each class (the head, its learned rates, its slots) gets the mean of the learned rows for every class."""
    trained = net.spec
    if way == trained.outputs == trained.train_outputs:
        return net, meta, ""
    other = with_outputs(net, way)
    expected = algo.init(other, torch.Generator())
    pairs = list(zip(meta, expected, strict=True))
    if all(part[name].shape == to[name].shape for part, to in pairs for name in to):
        return other, meta, ""
    require_way(algo, trained.outputs, way)
    is_fewer = trained.padded and not trained.one_way and way < trained.outputs  # the training had such tasks

    def resized(value: Tensor, to: Tensor) -> Tensor:
        if value.shape == to.shape:
            return value
        return value[:way] if is_fewer else value.mean(0, keepdim=True).expand(to.shape)

    meta = Meta(*({name: resized(value, to[name]) for name, value in part.items()} for part, to in pairs))
    note = f"trained with {trained.outputs} classes and not {way}: each starts at the mean of the rows of the head"
    return other, meta, "" if is_fewer else note


def learned_network(algo: Algorithm, net: Net, meta: Meta) -> tuple[Net, Params, Params]:
    """The network before it adapts to a task, its parameters and its running statistics; without its head, where that
    is not learned, and with outputs for all training classes, where those were. Raises UserError where none is
    learned."""
    learned, head = network(algo, meta), {name for name in net.shapes if name.startswith("head.")}
    if CONTEXT in net.shapes:  # what a task sets begins at 0
        learned = {CONTEXT: next(iter(learned.values())).new_zeros(net.shapes[CONTEXT])} | learned
    names = [name for name in net.shapes if name not in head or head <= learned.keys()]
    if not learned.keys() >= set(names):
        raise UserError(
            f"{type(algo).__name__} starts each task with a network that it draws, and has learned none: take a run of "
            "another algorithm, such as algo=maml or algo=protonet"
        )
    params, stats = {name: learned[name] for name in names}, {name: meta.buffers[name] for name in net.init_stats()}
    is_of_all = any(value.shape != net.shapes[name] for name, value in params.items())
    return with_outputs(net, net.spec.base or 0) if is_of_all else net, params, stats
