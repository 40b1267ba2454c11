"""Networks that onnxruntime computes: a user's .onnx file, or one of torch's, exported once into the cache.

Shapes: B pictures of `side` pixels, F features.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_cli.datasets.paths import cache_root, turn_of, writing
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import tell
from metalearn_cli.system.files import read_bytes, write_durably

_MOST_BYTES = 2 << 30  # of the format


def input_of(path: Path) -> tuple[int | None, int | None]:
    """How many pictures at once, and how many pixels a side, an .onnx file takes; None: any number. Raises UserError
    where its input is not one of pictures."""
    inputs = _session(path).get_inputs()
    shape: list[int | str] = inputs[0].shape if len(inputs) == 1 else []
    sides = {size for size in shape[2:] if isinstance(size, int)}  # others have a name, and may be any
    if len(shape) != 4 or shape[1] != 3 or len(sides) > 1 or inputs[0].type != "tensor(float)":
        shown = ", ".join(f"{part.type} {part.shape}" for part in inputs)
        raise UserError(f"{path} takes {shown}, and one input, tensor(float) [n, 3, side, side], is expected")
    return shape[0] if isinstance(shape[0], int) else None, min(sides, default=None)


def running(path: Path) -> Callable[[Tensor], Tensor]:
    """The network in an .onnx file, normalised pictures [B, 3, side, side] -> features [B, F]. Raises UserError where
    it makes something else of them."""
    session, (at_once, _) = _session(path), input_of(path)
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        step, parts = at_once or len(x), []
        for part in torch.split(x, step):
            whole = torch.cat([part, part.new_zeros(step - len(part), *part.shape[1:])]).contiguous()
            try:
                out = torch.from_numpy(session.run(None, {name: whole.numpy()})[0])
            except Exception as error:  # onnxruntime's own, of many classes
                reason = " ".join(str(error).split())
                raise UserError(f"{path} fails on pictures of {x.shape[3]} pixels a side ({reason})") from error
            if out.shape[:1] != (step,) or out.dim() != 2 or out.dtype != torch.float32:
                raise UserError(
                    f"{path} makes {out.dtype} {list(out.shape)} of {step} pictures, and a row of float32 for each is "
                    "expected: export the network without its last layer and with its mean over the image"
                )
            parts.append(out[: len(part)])
        return torch.cat(parts)

    return run


def whole(path: Path) -> bytes:
    """The content of an .onnx file. Raises UserError where its weights are in other files beside it."""
    content = read_bytes(path, _MOST_BYTES)
    try:
        _session(path, content)
    except UserError as error:
        raise UserError(f"{path} does not stand by itself: save it with its weights in the same file") from error
    return content


def exported(net: nn.Module, side: int, sha256: str) -> Path:
    """The .onnx file of a network of normalised pictures, made once for these weights, this size and this torch."""
    stem = f"network-{sha256[:16]}-{side}-torch{torch.__version__.partition('+')[0]}"
    path = cache_root() / f"{stem}.onnx"
    with turn_of(stem), writing(path):
        if not path.exists():
            tell("the network is exported for onnxruntime, which is done once")
            write_durably(path, onnx_bytes(net, torch.zeros(2, 3, side, side)))
    return path


def onnx_bytes(net: nn.Module, x: Tensor, any_number: bool = True) -> bytes:
    """The content of the .onnx file of a network that takes as many pictures as x has, or any number."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it misses torchvision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                net, (x,), dynamo=True, dynamic_shapes=({0: "n"},) if any_number else None, verbose=False
            )
    except ImportError as error:
        raise UserError("model.runtime=onnx needs onnx and onnxscript: pip install 'metalearn-cli[onnx]'") from error
    except Exception as error:  # whatever an exporter meets in a network that is not ours
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torch.onnx cannot export this network ({reason}): give model.runtime=torch") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


def _session(path: Path, content: bytes | None = None) -> Any:
    """Open an .onnx file, or its content alone. Raises UserError where it, or onnxruntime, is not there."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path.name} needs onnxruntime: pip install 'metalearn-cli[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    try:
        return onnxruntime.InferenceSession(content or path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, of many classes
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a network that onnxruntime runs ({reason}): give another file") from error
