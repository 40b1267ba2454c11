"""Unpacking an archive that may come from anywhere: zip, tar, tar.gz, tar.bz2 or tar.xz.

All names and sizes are looked at before the first byte is written. Refused are names that lead out of the folder, names
that are one on some file systems, everything that is neither a plain file nor a folder, and archives that would become
too large. What is written are new files in a new folder, with no rights, owners or times of the archive's.
"""

import os
import re
import shutil
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import IO, Any, NamedTuple

from metalearn_cli.errors import UserError

MOST_MEMBERS = 1_000_000
MOST_BYTES = 200 << 30
MOST_RATIO = 100  # of the bytes in it to its own; images compress less than 10 times
_FREE_RATIO = 100 << 20  # bytes that any archive may have in it
_BLOCK = 1 << 20
_LONGEST_NAME = 1 << 20  # bytes of a name, or of what a header says besides
_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # "file", "folder" or what else it is
    handle: zipfile.ZipInfo | tarfile.TarInfo


def unpack(archive: Path, folder: Path) -> Iterator[tuple[int, int]]:
    """Write the files of an archive into a new folder, and say in between how many bytes of how many were written."""
    try:
        total = _check(archive, folder)
        yield from _write(archive, folder, total)
    except UserError:
        raise
    except OSError as error:
        if error.filename is None and error.errno is None:  # how gzip says that a file is not what it should be
            raise UserError(f"{archive} is damaged ({error}): take another copy") from error
        raise UserError(f"{error.filename or folder}: {error.strerror}; nothing of {archive} was kept") from error
    except Exception as error:  # whatever zipfile, tarfile and the compressions raise when they meet damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{archive} is damaged ({reason}): take another copy") from error


def _check(archive: Path, folder: Path) -> int:
    """The number of bytes in the archive. Raises UserError for one that is not to be unpacked."""
    packed = archive.stat().st_size
    total = 0
    seen: dict[str, tuple[str, str]] = {}  # name and kind of each file and folder
    for number, member in enumerate(_members(archive), 1):
        named = f"{archive} holds {member.name[:200]!r}"
        if number > MOST_MEMBERS:
            raise UserError(f"{archive} holds more than {MOST_MEMBERS:,} files: it is not unpacked")
        if member.kind not in ("file", "folder"):
            raise UserError(f"{named}, which is {member.kind}: only files and folders are unpacked")
        if (why := _leads_out(member.name)) is not None:
            raise UserError(f"{named}, {why}: it is not unpacked")
        if (other := _clash(seen, PurePosixPath(member.name), member.kind)) is not None:
            raise UserError(f"{named} and {other!r}, which get in each other's way: it is not unpacked")
        total += member.size
        if member.size < 0 or total > MOST_BYTES or total > max(_FREE_RATIO, MOST_RATIO * packed):
            raise UserError(
                f"{archive} has {packed:,} bytes and would become {total:,} or more: it is not unpacked, as no archive "
                f"of images grows {MOST_RATIO} times or beyond {MOST_BYTES >> 30} GiB"
            )
    if not any(kind == "file" for _, kind in seen.values()):
        raise UserError(f"{archive} holds no file")
    if (free := shutil.disk_usage(folder.parent).free) < total:
        raise UserError(f"{archive} needs {total:,} bytes in {folder.parent}, and {free:,} are free: make room there")
    return total


def _clash(seen: dict[str, tuple[str, str]], path: PurePosixPath, kind: str) -> str | None:
    """The member that this one cannot stand beside, on some file system; `seen` is added to."""
    for above in path.parents[:-1]:
        if (first := seen.setdefault(_narrow(above), (str(above), "folder"))) != (str(above), "folder"):
            return first[0]
    key, new = _narrow(path), (str(path), kind)
    if key in seen and (kind == "file" or seen[key] != new):
        return seen[key][0]
    seen[key] = new
    return None


def _write(archive: Path, folder: Path, total: int) -> Iterator[tuple[int, int]]:
    folder.mkdir()
    done = 0
    with _opened(archive) as opened:
        for member in _members_of(opened):
            path = folder / member.name
            if member.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with _content(opened, member) as source, open(path, "xb") as file:
                left = member.size
                while left and (block := source.read(min(left, _BLOCK))):
                    file.write(block)
                    left -= len(block)
                    done += len(block)
                    yield done, total
                if left:
                    raise EOFError(f"{member.name} is shorter than it says")


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    try:
        return tarfile.open(archive, tarinfo=_Header)
    except tarfile.ReadError as error:
        raise UserError(f"{archive} is no zip or tar archive that can be read: take another copy") from error


class _Header(tarfile.TarInfo):
    """A member whose long name or comment, which tarfile reads whole before it shows the member, is of a sane size."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Header":
        found = super().frombuf(buf, encoding, errors)
        if found.size > _LONGEST_NAME and found.type in _NAMES:
            raise UserError(f"an archive with a name of {found.size:,} bytes is not unpacked: take another one")
        return found


def _members(archive: Path) -> Iterator[_Member]:
    with _opened(archive) as opened:
        yield from _members_of(opened)


def _members_of(opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[_Member]:
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            mode = info.external_attr >> 16 if info.create_system == 3 else 0  # 3: Unix; 0 where none was given
            kind = "folder" if info.is_dir() else "file"
            if mode and not (S_ISDIR(mode) if info.is_dir() else S_ISREG(mode) or not mode & 0o170000):
                kind = "a link or a device"
            # The name as it stands in the archive: zipfile cuts it at a zero byte.
            yield _Member(info.orig_filename.rstrip("/"), info.file_size, kind, info)
        return
    while (found := opened.next()) is not None:
        opened.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        kind = "file" if found.isreg() and not found.issparse() else "folder" if found.isdir() else "a link or a device"
        yield _Member(found.name.rstrip("/") or "/", found.size if kind == "file" else 0, kind, found)
    assert opened.fileobj is not None
    opened.fileobj.seek(opened.offset)  # where tarfile found no more: it takes a damaged header for the end
    if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("its end is missing")


def _content(opened: zipfile.ZipFile | tarfile.TarFile, member: _Member) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(member.handle, zipfile.ZipInfo)
        return opened.open(member.handle)
    assert isinstance(member.handle, tarfile.TarInfo)
    content = opened.extractfile(member.handle)
    assert content is not None  # it is a plain file
    return content


def _leads_out(name: str) -> str | None:
    """What is wrong with a name; None where it is one of a file inside a folder on every system."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "whose name does not begin in the folder"
    if "\\" in name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "whose name has signs that are none of a name"
    if ".." in name.split("/"):
        return "whose name leads out of the folder"
    if any(len(os.fsencode(part)) > 255 for part in name.split("/")):
        return "whose name is too long"
    return None


def _narrow(path: PurePosixPath) -> str:
    """The name as a file system takes it that tells neither case nor the codes of a letter apart."""
    return unicodedata.normalize("NFC", str(path)).casefold()
