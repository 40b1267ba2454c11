"""What pre-training on all classes is worth on CIFAR-FS, in short runs: the tables of pretraining.md.

    python benchmarks/pretraining.py [compare] [conv4] [resnet12] [threads=N]    # all three without a word

`compare` trains three learners of Conv4, each for 45 minutes of two cores; `conv4` puts the heads of the presets on the
pre-trained one; `resnet12` pre-trains a narrow ResNet-12 in 1,000 steps and does the same. Needs
METALEARN_DATA with cifar-fs/. Runs go to outputs/pretraining/; one that is there already goes on where it stopped.
"""

import json
import platform
import re
import sys
import time
from pathlib import Path

from pretrained import metalearn, table

OUT = Path("outputs/pretraining")
TASK = ["task=cifar_fs", "task.way=5", "task.query=15", "test_episodes=600"]
TRAIN = [*TASK, "task.shot=5", "task.augment=[crop,flip]", "eval_episodes=100", "save_every=200"]
CLASSES = ["algo=pretrain", "algo.images=64", "tasks_per_step=1", "tasks_per_chunk=null", "optimizer=sgd"]
CLASSES += ["optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.nesterov=true", "optimizer.weight_decay=5e-4"]
CLASSES += ["optimizer.schedule=multistep", "optimizer.factors=[0.1,0.01]"]
PROTONET = ["algo=protonet", "tasks_per_step=1", "task.train_way=20", "optimizer.schedule=step", "optimizer.decay=0.5"]
MAML = ["algo=maml", "algo.first_order=true", "tasks_per_step=4", "model.gamma=false", "model.init_weights=xavier"]
MAML += [
    "algo.inner_loss=way_times_mean",
    "algo.adapted=no_batch_norm",
    "algo.inner_steps=5",
    "optimizer.clip_value=10",
]
# Steps that took 45 minutes on two cores, once.
LEARNERS = {
    "pretrain": [*CLASSES, "steps=30000", "optimizer.milestones=[18000,25000]", "eval_every=3000"],
    "protonet": [*PROTONET, "steps=6200", "optimizer.decay_every=2000", "eval_every=620"],
    "fomaml": [*MAML, "steps=2500", "eval_every=625"],
}
NARROW = ["model=resnet12", "model.widths=[16,32,64,128]"]
SHORT = ["steps=1000", "optimizer.milestones=[600,850]", "eval_every=500", "eval_episodes=50"]
ON_FEATURES = {
    "SimpleShot UN": ["algo=protonet"],
    "SimpleShot L2N": ["algo=protonet", "algo.normalise=l2"],
    "SimpleShot CL2N": ["algo=protonet", "algo.normalise=l2", "algo.centre=base", "steps=100"],
    "nearest neighbour, cosine": ["algo=knn", "algo.kernel=cosine"],
    "ridge regression, length 1": ["algo=ridge", "algo.normalise=l2"],
    "logistic regression, length 1": ["algo=logistic"],
    "Baseline: a linear head": ["algo=fine_tune"],
    "Baseline++: a cosine head": ["algo=fine_tune", "algo.head=cosine"],
}
ON_PIXELS = {
    "RFS: logistic regression on 5 copies": ["algo=logistic", "algo.copies=5"],
    "all weights tuned, 10 passes, 200 episodes": [
        *("algo=fine_tune", "algo.adapted=all", "algo.start=means", "algo.passes=10", "test_episodes=200")
    ],
}
EPISODES = ["steps=200", "eval_every=50", "eval_episodes=50", "tasks_per_step=4", "task.augment=[crop,flip]"]
SECOND_STAGES = {
    "Meta-Baseline, 200 steps": ["algo=protonet", "algo.metric=cosine", "optimizer=sgd", "optimizer.lr=0.001"],
    "ProtoNet, 200 steps": ["algo=protonet", "algo.temperature=8", "optimizer=adam", "optimizer.lr=1e-4"],
}


def result(name: str, *words: str) -> str:
    """The accuracy in % of the run of this name, with its interval; running averages normalise its batches."""
    folder = OUT / name
    if not (folder / "results.json").exists():
        metalearn("train", *words, "batch_norm=running", "other_batch_norm=[]", f"name=pretraining/{name}", *THREADS)
    results = json.loads((folder / "results.json").read_text())
    return f"{100 * results['mean']:.1f} +- {100 * results['ci95']:.1f}"


def compare() -> None:
    for name, keys in LEARNERS.items():
        if not (OUT / name / "results.json").exists():
            metalearn("train", *TRAIN, "select=best", *keys, f"name=pretraining/{name}", *THREADS)
    print(metalearn("compare", *(f"outputs/pretraining/{name}" for name in LEARNERS)))


def heads(net: str, model: list[str]) -> None:
    """The heads of the presets, and two second stages, on the pre-trained network."""
    run, vectors = f"outputs/pretraining/{net}", OUT / f"{net}.npz"
    if not vectors.exists():
        metalearn("embed", f"run={run}", f"out={vectors}", *THREADS)
    fixed = ["steps=0", "eval_every=0", "select=last"]
    kinds = [
        (ON_FEATURES, ["task=features", f"task.root={vectors}", *TASK[1:], *fixed]),
        (ON_PIXELS, [*TASK, *model, f"init={run}", *fixed]),
        (SECOND_STAGES, [*TASK, *model, f"init={run}", *EPISODES]),
    ]
    rows = [["on the pre-trained network", "1-shot", "5-shot"]]
    for methods, words in kinds:
        for name, keys in methods.items():
            folder = f"{net}-{re.split('[:,]', name)[0].replace(' ', '_')}"
            rows.append([name, *(result(f"{folder}-{shot}", *words, f"task.shot={shot}", *keys) for shot in (1, 5))])
    table(f"CIFAR-FS, 5-way, {net}", rows)


def conv4() -> None:
    heads("pretrain", [])


def resnet12() -> None:
    words = [*TRAIN, *CLASSES, *NARROW, *SHORT]
    result("resnet12", *words)
    heads("resnet12", NARROW)


if __name__ == "__main__":
    print(f"{platform.processor() or platform.machine()}, {time.strftime('%Y-%m-%d')}")
    THREADS = [word for word in sys.argv[1:] if word.startswith("threads=")]
    parts = [word for word in sys.argv[1:] if word not in THREADS]
    for part in (compare, conv4, resnet12):
        if part.__name__ in (parts or [part.__name__]):
            part()
