"""Fetching a file: what a broken line has left is gone on with, and a file stands under its name when it is whole."""

import hashlib
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import sync_folder

_TRIES = 3  # without a byte in between
_PAUSE = 2.0  # seconds before the next
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 16


class Progress(NamedTuple):
    done: int  # bytes
    total: int | None  # where the server says so


def fetch(address: str, path: Path, md5: str | None = None) -> Iterator[Progress]:
    """Put what is at `address` at `path`, and say in between how far it is.

    Until it is whole it stands in PATH.part, which a next call goes on with. `md5` is what others have published: what
    the file holds is for its reader to check.
    """
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while failures < _TRIES:
        before = _size(part)
        try:
            yield from _go_on(address, part)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing is left to send: the part is whole, or belongs to another file
                if _total(error.headers.get("Content-Range")) == before:
                    break
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise UserError(f"{address} gave {error.code} ({error.reason}): {_by_hand(path)}") from error
            reason = f"{error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = str(error.reason)
        except (HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            reason = str(error) or type(error).__name__
        failures = 0 if _size(part) > before else failures + 1
        time.sleep(_PAUSE)
    else:
        raise UserError(
            f"{address} cannot be fetched ({reason}): give the same command again, which goes on after the "
            f"{_size(part)} bytes that are there, or {_by_hand(path)}"
        )
    if md5 is not None and (found := _md5(part)) != md5:
        part.unlink()
        raise UserError(f"what {address} gave has the md5 {found} and not {md5}, and was removed: {_by_hand(path)}")
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def _by_hand(path: Path) -> str:
    return f"put the file at {path} by other means"


def _go_on(address: str, part: Path) -> Iterator[Progress]:
    """Fetch what is not yet in `part`. Raises where the line breaks."""
    have = _size(part)
    headers = {"User-Agent": "metalearn", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    answer: HTTPResponse
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT) as answer:
        goes_on = answer.status == 206 and _first(answer.headers.get("Content-Range")) == have
        if answer.status == 206 and not goes_on:
            raise HTTPException("another part of the file came than was asked for")
        if goes_on:
            total = _total(answer.headers.get("Content-Range"))
        else:  # the server sends all of it again
            length = answer.headers.get("Content-Length", "")
            have, total = 0, int(length) if length.isdigit() else None
        with open(part, "ab" if goes_on else "wb") as file:
            while block := answer.read(_BLOCK):
                try:
                    file.write(block)
                except OSError as error:
                    error.filename = str(part)  # a write does not say where
                    raise
                have += len(block)
                yield Progress(have, total)
        if total is not None and have != total:
            raise HTTPException(f"the line broke after {have} of {total} bytes")


def _first(content_range: str | None) -> int | None:
    """bytes 7-9/10 -> 7."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", content_range or "")
    return int(found[1]) if found else None


def _total(content_range: str | None) -> int | None:
    """bytes 7-9/10 or bytes */10 -> 10."""
    found = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", content_range or "")
    return int(found[1]) if found else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
