"""Which networks of torchvision and timm run as a user's module: a step of first-order MAML with one of each family.

    python -m benchmarks.networks torchvision|timm [MODEL ...] [--seconds 120]

Two tasks of two images of 64 pixels a side, or of the network's own size where that is too small; random weights.
`pip install torchvision timm` may bring another torch: take an environment of its own. Each network has a line: how
many features it makes of an image, or the sentence that refuses it.
"""

import argparse
import gc
import importlib
import os
import resource
import signal
import warnings
from typing import Any

import torch

from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Categorical

SMALL = ("atto", "femto", "pico", "nano", "tiny", "xxs", "xs", "small", "mini", "_s", "18", "b0", "_t", "26", "050")
APART = ("detection", "segmentation", "video", "optical", "quantization")  # torchvision's folders without classifiers
SIDE = 64
MEMORY = 12 * 1024**3


def smallest(names: list[str]) -> str:
    """The one whose name says that it is the smallest, and the shortest name of those."""
    sizes = {name: [place for place, word in enumerate(SMALL) if word in name] for name in names}
    return min(names, key=lambda name: (min(sizes[name], default=len(SMALL)), len(name), name))


def families(library: str) -> list[str]:
    """One network of each file of the library."""
    module: Any = importlib.import_module("timm" if library == "timm" else "torchvision.models")
    if library == "timm":
        groups = [module.list_models(module=name) for name in module.list_modules()]
        return [smallest(names) for names in groups if names]
    by_file: dict[str, list[str]] = {}
    for name in module.list_models():
        file = module.get_model_builder(name).__module__
        if not any(part in file for part in APART):
            by_file.setdefault(file, []).append(name)
    return [smallest(names) for names in by_file.values()]


def attempt(library: str, name: str) -> str:
    """What this network makes of an image, or why it does not run."""
    module: Any = importlib.import_module("timm" if library == "timm" else "torchvision.models")
    if library == "timm":
        maker, arguments = module.create_model, {"model_name": name, "num_classes": "outputs"}
        config = module.get_pretrained_cfg(name)
        own_side = config.input_size[-1] if config else 224
    else:
        maker, arguments = module.get_model_builder(name), {"num_classes": "outputs"}
        own_side = 299 if "inception" in name else 224
    said = []
    for side in (SIDE, own_side):
        rng = torch.Generator().manual_seed(0)
        try:
            net = module_net(maker, Spec((3, side, side), 2, 2, Categorical()), arguments)
            x, y = torch.randn(2, 2, 3, side, side, generator=rng), torch.tensor([[0, 1], [0, 1]])
            batch = Batch(x, y, x, y, torch.arange(2), progress=torch.zeros(2))
            maml = MAML(inner_lr=0.01, inner_steps=1, first_order=True)
            meta = maml.init(net, rng)
            meta = meta._replace(params={key: value.requires_grad_() for key, value in meta.params.items()})
            gradient = maml.meta_gradient(net, meta, batch, 0).gradient
            assert all(slope.isfinite().all() for slope in gradient.values()), "a slope is not finite"
            with torch.no_grad():
                width = net.features(meta.params, x)[0].shape[2]
            head = "" if any(key.startswith("head.") for key in gradient) else ", no last linear layer"
            return f"runs, {side} pixels, {width} features{head}"
        except Exception as error:
            said.append(str(error))
    place, _, rest = said[-1].partition(" fails on a batch")
    return place + rest.partition("is taken out)")[2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["torchvision", "timm"])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--seconds", type=int, default=120)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in arguments.models or families(arguments.library):
        print(f"| {name} |", end=" ", flush=True)
        if (child := os.fork()) == 0:  # a network that is too slow or large ends alone
            signal.alarm(arguments.seconds)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            print(attempt(arguments.library, name), "|", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(f"not finished in {arguments.seconds} seconds or {MEMORY >> 30} GiB |", flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
