"""The one exception that is shown to a user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake that the user can mend; its text is one sentence: what was given, where, and what would be right."""
