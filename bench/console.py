"""Where text goes: tables to stdout, progress and errors to stderr; wide enough to stay readable when piped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPED_WIDTH = 500


def console(*, stderr: bool = False) -> Console:
    """A rich console on stdout or stderr; into a pipe or file it never wraps lines and sends no control codes."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def table(title: str | None, *headings: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table of the suite's look; the columns named in `right` hold numbers."""
    from rich import box
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.min_width = len(title or "")
    for heading in headings:
        grid.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return grid
