"""Where conf/ is and what can be chosen in it. Imports nothing heavy, so that lists and completions are quick."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metalearn_cli.errors import UserError
from metalearn_cli.system import yaml_files
from metalearn_cli.system.limits import Natural

Config = dict[str, Any]  # a configuration as plain values, nested or flat

GROUPS = ("algo", "task", "model", "optimizer")  # name a class each
PRESETS = ("experiment", "debug", "sweep")  # set keys of all groups, or who runs the jobs of a sweep


def conf_dir() -> Path:
    """conf/ beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").exists():
            return folder
    raise UserError(f"conf/config.yaml is neither in {package} nor beside it: install metalearn-cli again")


def list_choices(group: str) -> list[str]:
    """The yaml files of a group of conf/, as they are chosen on the command line."""
    folder = conf_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def summary_of(group: str, choice: str) -> str:
    """The first line of a yaml file's first comment: what it is."""
    lines = (conf_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def family_of(algo: str) -> str:
    """What an algorithm learns, or that it is none that learns how to: the comment "# family: ..." of its yaml."""
    family = re.search(r"^# family: (.+)", (conf_dir() / "algo" / f"{algo}.yaml").read_text("utf-8"), re.MULTILINE)
    return family[1] if family else "another"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A published figure."""

    mean: float
    ci95: float | None = None
    step: Natural | None = None  # the inner step that it is of; None: the last
    source: str


def paper_of(experiment: str) -> Config:
    """The published figure that a preset names, or those presets that it is made from; {} where none does."""
    node: Any = yaml_files.load_yaml(conf_dir() / "experiment" / f"{experiment}.yaml")
    paper: Config = {}
    for default in node.get("defaults", []):
        if isinstance(default, str) and default.startswith("/experiment/"):
            paper |= paper_of(default.removeprefix("/experiment/"))
    keys = node.get("paper") or {}
    if "mean" in keys:
        paper.pop("tests", None)  # of another row
    return paper | keys


def published_papers() -> dict[str, Config]:
    """The presets that name a published figure -> their `paper`."""
    papers = {name: paper_of(name) for name in list_choices("experiment")}
    return {name: paper for name, paper in papers.items() if "mean" in paper}


def keys_in_yaml(group: str, choice: str) -> list[str]:
    """The keys that a yaml file of a group lists, e.g. algo.inner_lr."""
    return [f"{group}.{key}" for key in group_in_yaml(group, choice) if key != "_target_"]


def group_in_yaml(group: str, choice: str) -> Config:
    """What a yaml file of a group says of this group, and not of others."""
    node = _content(f"{group}/{choice}")
    return {key: value for key, value in node.get(group, node).items() if key != "defaults"}


def run_keys() -> Config:
    """The keys of conf/config.yaml, and what they are where nobody sets them."""
    return {key: value for key, value in _content("config").items() if key != "defaults"}


def _content(name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml"))


def key_values(key: str) -> list[str]:
    """What a key can be: true or false, or the words of a comment such as "best | last: what is tested"."""
    group, _, name = key.rpartition(".")
    paths = sorted((conf_dir() / group).rglob("*.yaml")) if group else [conf_dir() / "config.yaml"]
    values: set[str] = set()
    pattern = re.compile(rf"^\s*{re.escape(name)}:[ \t]*(\S+)[ \t]*(?:#[ \t]*(.*))?$", re.MULTILINE)
    for value, comment in (match for path in paths for match in pattern.findall(path.read_text(encoding="utf-8"))):
        words = re.match(r"\w+(?:\s*\|\s*\w+)+", re.sub(r"\s*\([^)]*\)", "", comment))
        values |= set(re.split(r"\s*\|\s*", words[0])) if words else set()
        values |= {"true", "false"} if value in ("true", "false") else set()
    return sorted(values)


def key_options(word: str, keys: Collection[str]) -> list[str]:
    """What a word that begins one of these keys, or a value of one, can become."""
    key, equals, typed = word.partition("=")
    if not equals:
        return [f"{name}=" for name in keys]
    if key not in keys:
        return []
    if key == "run":
        return [f"run={path}" for path in folders_of_runs(typed)]
    return [f"{key}={value} " for value in (list_choices(key) if key in (*GROUPS, *PRESETS) else key_values(key))]


def folders_of_runs(typed: str) -> list[str]:
    """What a path that begins like this can become: runs, and with a slash folders that may have some."""
    start = "".join(typed.rpartition("/")[:2])
    parent = Path(start or ".")
    names = sorted(path.name for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []
    plain = [name for name in names if re.fullmatch(r"\w[\w.,=+-]*", name)]
    whole = {name for name in plain for file in ("config.yaml", "model.json") if (parent / name / file).is_file()}
    return [f"{start}{name}{' ' if name in whole else '/'}" for name in plain]


def flatten(config: Config, prefix: str = "") -> Config:
    """{"algo": {"inner_lr": 0.1}} -> {"algo.inner_lr": 0.1}."""
    flat: Config = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
