"""Task distributions; `from_list` makes one of a user's own arrays."""

from metalearn_cli.tasks.counted import from_list

__all__ = ["from_list"]
