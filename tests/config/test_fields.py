"""Keys and types are read in the source of a class, and most mistakes are told before torch is imported."""

import json
import subprocess
import sys
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest

from metalearn_cli.config.conf_folder import GROUPS, conf_dir, list_choices, run_keys
from metalearn_cli.config.fields import types_in_source
from metalearn_cli.config.job import Run
from metalearn_cli.config.schema import field_types, import_class
from metalearn_cli.system.limits import Limit
from metalearn_cli.system.yaml_files import load_yaml
from metalearn_cli.trained.export import Export
from metalearn_cli.trained.predict import Predict


def target(group: str, choice: str) -> str:
    node = load_yaml(conf_dir() / group / f"{choice}.yaml")
    return str(node.get(group, node)["_target_"])


TARGETS = {(group, target(group, choice)) for group in GROUPS for choice in list_choices(group)}
CLASSES = [import_class(path, group, trust=False) for group, path in sorted(TARGETS)]


def shown(kind: Any) -> Any:
    """A type such that enums of the same members are equal, and limits of the same words and code."""
    if isinstance(kind, Limit):
        code: Any = kind.holds
        return kind.words, code.__code__.co_code, code.__code__.co_consts
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind.__name__, [member.name for member in kind]
    origin = UnionType if get_origin(kind) is Union else get_origin(kind)
    return (origin, *map(shown, get_args(kind))) if get_args(kind) else kind


@pytest.mark.parametrize("cls", [*CLASSES, Run, Predict, Export])
def test_the_types_in_the_source_are_those_of_the_class(cls: Any) -> None:
    in_source = types_in_source(f"{cls.__module__}.{cls.__name__}")
    of_class = field_types(cls)
    assert {key: shown(kind) for key, kind in in_source.items()} == {k: shown(v) for k, v in of_class.items()}


def write_config(folder: Path) -> None:
    """The config.yaml of a run of MAML on sinusoids."""
    config: Any = {group: load_yaml(conf_dir() / group / f"{choice}.yaml") for group, choice in DEFAULTS.items()}
    (folder / "run").mkdir()
    nodes = {group: node.get(group, node) for group, node in config.items()}
    (folder / "run/config.yaml").write_text(json.dumps(run_keys() | nodes))


DEFAULTS = {"algo": "maml", "task": "sinusoid", "model": "mlp", "optimizer": "adam"}


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train sede=1", "there is no key sede"),
        ("train steps=abc", "steps=abc must be a whole number"),
        ("train stages={algo:pretrain}", "stages must be a list: give stages=[...]"),
        ("train steps=-1", "steps=-1 must be a whole number, 0 or above"),
        ("train algo.inner_lr=-1", "algo.inner_lr=-1.0 must be a finite number, 0 or above"),
        ("train algo=meta_sgd algo.initial_lr=[2,1]", "algo.initial_lr=[2.0, 1.0] must be two rates"),
        ("train --cfg job algo.first_order=maybe", "must be true or false"),
        ("train task=omniglot task.shott=3", "did you mean task.shot?"),
        ("train model.hidden=[a]", "must be a list"),
        ("train algo=mamll", "did you mean maml?"),
        ("train sweep=optuna", "give -m"),
        ("bench threads=x", "must be a whole number"),
        ("predict ru=x", "did you mean run?"),
        ("predict algo.test_steps=x", "algo.test_steps=x must be a whole number"),
        ("export out=a out=b", "out= is given twice"),
        ("export run=nowhere out=b", "run=nowhere is not the folder of a run"),
        ("predict run=nowhere support=a query=b", "run=nowhere is not the folder of a run"),
        ("train -m algo.inner_lr=0.01,-1", "algo.inner_lr=-1.0 must be a finite number"),
        ("train -m algo=maml,mamll", "did you mean maml?"),
        ("train -m algo=maml,reptile algo.inner_step=1", "did you mean algo.inner_steps?"),
        ("train -m sweep=optuna seed=0,x", "seed=x must be a whole number"),
        ("eval run=nowhere", "run=nowhere is not the folder of a run"),
        ("eval run=RUN stepss=3", "there is no key stepss"),
        ("eval run=RUN test_episodes=0", "test_episodes=0 must be a whole number, 1 or above"),
        ("eval run=RUN task.shot=0", "task.shot=0 must be a whole number, 1 or above"),
        ("eval run=RUN algo.test_steps=x", "algo.test_steps=x must be a whole number"),
        ("eval run=RUN task=harmonics task.shot=0", "task.shot=0 must be a whole number, 1 or above"),
        ("bench algo.inner_lr=-1", "algo.inner_lr=-1.0 must be a finite number"),
        ("reproduce", "reproduce needs the names of rows"),
        ("reproduce maml/sinusoidd", "did you mean maml/sinusoid?"),
        ("reproduce maml/sinusoid threads=0", "threads=0 must be a whole number"),
        ("compare", "no folder was given"),
        ("compare nowhere", "nowhere is not there"),
        ("compare a=b", "compare has no key a"),
        ("report nowhere", "nowhere is not there"),
        ("data prepare image_folder task.size=1", "task.size=1 must be a whole number of pixels"),
    ],
)
def test_a_mistake_is_told_before_torch_is_imported(tmp_path: Path, command: str, sentence: str) -> None:
    write_config(tmp_path)
    program = (
        "import sys; from metalearn_cli.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'scipy'} & sys.modules.keys(); "
        "sys.exit(7 if code in (1, 2) and not heavy else f'{code} {heavy}')"
    )
    words = command.replace("RUN", str(tmp_path / "run")).split()
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert sentence in done.stderr
