"""Imports run one way, a folder is told in a sentence, and an algorithm is maths only."""

import ast
import importlib
import inspect
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from places import PACKAGE, ROOT

import metalearn_cli
from metalearn_cli import tasks

# From top to bottom: a folder, or a file beside the folders, imports from those below it only.
LAYERS = [
    "__main__",
    "cli",
    "commands",
    "papers",
    "sweep",
    "report",
    "training",
    "tuning",
    "trained",
    "compare",
    "pictures",
    "run_folder",
    "config",
    "learning",
    "algorithms",
    "nets",
    "optimizer",
    "tasks",
    "backbones",
    "datasets",
    "system",
    "seeding",
    "errors",
    "version",
]
FOLDERS = [name for name in LAYERS if (PACKAGE / name).is_dir()]


def imports(path: Path) -> set[str]:
    """The modules and names that a file imports, also within its functions."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def sentence(folder: str) -> str:
    """What a folder says of itself, on one line."""
    docstring = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))
    assert docstring, f"{folder}/__init__.py does not say what lives there"
    return " ".join(docstring.split())


def test_imports_run_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        layer = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if layer == "__init__":
            continue
        for module in imports(path):
            if module.startswith("metalearn_cli."):
                assert LAYERS.index(module.split(".")[1]) >= LAYERS.index(layer), f"{path} imports {module}"


def test_no_files_import_one_another_in_a_circle() -> None:
    """Also not within functions, where Python would not notice it."""
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    below = {
        name: {module if module in paths else module.rpartition(".")[0] for module in imports(path)} & paths.keys()
        for name, path in paths.items()
    }
    TopologicalSorter(below).prepare()  # raises CycleError


def test_the_package_is_eighteen_folders_and_eight_files_at_most() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(FOLDERS)
    assert len(FOLDERS) <= 18
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert not [path for path in PACKAGE.rglob("*.py") if len(path.relative_to(PACKAGE).parts) > 2]


def test_a_folder_says_what_lives_in_it_and_the_map_repeats_it() -> None:
    map_of_folders = re.findall(r"^\| `(\w+)/` \| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert map_of_folders == [(folder, sentence(folder)) for folder in FOLDERS]
    for folder in FOLDERS:
        assert imports(PACKAGE / folder / "__init__.py") <= FROM_LIST, folder


# What `from metalearn_cli.tasks import from_list` needs, when it is used.
FROM_LIST = {"typing.TYPE_CHECKING", "metalearn_cli.tasks.finite.from_list"}


def test_the_tests_of_a_module_are_where_its_path_says() -> None:
    for folder in FOLDERS:
        modules = {path.stem for path in (PACKAGE / folder).glob("*.py")}
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            assert path.stem.removeprefix("test_") in modules | SHARED.get(folder, set()), path


# Tests of what several modules of a folder do together.
SHARED = {
    "algorithms": {"batch_norm", "call", "head", "heads", "masks", "no_waiting", "learns", "peers", "transductive"},
    "datasets": {"download", "unpack"},
    "nets": {"nets"},
    "system": {"denormals", "precision", "quiet"},
    "trained": {"predict_values", "predict_vectors"},
    "run_folder": {"damaged_runs"},
    "training": {"stages", "waiting"},
}


def test_no_finished_method_is_overridden() -> None:
    """What a class may have besides is asked for by capabilities.py of its folder."""
    for cls in classes():
        for base in cls.__mro__[1:]:
            finished = {name for name, value in vars(base).items() if base in classes() and is_finished(value)}
            assert not finished & vars(cls).keys(), f"{cls.__name__} overrides {base.__name__}"


def is_finished(member: object) -> bool:
    """Whether this member of a class is a method or a property with a body."""
    return hasattr(member, "__get__") and not getattr(member, "__isabstractmethod__", False)


@cache
def classes() -> frozenset[type]:
    """Every class of the package."""
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py")]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]
    members = [value for module in modules for value in vars(importlib.import_module(module)).values()]
    return frozenset(value for value in members if inspect.isclass(value) and value.__module__ in modules)


def test_what_is_public_in_python_is_there() -> None:
    assert all(hasattr(metalearn_cli, name) for name in metalearn_cli.__all__)
    assert callable(tasks.from_list)


def test_scipy_is_imported_where_it_is_called() -> None:
    """At the top of a module it would cost each `metalearn --help` and each completion half a second."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert not (isinstance(node, ast.Import | ast.ImportFrom) and "scipy" in ast.unparse(node)), path


def test_algorithms_read_write_draw_and_log_nothing() -> None:
    allowed = {"torch", "math", "collections", "dataclasses", "enum", "functools", "typing", "abc", "metalearn_cli"}
    for path in (PACKAGE / "algorithms").glob("*.py"):
        assert {module.split(".")[0] for module in imports(path)} <= allowed, path
        assert "print(" not in path.read_text()
