"""The exceptions whose text is shown to a user."""

import difflib
import importlib
import os
import traceback
from collections.abc import Collection
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend, in one sentence: what was given, where, and what would be right."""


class UsageError(Exception):
    """An unknown command or option: exit code 2."""


class RunFailed(Exception):
    """A fault of the program, or of a user's class, in the middle of a run: one sentence on what was saved."""


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


def nearest(key: str, options: Collection[str], prefix: str = "") -> str:
    """The end of a sentence about a key or choice that is none of the options."""
    if near := difflib.get_close_matches(key, options, n=1):
        return f": did you mean {prefix}{near[0]}?"
    if len(options) > 20:
        return ": metalearn train --cfg job prints every key"
    return f": choose from {', '.join(sorted(options))}" if options else ", which has none"


def failure_sentence(error: BaseException) -> str:
    """Say what went wrong in a user's own file, and in which line of it."""
    passed = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    # What a library below the user's file does is of no help.
    frames = [frame for frame in passed if Path(frame.filename).is_relative_to(Path.cwd())] or passed
    places = [f" ({_short(frame.filename)} line {frame.lineno})" for frame in frames[-1:]]
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        text, places = error.msg, [f" ({_short(error.filename)} line {error.lineno})"]
    return f"{type(error).__name__}{': ' if text else ''}{text}{''.join(places)}"


def _is_machinery(file: str) -> bool:
    """A frame that stands between the command and the user's file."""
    return file.startswith("<frozen") or Path(file).is_relative_to(Path(__file__).parent) or file == importlib.__file__


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
