"""Every yaml of conf/ is tested by being there."""

import math
import re
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import torch
from cases import nightly, noise
from omegaconf import OmegaConf
from pairs import PAIRS, built_or_refused, cases, chosen, small
from places import ROOT

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.capabilities import batch_norm_at_test, steps_at_test
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.cli import main
from metalearn_cli.config import conf_folder, schema
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.config.stages import stage_jobs
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Net
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.system.limits import limit_of, words_of
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.fc100 import FC100
from metalearn_cli.tasks.mini_imagenet import MiniImageNet
from metalearn_cli.tasks.tiered_imagenet import TieredImageNet

CONF = conf_folder.conf_dir()
CHOICES = [(group, choice) for group in conf_folder.GROUPS for choice in conf_folder.list_choices(group)]
PRESETS, DEBUG = conf_folder.list_choices("experiment"), conf_folder.list_choices("debug")
# The gate takes every third, which are some of each algorithm.
FEW_PRESETS = [*PRESETS[::3], *nightly((preset,) for preset in PRESETS if preset not in PRESETS[::3])]


def test_conf_is_the_checkouts() -> None:
    assert ROOT / "conf" == CONF
    assert not list(CONF.rglob("__init__.py"))


def load(group: str, choice: str, own_images: Path) -> Job:
    return load_job(chosen(group, choice, own_images))


def part_of(group: str, job: Job) -> Any:
    return {"algo": job.algo, "task": job.task, "model": job.net, "optimizer": job.optimizer}[group]


@pytest.mark.parametrize(("group", "choice"), [*CHOICES, *nightly(("experiment", preset) for preset in PRESETS)])
def test_every_yaml_builds(group: str, choice: str, own_images: Path) -> None:
    job = load(group, choice, own_images)
    assert job.choices[group] == choice
    new_learner(job)

    # What is written to config.yaml is a configuration that composes to the same run again.
    def is_plain(key: str) -> bool:
        return "_target_" not in key and not key.startswith("paper")

    again = [f"{key}={_quoted(value)}" for key, value in conf_folder.flatten(job.config).items() if is_plain(key)]
    groups = [f"{name}={job.choices[name]}" for name in conf_folder.GROUPS]
    assert load_job([*groups, *again]).config == {**job.config, "paper": None}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_yaml_lists_every_key_of_its_class_and_begins_with_what_it_is(
    group: str, choice: str, own_images: Path
) -> None:
    """So that a reader of the file sees what can be set, and every key can be overridden on the command line."""
    path = CONF / group / f"{choice}.yaml"
    node = OmegaConf.load(path)
    node = node.get(group, node)
    job = load(group, choice, own_images)
    assert set(node) == set(job.config[group])
    assert "#" in path.read_text().split("_target_")[0]


def test_every_key_with_few_values_lists_them_in_its_comment(own_images: Path) -> None:
    """Completion and a reader of the file find them there."""
    parts = [(f"{group}.", part_of(group, load(group, choice, own_images))) for group, choice in CHOICES]
    for prefix, part in [("", load(*CHOICES[0], own_images).run), *parts]:
        for key, kind in schema.field_types(type(part)).items():
            for option in (kind, *get_args(kind)):
                if isinstance(option, type) and issubclass(option, Enum) and get_origin(kind) is not tuple:
                    assert set(conf_folder.key_values(prefix + key)) >= {member.name for member in option}, prefix + key


@pytest.mark.parametrize(("group", "choice"), [pair for pair in CHOICES if pair[0] != "task"])
def test_a_value_out_of_range_is_refused_with_its_key(group: str, choice: str, own_images: Path) -> None:
    job = load(group, choice, own_images)
    base, part = {"algo": Algorithm, "model": Net, "optimizer": Optimizer}[group], part_of(group, job)
    spec = job.task.spec if group == "model" else None
    for key, kind in schema.field_types(type(part)).items():
        if limit_of(kind):
            bad = [-1] if "tuple" in str(kind) else -1
            with pytest.raises(UserError, match=rf"{group}\.{key}=\[?-1.* must be {re.escape(words_of(kind))}"):
                schema.build({**schema.described(part), key: bad}, group, base, schema.ConfigSource(), spec)


@pytest.mark.parametrize(
    ("part", "bad"),
    [
        *((HandOptimizer(), {"rates": rates}) for rates in ([], [0.1, math.nan], [0.0])),
        *((MetaSGD(), {"initial_lr": rates}) for rates in ([0.1], [0.2, 0.1], [-0.1, 0.1], [0.1, math.inf])),
        *((MetaLSTM(), {"bn_momentum": momentum}) for momentum in (0.0, 1.5, math.nan)),
        *((Matching(), {"temperature": temperature}) for temperature in (0.0, math.nan, math.inf)),
        (LearnedOptimizer(), {"hidden": [20, 0]}),
        (Optimizer(), {"lr": math.inf}),
        (Optimizer(), {"clip_norm": 0.0}),
    ],
)
def test_an_impossible_range_rate_or_width_is_refused(part: Algorithm | Optimizer, bad: dict[str, Any]) -> None:
    ((key, value),) = bad.items()
    with pytest.raises(UserError, match=re.escape(f"{key}={value} must be")):
        schema.build({**schema.described(part), **bad}, "part", type(part), schema.ConfigSource())


