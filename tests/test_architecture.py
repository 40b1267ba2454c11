"""Imports run one way, and an algorithm is maths only."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "metalearn_cli"

# A module may import from its own layer and from those below it.
LAYERS = [
    {"__main__", "cli"},
    {"completion", "sweep", "reproduce", "row_tables", "doctor"},
    {"search"},
    {"search_plan", "search_study"},
    {"sweep_job", "search_space"},
    {"published"},
    {"jobs", "bench", "data", "packed_sets", "report", "predict", "export"},
    {"prepare", "continued"},
    {"choose", "calibrate"},
    {"loop", "stored", "machine"},
    {"model"},
    {
        "evaluate",
        "scored_parts",
        "runs",
        "records",
        "checked",
        "writers",
        "checkpoint",
        "config",
        "overrides",
        "schema",
        "metrics",
        "plot",
        "pictures",
        "examples",
        "task_file",
        "mirror",
        "pruning",
        "inputs",
        "given",
    },
    {"learner"},
    {"algorithms"},
    {"nets", "optimizer"},
    {"tasks"},
    {"datasets"},
    {
        "ahead",
        "allocator",
        "captured",
        "compiled",
        "measure",
        "seeding",
        "files",
        "progress",
        "errors",
        "catalog",
        "mistakes",
        "interrupt",
        "parallel",
        "fields",
        "help",
        "yaml_files",
        "text",
        "unlike",
    },
]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str:
    """metalearn_cli.nets.mlp.MLP -> nets."""
    return module.split(".")[1]


def test_imports_run_one_way() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for module in imports(path):
            if module.startswith("metalearn_cli.") and module != "metalearn_cli.__version__":
                assert level[part(module)] >= level[own], f"{own} imports {module}"


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
