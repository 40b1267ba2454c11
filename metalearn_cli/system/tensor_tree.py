"""Trees (tuples, lists, dicts) of tensors and other values, taken apart and put together."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Tree = Any  # tensors, in tuples, lists and dicts


def take_tensors(tree: Tree) -> tuple[list[Tensor], Callable[[Iterable[Tensor]], Tree]]:
    """The tensors of a tree in order, and a function that makes the same tree of other tensors."""
    leaves, structure = tree_flatten(tree)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    others = [(isinstance(leaf, Tensor), None if isinstance(leaf, Tensor) else leaf) for leaf in leaves]

    def put(tensors: Iterable[Tensor]) -> Tree:
        remaining = iter(tensors)
        return tree_unflatten([next(remaining) if is_tensor else leaf for is_tensor, leaf in others], structure)

    return tensors, put