def test_a_split_with_too_few_classes_to_validate_is_said_or_refused() -> None:
    preset = ["experiment=maml/mini_imagenet_20w1s"]
    job = load_job([*preset, "debug=quick"])
    assert job.run.eval_every == job.config["eval_every"] == 0
    assert job.notes[-1] == "no validation: task.way=20 is more than the 16 classes of the val split"
    for wish in ("eval_every=5", "select=best"):
        with pytest.raises(UserError, match=r"task\.way=20 is more than the 16 classes of the val split"):
            load_job([*preset, wish])


@pytest.mark.parametrize("debug", ["quick", *nightly((debug,) for debug in DEBUG if debug != "quick")])
@pytest.mark.parametrize("experiment", FEW_PRESETS)
def test_a_debug_preset_goes_with_every_experiment(experiment: str, debug: str) -> None:
    job = load_job([f"experiment={experiment}", f"debug={debug}"])
    assert job.run.steps <= 200
    with torch.device("meta"):  # without memory, and time, for what it learns
        job.algo.init(job.net, torch.Generator())


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # of those with hundreds of filters
@pytest.mark.parametrize("experiment", PRESETS)
@pytest.mark.usefixtures("packed_images")
def test_every_preset_takes_steps_in_its_debug_form(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for cls, classes, side in (
        (MiniImageNet, 100, 84),
        (TieredImageNet, 608, 84),
        (CifarFS, 100, 32),
        (FC100, 100, 32),
    ):
        monkeypatch.setattr(cls, "images", noise(classes, 600, (3, side, side)))
        monkeypatch.setattr(cls, "about", cls.about._replace(fewest=600))
    nearest = ["task.resample=nearest"] * ("omniglot" in experiment)  # as what is packed
    preset = load_job([f"experiment={experiment}"])
    narrow = {"filters": 4, "widths": [4, 4, 4, 4], "width": 1}  # a preset's own width takes minutes a step
    words = [f"model.{key}={value}" for key, value in narrow.items() if preset.config["model"].get(key) is not None]
    words += [f"tasks_per_step={min(2, preset.run.tasks_per_step)}"]
    job = load_job([f"experiment={experiment}", "debug=quick", *nearest, *words])
    for part in (*stage_jobs(job), job):
        take_steps(part, new_learner(part))


@pytest.mark.parametrize(("algo", "task"), cases(PAIRS))
@pytest.mark.usefixtures("packed_images")
def test_every_algorithm_takes_real_steps_on_every_task_or_says_why_not(algo: str, task: str, own_images: Path) -> None:
    job = load_job(small(algo, task, own_images))
    if (learner := built_or_refused(job)) is None:
        return
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    take_steps(job, learner)
    assert all(not torch.equal(value, learner.state_dict()[name]) for name, value in before.items())


def take_steps(job: Job, learner: Learner) -> None:
    tasks = job.run.tasks_per_step
    for step in range(2):
        loss = learner.step(job.task.gather(job.training_draw(step), torch.device("cpu")), step)
        assert loss.shape == (tasks,)
        assert loss.isfinite().all()


def test_an_algorithm_names_its_test_steps_and_its_papers_batch_norm(own_images: Path) -> None:
    for algo in conf_folder.list_choices("algo"):
        job = load("algo", algo, own_images)
        assert steps_at_test(job.algo, job.task.spec) >= 0
        assert batch_norm_at_test(job.algo, job.task.spec) in BatchNorm


def test_the_users_own_choice_wins_over_an_algorithms_and_a_tasks() -> None:
    assert load_job(["algo=protonet"]).choices["model"] == "conv4"
    assert load_job(["algo=protonet", "model=mlp"]).choices["model"] == "mlp"
    assert load_job(["task=omniglot", "model=mlp"]).choices["task"] == "omniglot"
    assert load_job(["algo=protonet", "task=omniglot", "model=mlp"]).choices["model"] == "mlp"
    assert load_job(["algo=meta_lstm"]).optimizer.clip_norm == 0.25
    assert load_job(["algo=meta_lstm", "optimizer=adamw"]).choices["optimizer"] == "adamw"
    assert load_job(["algo=meta_lstm", "optimizer.clip_norm=2"]).optimizer.clip_norm == 2
    assert load_job(["experiment=maml/sinusoid", "model.hidden=[7]"]).net.hidden == (7,)  # type: ignore[attr-defined]


def test_cfg_job_prints_the_configuration_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "algo=maml", "steps=7", "--cfg", "job"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.steps == 7
    assert printed.algo._target_ == "metalearn_cli.algorithms.maml.MAML"
    assert not list(tmp_path.iterdir())


def _quoted(value: object) -> str:
    """As a command line has it; a list of stages has nulls of its own."""
    return str(value).replace("None", "null").replace(" ", "").replace("'", "")


@pytest.mark.parametrize("algo", ["maml", "pretrain"])
def test_sinusoids_begin_with_torchs_start_and_the_authors_has_a_name(algo: str) -> None:
    """The start of the authors' code stays on a plateau for as long as the seed says."""
    usual, code = (load_job([f"experiment={algo}/sinusoid{variant}"]) for variant in ("", "_code_start"))
    assert (usual.config["model"].pop("init_std"), code.config["model"].pop("init_std")) == (None, 0.01)
    assert usual.config == code.config
    assert usual.run.paper == code.run.paper is not None
