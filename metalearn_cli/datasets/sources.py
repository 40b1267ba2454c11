"""Get the source of a data set: a file over the network, or the files of an archive that may come from anywhere.

What came over a line that broke is continued, and a file gets its name when it is whole. Of an archive (zip, tar,
tar.gz, tar.bz2, tar.xz) only files and folders are unpacked, as new ones, and with limits on their number and size; the
standard library checks that no name leads out of the folder. The caller removes what was written if this raises.
"""

import hashlib
import os
import shutil
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO

from tqdm import tqdm

from metalearn_cli.errors import UserError
from metalearn_cli.system.console import tell
from metalearn_cli.system.files import sync_folder

_TRIES = 3
_PAUSE = 2.0  # seconds before the next
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 16
_BROKEN_LINE = (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)

MOST_MEMBERS = 1_000_000
MOST_BYTES = 200 << 30
MOST_RATIO = 100  # of the bytes in it to its own; images compress less than 10 times
_FREE_RATIO = 100 << 20  # bytes that any archive may have in it

_Member = tuple[tarfile.TarInfo, Callable[[], IO[bytes] | None]]


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


def unpack(archive: Path, folder: Path) -> Iterator[tuple[int, None]]:
    """Write the files of an archive into a new folder. Yields how many bytes were written."""
    if not hasattr(tarfile, "data_filter"):
        raise UserError(
            f"Python {sys.version.split()[0]} has no tarfile.data_filter, by which archives are unpacked: take Python "
            f"3.10.12, 3.11.4, 3.12 or a later one, or unpack {archive} yourself"
        )
    folder.mkdir()
    try:
        yield from _unpack(archive, folder)
    except UserError:
        raise
    except OSError as error:
        if error.filename is None and error.errno is None:  # how gzip says that a file is not what it should be
            raise UserError(f"{archive} is damaged ({error}): take another copy") from error
        raise UserError(f"{error.filename or folder}: {error.strerror}; nothing of {archive} was kept") from error
    except Exception as error:  # whatever zipfile, tarfile and the compressions raise when they meet damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive} is damaged ({reason}): take another copy") from error


def _unpack(archive: Path, folder: Path) -> Iterator[tuple[int, None]]:
    most, done, number = min(MOST_BYTES, max(_FREE_RATIO, MOST_RATIO * archive.stat().st_size)), 0, 0
    with _opened(archive) as opened:
        for number, (member, read) in enumerate(_members(opened), 1):
            named = f"{archive} holds {member.name[:200]!r}"
            done += member.size
            if number > MOST_MEMBERS or done > most:
                raise UserError(
                    f"{archive} holds more than {MOST_MEMBERS:,} files, or than {most:,} bytes, which no archive of "
                    "images of its size does: it is not unpacked"
                )
            if not (member.isreg() or member.isdir()):
                raise UserError(f"{named}, which is a link or a device: only files and folders are unpacked")
            try:
                path = folder / tarfile.data_filter(member, str(folder)).name
            except tarfile.FilterError as error:
                raise UserError(f"{named}, whose name leads out of the folder: it is not unpacked") from error
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            if path.exists():
                raise UserError(f"{named} twice, or in place of a folder: it is not unpacked")
            path.parent.mkdir(parents=True, exist_ok=True)
            source = read()
            assert source is not None  # it is a file
            with source, open(path, "xb") as file:
                shutil.copyfileobj(source, file)
            yield done, None
    if not number:
        raise UserError(f"{archive} holds no file")


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    try:
        return tarfile.open(archive)
    except tarfile.ReadError as error:
        raise UserError(f"{archive} is not a zip or tar archive that can be read: take another copy") from error


def _members(opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[_Member]:
    """Yield each member, described as in a tar, and a function that opens it."""
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            member = tarfile.TarInfo(info.filename.rstrip("/"))
            member.size, member.type = info.file_size, tarfile.DIRTYPE if info.is_dir() else tarfile.REGTYPE
            yield member, partial(opened.open, info)
        return
    for member in iter(opened.next, None):
        opened.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        yield member, partial(opened.extractfile, member)


def follow_bytes(what: str, steps: Iterator[tuple[int, int | None]]) -> None:
    """Show how many bytes of how many are done: a bar on a terminal, otherwise a line every ten seconds."""
    spoke = time.monotonic()
    with tqdm(desc=what, unit="B", unit_scale=True, file=sys.stderr, disable=None) as bar:
        for done, total in steps:
            bar.total = total
            bar.update(done - bar.n)
            if bar.disable and time.monotonic() - spoke >= 10:
                spoke = time.monotonic()
                tell(f"{what}: {done / 1e6:.0f}{f' of {total / 1e6:.0f}' if total else ''} MB")
