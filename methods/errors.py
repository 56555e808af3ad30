"""The one exception that users are meant to read."""


class UserError(ValueError):
    """Something that was asked for cannot be done.

    Its text is one sentence that names the thing and the remedy; the command line prints it and exits with 2.
    """
