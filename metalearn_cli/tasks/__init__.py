"""One task distribution a file: an image set, a family of curves, a user's folder or table; `from_list` makes one of a
user's own arrays."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalearn_cli.tasks.finite import from_list as from_list


def __getattr__(name: str) -> object:
    """Import `from_list` when it is used: with it comes torch, without which a list of data sets is quick."""
    if name == "from_list":
        from metalearn_cli.tasks.finite import from_list

        return from_list
    raise AttributeError(f"there is no {name} in {__name__}")
