"""Task distributions: what an episode is, and which ones a seed draws; `from_list` makes one of a user's own arrays."""

from metalearn_cli.tasks.finite import from_list

__all__ = ["from_list"]
