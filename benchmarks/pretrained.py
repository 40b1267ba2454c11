"""Heads on a pretrained network that stays as it is, on CIFAR-FS and Omniglot: the tables of pretrained.md.

    python benchmarks/pretrained.py [heads] [base] [omniglot] [folder] [pmf] [cost]  # all of them without a word

Needs `pip install -e '.[pretrained,onnx]'` and METALEARN_DATA with cifar-fs/ and omniglot/. Runs go to
outputs/pretrained/, and each is run once: what is there already is not computed again.
"""

import csv
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

OUT = Path("outputs/pretrained")
RUNTIME = "model.runtime=onnx"
HEADS = {
    "nearest mean, squared distance": ["algo=protonet"],
    "nearest mean, cosine": ["algo=protonet", "algo.metric=cosine"],
    "nearest mean, length 1 (L2N)": ["algo=protonet", "algo.normalise=l2"],
    "ridge regression": ["algo=ridge", "algo.normalise=l2"],
    "logistic regression": ["algo=logistic"],
    "nearest neighbour, cosine": ["algo=knn", "algo.kernel=cosine"],
}
BASE = ["algo=protonet", "algo.normalise=l2", "algo.centre=base", "steps=100", "eval_every=0", "select=last"]
TEST = ["test_episodes=600", "threads=1", "task.query=15"]
SHOTS = (1, 5, 20)


def metalearn(*words: str) -> str:
    """The output of a command. Its errors are shown as they come."""
    command = [sys.executable, "-m", "metalearn_cli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def accuracy(name: str, *words: str) -> str:
    """The accuracy in % of a run of this name, with its interval."""
    folder = OUT / name
    if not (folder / "results.json").exists():
        metalearn("train", *words, f"name=pretrained/{name}")
    results = json.loads((folder / "results.json").read_text())
    return f"{100 * results['mean']:.1f} +- {100 * results['ci95']:.1f}"


def table(title: str, rows: list[list[str]]) -> None:
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]))
    print(f"({title})")


def heads() -> None:
    """Each head on the test classes, at 96 and 224 pixels."""
    for size in (96, 224):
        common = ["task=cifar_fs", "model=pretrained", f"model.size={size}", RUNTIME, *TEST]
        rows = [["head", *(f"{shot}-shot" for shot in SHOTS)]]
        for number, (head, keys) in enumerate(HEADS.items()):
            figures = [
                accuracy(f"{size}-{number}-{shot}", *keys, *common, f"task.shot={shot}", "steps=0") for shot in SHOTS
            ]
            rows.append([head, *figures])
        table(f"CIFAR-FS, 5-way, {size} pixels, steps=0", rows)


def base() -> None:
    """The mean of the training classes subtracted, which embeds their 38,400 pictures."""
    for size in (96, 224):
        common = ["task=cifar_fs", "model=pretrained", f"model.size={size}", RUNTIME, *TEST]
        figures = [accuracy(f"{size}-base-{shot}", *BASE, *common, f"task.shot={shot}") for shot in SHOTS]
        table(f"{size} pixels", [["head", *(f"{shot}-shot" for shot in SHOTS)], ["L2N, centre=base (CL2N)", *figures]])


def omniglot() -> None:
    """Where it does not help: strokes are not photographs."""
    common = ["task=omniglot", "task.rotations=none", "model=pretrained", RUNTIME, *TEST, "steps=0"]
    rows = [["head", "1-shot", "5-shot"]]
    for name in ("nearest mean, cosine", "ridge regression"):
        figures = [
            accuracy(f"omniglot-{name[:5]}-{shot}", *HEADS[name], *common, "model.size=96", f"task.shot={shot}")
            for shot in (1, 5)
        ]
        rows.append([name, *figures])
    table("Omniglot, 5-way, 96 pixels", rows)


