"""Trees (tuples, lists, dicts) of tensors and other values, taken apart and put together."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Tree = Any  # tensors, in tuples, lists and dicts


class Frame:
    """A tree without its tensors, into which others can be put."""

    def __init__(self, tree: Tree) -> None:
        leaves, self._structure = tree_flatten(tree)
        self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        self._others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]

    def put(self, tensors: Iterable[Tensor]) -> Tree:
        """The tree with these tensors, in the order of `take_tensors`."""
        tensors, others = iter(tensors), iter(self._others)
        leaves = [next(tensors if is_tensor else others) for is_tensor in self._is_tensor]
        return tree_unflatten(leaves, self._structure)


def take_tensors(tree: Tree) -> tuple[list[Tensor], Frame]:
    """The tensors of a tree in order, and what is left of it."""
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)], Frame(tree)
