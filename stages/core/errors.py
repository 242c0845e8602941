"""A user's mistake, as one readable line; a bug keeps its traceback."""


class UserError(Exception):
    """Something the user can fix. Its text is the whole message: what is wrong, where, and what to do."""
