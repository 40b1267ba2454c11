"""The exceptions whose text is shown to a user."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what was given, where, and what would be right. It is
    shown instead of a traceback."""


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
