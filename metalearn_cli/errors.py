"""The exceptions whose text is shown to a user."""

import difflib
import importlib
import os
import traceback
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what was given, where, and what would be right. It is
    shown instead of a traceback."""


class UsageError(Exception):
    """An unknown command or option: exit code 2."""


class RunFailed(Exception):
    """A fault of the program, or of a user's class, in the middle of a run: its text is one sentence that says what was
    saved, shown behind the traceback of what it was raised from."""


class SaidByAnother(Exception):
    """The end of one of several processes, of which another one tells the user; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Pruned(Exception):
    """The end of a trial that its search gives up: its text is one sentence, at which step and why."""


def is_debugging() -> bool:
    """Whether the user asks for the traceback of what is otherwise told in a sentence."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def nearest(key: str, options: Any, prefix: str = "") -> str:
    near = difflib.get_close_matches(key, list(options), n=1)
    if near:
        return f": did you mean {prefix}{near[0]}?"
    if len(list(options)) > 20:
        return ": metalearn train --cfg job prints every key"
    return f": choose from {', '.join(sorted(options))}" if options else ", which has none"


def failure_sentence(error: BaseException) -> str:
    """What went wrong in a user's own file, and in which line of it."""
    where = ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{_short(error.filename)} line {error.lineno}"
    else:
        passed = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
        # What a library below the user's file does is of no help.
        own = [frame for frame in passed if Path(frame.filename).is_relative_to(Path.cwd())] or passed
        where = f"{_short(own[-1].filename)} line {own[-1].lineno}" if own else ""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text}{f' ({where})' if where else ''}"


def _is_machinery(file: str) -> bool:
    """A frame that stands between the command and the user's file."""
    return file.startswith("<frozen") or Path(file).is_relative_to(Path(__file__).parent) or file == importlib.__file__


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
