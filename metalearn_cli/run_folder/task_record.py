"""What the examples of a run's task are: its task.json."""

from pathlib import Path

from metalearn_cli.run_folder.records import read_record, write_record
from metalearn_cli.tasks.example_format import Examples, require_plausible

FILE = "task.json"


def read_examples(folder: Path) -> Examples:
    """Read the examples of the run in this folder. Raises UserError where the file is missing, damaged or changed."""
    examples = read_record(Examples, folder / FILE)
    require_plausible(examples, folder / FILE)
    return examples


def write_examples(folder: Path, examples: Examples) -> None:
    write_record(folder / FILE, examples)
