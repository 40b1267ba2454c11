"""A function of tensors as one CUDA graph. By torch's rules ("CUDA Graphs" in its notes) some runs on a side stream
come before the capture, each replay reads and writes the same memory, and nothing within it looks at a value."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from metalearn_cli.errors import UserError
from metalearn_cli.system.compiled import unchanged
from metalearn_cli.system.tensor_tree import Tree


def require_gpu(device: torch.device) -> None:
    """Raises UserError where nothing can be captured."""
    if device.type != "cuda":
        raise UserError(f"cuda_graph=true is for a GPU, and this run is on {device}: give cuda_graph=false")


class Captured:
    """`function(state, batch, None, *numbers) -> None`, which changes the tensors in the tree `state` in place. The
    numbers are always the same tensors, whose values are read. A batch is copied to where its graph reads it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._state: Tree = None
        self._graphs: dict[Any, tuple[tuple[Tensor | None, ...], Callable[[], None]]] = {}  # where it reads, and replay

    def __call__(self, state: Tree, batch: tuple[Tensor | None, ...], carry: Tree, *numbers: Tensor) -> None:
        if state is not self._state:
            self._state, self._graphs = state, {}
        key = tuple(None if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype) for tensor in batch)
        if key not in self._graphs:
            kind: Any = type(batch)  # a named tuple
            inputs = kind(*(None if tensor is None else tensor.clone() for tensor in batch))

            def run() -> None:
                if self._function(state, inputs, None, *numbers) is not None:
                    reason = "this algorithm makes several updates from one meta-batch, each on another way"
                    raise UserError(f"cuda_graph=true: {reason} through the code: give cuda_graph=false")

            with unchanged(state):
                self._graphs[key] = inputs, _capture(run, tree_leaves(state)[0].device)
        copies, replay = self._graphs[key]
        for copy, tensor in zip(copies, batch, strict=True):
            if copy is not None and tensor is not None:
                copy.copy_(tensor)
        replay()


def _capture(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    with torch.cuda.device(device):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError as error:  # what cannot be captured
            reason = " ".join(str(error).split())
            raise UserError(f"this step cannot be captured ({reason[:300]}): give cuda_graph=false") from error
        return graph.replay
