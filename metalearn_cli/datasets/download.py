"""Fetch a file: what came over a line that broke is continued, and a file gets its name when it is whole."""

import hashlib
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import sync_folder

_TRIES = 3
_PAUSE = 2.0  # seconds before the next
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 16
_BROKEN_LINE = (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def fetch(address: str, path: Path, md5: str) -> Iterator[tuple[int, int | None]]:
    """Put the file at `address`, which has this hash, at `path`; until it is whole it is PATH.part, which another
    call continues. Yields how many bytes of how many came, if the server says how many there are."""
    part = path.with_name(f"{path.name}.part")
    by_hand = f"put the file at {path} by other means"
    for attempt in range(1, _TRIES + 1):
        try:
            yield from _continue(address, part)
            break
        except _BROKEN_LINE as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
                if error.code == 416:  # nothing is left to send: the hash tells whether the part is whole
                    break
            if attempt == _TRIES:
                raise UserError(
                    f"{address} cannot be fetched ({error}): give the same command again, which continues after the "
                    f"{_size(part)} bytes that are there, or {by_hand}"
                ) from error
        time.sleep(_PAUSE)
    if (digest := hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
        part.unlink()
        raise UserError(f"what {address} gave has the md5 {digest} and not {md5}, and was removed: {by_hand}")
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def _continue(address: str, part: Path) -> Iterator[tuple[int, int | None]]:
    """Fetch what is not yet in `part`. Raises if the line breaks."""
    done = _size(part)
    headers = {"User-Agent": "metalearn"} | ({"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT) as answer:
        done = done if answer.status == 206 else 0  # otherwise the server sends all of it again
        length = answer.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else None
        with open(part, "ab" if done else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                done += len(block)
                yield done, total
    if total not in (None, done):
        raise HTTPException(f"the line broke after {done} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
