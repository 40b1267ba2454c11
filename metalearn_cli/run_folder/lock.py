"""Let one process at a time write into a run's folder."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import open_plain


def lock(folder: Path, enabled: bool) -> IO[str]:
    """Take the folder for this process while the returned file is open. The kernel frees it when the process dies."""
    path = folder / "lock"
    file = open(open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+")
    if not enabled:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"{folder} is in use by {file.read(200).strip() or 'another process'}: wait for it, or take another name"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder} stands on a file system that cannot lock files ({error.strerror}): give lock=false, and see to "
            "it yourself that only one process uses the folder"
        ) from error
    try:
        os.truncate(file.fileno(), 0)
        os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:  # a full disk
        error.filename = str(path)
        raise
    return file


def holder(folder: Path) -> str | None:
    """Name the process that holds the folder now, or may hold it, from another machine; None where none does."""
    try:
        with open(open_plain(folder / "lock", os.O_RDONLY)) as file:
            text = file.read(200).strip()
            pid, host = text.removeprefix("pid ").split(" on ", 1)
            if host != socket.gethostname():
                return f"{text}, if it still runs there"
            os.kill(int(pid), 0)  # raises where there is no such process
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # there is one, and it may be another by now
    except (BlockingIOError, PermissionError):  # the latter of another user's process
        return text
    except (OSError, ValueError, OverflowError):
        return None
    return None
