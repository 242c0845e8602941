"""The error for a mistake that the user can fix: printed as one line. A bug keeps its traceback."""


class UserError(Exception):
    """A mistake that the user can fix. Its text is the whole message: what is wrong, where, and what to do."""