def folder() -> None:
    """From a zip of 100 labelled pictures to predictions for 50 others."""
    data = Path(os.environ["METALEARN_DATA"]) / "cifar-fs" / "cifar100" / "data"
    place = OUT / "folder"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    names = ("bicycle", "baby", "bed", "poppy", "dolphin", "worm", "pickup_truck", "leopard", "rose", "table")
    with zipfile.ZipFile(place / "pictures.zip", "w") as file:
        for name in names:
            for number, picture in enumerate(sorted((data / name).iterdir())[:15]):
                part = f"labelled/{name}" if number < 10 else "photos"
                file.write(picture, f"{part}/{name}-{number}.png")
    began = time.perf_counter()
    with zipfile.ZipFile(place / "pictures.zip") as file:
        file.extractall(place)
    where = [f"{key}={place / part}" for key, part in (("support", "labelled"), ("query", "photos"))]
    print(metalearn("predict", *where, f"out={place / 'predictions.csv'}", "threads=2"))
    took = time.perf_counter() - began
    with (place / "predictions.csv").open() as file:
        right = [row["label"] == Path(row["path"]).name.rpartition("-")[0] for row in csv.DictReader(file)]
    print(f"zip with 100 labelled pictures to predictions for 50: {took:.1f} s, {sum(right)} of {len(right)} right")


def pmf() -> None:
    """P>M>F at 96 pixels: a ProtoNet through the network, then fine-tuning with a rate from validation tasks."""
    net = ["task=cifar_fs", "model=pretrained", "model.size=96", "threads=1", "task.query=5", "test_episodes=200"]
    frozen = accuracy("pmf-p", "algo=protonet", "algo.metric=cosine", *net, RUNTIME, "steps=0")
    net, tests = [*net, "model.frozen=false"], ["eval_episodes=20"]
    meta = ["algo=pmf", "optimizer=adamw", "optimizer.lr=5e-5", "task.augment=[flip]"]
    trained = accuracy("pmf-m", *meta, *net, *tests, "algo.lr=0", "steps=300", "eval_every=0", "select=last")
    rows = [["step", "accuracy in % (200 episodes)"], ["P: frozen", frozen], ["P>M: 300 episodes", trained]]
    for rate in ("0.0001", "0.001"):
        words = [f"algo.lr={rate}", "algo.tuning_steps=5", f"init={OUT / 'pmf-m'}", "steps=0", "eval_every=1"]
        rows.append([f"P>M>F, rate {rate}", accuracy(f"pmf-f-{rate}", "algo=pmf", *words, *net, *tests)])
    table("CIFAR-FS, 5-way 1-shot, 96 pixels", rows)


def cost() -> None:
    """Milliseconds of wall time for a picture of 32 pixels a side: medians of seven rounds, in which all take turns."""
    import torch

    from metalearn_cli.backbones.encoder import Runtime, encoder_of
    from metalearn_cli.backbones.named import DEFAULT, open_backbone

    pictures = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    kinds = list(itertools.product((96, 224), Runtime, (1, 2)))
    encoders, times = {}, {kind: list[float]() for kind in kinds}
    for size, runtime, threads in kinds:
        torch.set_num_threads(threads)
        encoders[size, runtime, threads] = encoder_of(open_backbone(DEFAULT, None, size, None, None), runtime)
    for number in range(8):
        for kind in kinds:
            torch.set_num_threads(kind[2])
            began = time.perf_counter()
            encoders[kind](pictures)
            times[kind] += [1e3 * (time.perf_counter() - began) / len(pictures)] * (number > 0)
    rows = [["pixels", "runtime", "1 thread", "2 threads"]]
    for size, runtime in itertools.product((96, 224), Runtime):
        figures = [f"{statistics.median(times[size, runtime, threads]):.1f}" for threads in (1, 2)]
        rows.append([str(size), runtime.name, *figures])
    table("ms a picture", rows)


if __name__ == "__main__":
    print(f"{platform.processor() or platform.machine()}, {time.strftime('%Y-%m-%d')}")
    for part in (heads, base, omniglot, folder, pmf, cost):
        if part.__name__ in (sys.argv[1:] or [part.__name__]):
            part()
