"""Read and write records: files of JSON in a run's folder, or in an export, that carry the hash of their content."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from metalearn_cli.datasets.point_set import DAMAGE
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import EDITED
from metalearn_cli.system.files import read_bytes, read_text, write_durably
from metalearn_cli.system.typed_json import Json, Record, from_json, to_json

HASH = "content_sha256"
TEST_AGAIN = "metalearn eval run=... tests the run once more"
MOST_BYTES = 1 << 30  # of arrays, packed or not: a number for each of some million episodes after each inner step

Array = npt.NDArray[Any]


def sealed(content: Json) -> Json:
    """Return the content with a hash of it."""
    return {**content, HASH: _hash(content)}


def unsealed(path: Path, content: Json) -> Json:
    """Return the content without its hash. Raises UserError where the hash is not the content's."""
    inside = {key: value for key, value in content.items() if key not in (HASH, EDITED)}
    if HASH in content and not content.get(EDITED) and content[HASH] != _hash(inside):
        raise UserError(
            f"{path} is not as it was written, its content does not have the hash that stands in it: put it back, or "
            f'write "{EDITED}": true into it to have it taken as it is'
        )
    return inside


def _hash(content: Json) -> str:
    """Hash the values, whatever the order of the keys, the spaces and the line breaks."""
    as_read = json.loads(json.dumps(content))  # texts for keys, lists for tuples
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def arrays_of(path: Path) -> dict[str, Array]:
    """Read the arrays of an .npz. Raises UserError where it is missing or damaged."""
    try:
        with NpzFile(io.BytesIO(read_bytes(path, MOST_BYTES))) as arrays:  # np.load takes all else for a pickle
            if (unpacked := sum(info.file_size for info in arrays.zip.infolist())) > MOST_BYTES:
                raise ValueError(f"it has {unpacked:,} bytes once unpacked, and {MOST_BYTES:,} are read at most")
            return dict(arrays)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): mend or remove it") from error
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read ({error}): {TEST_AGAIN}") from error


def read_json(path: Path) -> Json:
    """Read an object that a run has written. Raises UserError where it is missing, damaged or changed."""
    return unsealed(path, read_object(path))


def read_record(kind: type[Record], path: Path) -> Record:
    """Read the record of this kind at `path`. Raises UserError where it is missing, damaged or changed."""
    return from_json(kind, read_json(path), path)


def write_record(path: Path, record: object) -> None:
    """Write a record, or an object, with a hash of its content, which `read_json` checks."""
    write_durably(path, (json.dumps(sealed(to_json(record)), indent=2, allow_nan=False) + "\n").encode())


def read_object(path: Path) -> Json:
    """Read an object as it stands in the file. Raises UserError where it is missing or damaged."""
    try:
        content: Json = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read ({what}): mend or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object: mend or remove it")
    return content
