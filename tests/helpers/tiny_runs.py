"""Small runs of own images and of curves, for the tests of what uses a run."""

import csv
from pathlib import Path

import torch
from commands import run
from PIL import Image
from problems import EMBEDDING, OF_SETS

from metalearn_cli.config.conf_folder import list_choices

CLASSES, IMAGES = 20, 8
CLASSIFIERS = tuple(
    algo for algo in list_choices("algo") if algo not in ("cavia", "pretrain", "snail", *OF_SETS)
)  # for any way

_SHORT = {
    "fine_tune": ["algo.passes=2"],
    "hand_optimizer": ["algo.rates=[0.01,0.1]", "algo.horizon=2", "algo.test_steps=2"],
    "learned_optimizer": ["algo.unroll=1", "algo.horizon=2", "algo.test_steps=2"],
    "snail": ["algo.width=2"],
    **{algo: [] for algo in EMBEDDING if algo != "proto_maml"},
    "pmf": ["algo.tuning_steps=2"],
    "tim": ["algo.iterations=2"],
    "soft_kmeans": ["task.unlabelled=1"],
}
_INNER = ["algo.inner_steps=2", "algo.test_steps=2"]


def pictures(root: Path) -> Path:
    """20 classes of 8 pictures each, 20 x 24 pixels: stripes of a colour and a direction of the class's, with noise."""
    for number in range(CLASSES):
        rng = torch.Generator().manual_seed(number)
        wave = torch.rand(2, generator=rng) * 1.5
        colour = torch.rand(3, generator=rng)
        y, x = torch.meshgrid(torch.arange(20), torch.arange(24), indexing="ij")
        stripes = (0.5 + 0.5 * torch.sin(wave[0] * y + wave[1] * x))[..., None] * colour
        for place in range(IMAGES):
            noisy = (stripes + 0.1 * torch.randn(stripes.shape, generator=rng)).clamp(0, 1)
            path = root / f"class{number:02}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("RGB", (24, 20), bytes((noisy * 255).byte().flatten().tolist())).save(path)
    return root


def train(folder: Path, algo: str, images: Path, *more: str, name: str = "one") -> Path:
    """outputs/NAME in `folder`, after two steps."""
    sizes = ["task.size=16", "task.way=3", "task.shot=2", "task.query=2", "model.filters=3"]
    short = ["steps=2", "eval_every=0", "select=last", "test_episodes=4", "tasks_per_step=2", "threads=1"]
    keys = [f"algo={algo}", "task=image_folder", f"task.root={images}", *sizes, *short, "other_batch_norm=[inductive]"]
    done = run(folder, "train", *keys, *_SHORT.get(algo, _INNER), *more, f"name={name}")
    assert done.code == 0, done.err
    return folder / "outputs" / name


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_list(path: Path, files: list[Path], labels: list[object]) -> None:
    """A CSV that gives each file its label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *zip(files, labels, strict=True)])
