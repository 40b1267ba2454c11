"""Files that exist whole or not at all, logs, locks, and the reading of files that somebody else may have made."""

import contextlib
import errno
import fcntl
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 1 << 26  # of a record; those of a run are far smaller


def open_plain(path: Path, flags: int) -> int:
    """Open this very file -> its descriptor. Raises OSError for a link, a pipe, a device and a folder."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        words = {errno.ELOOP: "it is a link, and a plain file is expected", errno.ENXIO: "it is not a plain file"}
        error.strerror = words.get(error.errno or 0, error.strerror)
        raise
    try:
        check_plain(path, descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_plain(path: Path, descriptor: int | None = None) -> None:
    """Raises OSError where the path, or what a link there leads to, is not a plain file."""
    if not stat.S_ISREG((path.stat() if descriptor is None else os.fstat(descriptor)).st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))


def open_bytes(path: Path, most: int = MOST_BYTES) -> BinaryIO:
    """Open a foreign file for reading. Raises OSError for more than `most` bytes, and as open_plain does."""
    file = open(open_plain(path, os.O_RDONLY), "rb")
    if (size := os.fstat(file.fileno()).st_size) > most:
        file.close()
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {most:,} are read at most", str(path))
    return file


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read the content of such a file."""
    with open_bytes(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # and no more, should it grow


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read such a file as text. Raises OSError where it is not UTF-8."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, "it is not text in UTF-8", str(path)) from error


def refuse_link(folder: Path) -> None:
    """Raises OSError where a folder inside the folder of a run is a link: what is written would be elsewhere."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and a folder is expected", str(folder))


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` at `path`, as `replacing` does it."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file beside `path`, and put it there when it is written: fsync, rename, fsync of the folder. A
    full disk raises a plain OSError, leaves what stood at `path` as it was, and leaves no temporary file."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of another process with this number, or a link that waits for it
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write does not say where
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed into a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Write all of it to a file without a buffer, which may take less at once."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


class Log:
    """A text file that is appended to. What a full disk does not take is not tried again when it is closed."""

    def __init__(self, path: Path) -> None:
        self._file = open(open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)
        self._path = path

    def write(self, text: str) -> None:
        """Append a text. Raises OSError with the name of the file."""
        try:
            write_all(self._file, text.encode())
        except OSError as error:
            error.filename = str(self._path)
            raise

    def sync(self) -> None:
        """Make sure that all of it is on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def turn(folder: Path, waiting: str) -> Iterator[bool]:
    """Wait until no other process holds this folder, and hold it; False where the file system cannot lock. A process
    that has to wait says `waiting`. The folder itself is locked: no lock file is left, should its holder die."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(descriptor, waiting)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def turn_at(path: Path, waiting: str | None) -> Iterator[bool]:
    """Hold a lock file at `path`, which is removed afterwards, as `turn` holds a folder. With `waiting` None it is not
    waited for, and the answer is False also where another process holds it."""
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "rb") as file:
            is_locked = _locked(file.fileno(), waiting)
            # Its last holder may have removed the file, and a third process made a new one: only that one counts.
            if is_locked and not _is_at(file.fileno(), path):
                continue
            try:
                yield is_locked
            finally:
                if is_locked or waiting is not None:
                    path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int, waiting: str | None) -> bool:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                return False
            with contextlib.suppress(OSError):  # a closed terminal
                print(waiting, file=sys.stderr, flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
