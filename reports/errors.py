"""The one exception of this package that users are meant to read."""

from __future__ import annotations


class ReportError(ValueError):
    """A report cannot be made; the text is one sentence that names what is wrong and the remedy."""
