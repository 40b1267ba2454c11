"""The columns of a Parquet file, which pyarrow reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.errors import UserError


def read_parquet(path: Path) -> tuple[list[str], list[Sequence[Any]]]:
    """Read the names of the columns, and the cells of each. Raises UserError for a damaged file."""
    pyarrow = require_pyarrow(path)
    try:
        table = _row_groups(path, pyarrow)
        return table.column_names, [column.to_numpy() for column in table.columns]
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:  # a damaged name raises the second
        raise UserError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _row_groups(path: Path, pyarrow: Any) -> Any:
    """Read the table part by part, without the lengths that its metadata tell. Raises UserError where it takes more
    than half of the free memory: numbers that are repeated take no room in the file."""
    import torch

    from metalearn_cli.system.measure import free_memory

    file, room = pyarrow.parquet.ParquetFile(path), free_memory(torch.device("cpu"))
    parts = [file.schema_arrow.empty_table()]
    for number in range(file.num_row_groups):
        parts.append(file.read_row_group(number))
        if room is not None and sum(part.nbytes for part in parts) > room / 2:
            raise UserError(f"{path} takes more than half of the {room / 1e9:.3g} GB of free memory: take a part of it")
    return pyarrow.concat_tables(parts)


def require_pyarrow(needed_by: object) -> Any:
    """Import it with its part for Parquet. Raises UserError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{needed_by} needs pyarrow, which is not installed: pip install 'metalearn-cli[table]'"
        ) from None
    return pyarrow
