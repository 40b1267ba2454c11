"""The one exception that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what was given, where, and what would be right."""


class SaidByAnother(Exception):
    """The end of one of several processes, of which another one tells the user; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
