"""A comparison for a pull request, as Markdown, and for the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.comparison.lines import Comparison, Line
from bench.comparison.wording import HEADINGS, RIGHT, counts, sections, text_line
from bench.console import table

if TYPE_CHECKING:
    from rich.table import Table

FULL_TABLE = 40
"""More lines than that nobody reads on a screen."""
_STYLES = {"regressed": "bold red", "improved": "green", "too few": "yellow", "not gated": "yellow"}
_SPECIAL = {**{char: "\\" + char for char in "\\`*_[]<>|~#"}, "@": "&#64;"}


def markdown(comparison: Comparison) -> str:
    """A comment: the verdict, what regressed, and the rest folded away. The same comparison gives the same text."""
    verdict = "Regression" if comparison.regressed else "No regression"
    names = f"{_escape(comparison.new)} (NEW) against {_escape(comparison.base)} (BASE)"
    parts = [f"**{verdict}**: {names}; {counts(comparison)}.", _escape(comparison.protocol)]
    if comparison.regressed:
        parts.append(_pipe_table(comparison.of("regressed")))
    folded = [f"**{title}**\n\n{_pipe_table(lines)}" for title, lines in sections(comparison)]
    folded += [_escape(comparison.rule)] if comparison.rule else []
    folded += ["\n".join(f"- {_escape(note)}" for note in comparison.notes)] if comparison.notes else []
    parts += ["<details>\n<summary>All comparisons</summary>", *folded, "</details>"]
    return "\n\n".join(parts) + "\n"


def screen_tables(comparison: Comparison) -> list[Table]:
    """A table per kind of line; of more than `FULL_TABLE` lines, those that differ, if any do."""
    grids = [_screen_table(title, lines) for title, lines in sections(comparison)]
    return [grid for grid in grids if grid.row_count]


def sentences(comparison: Comparison) -> list[str]:
    """What a reader of the tables should know: the verdict at the end, where screens stop."""
    verdict = "Regression" if comparison.regressed else "No regression"
    names = f"{comparison.new} (NEW) against {comparison.base} (BASE)"
    said = [*comparison.notes, comparison.protocol, comparison.rule, f"{verdict}: {names}; {counts(comparison)}."]
    return [text for text in said if text]


def _screen_table(title: str, lines: Sequence[Line]) -> Table:
    from rich.text import Text

    shown = lines if len(lines) <= FULL_TABLE else [line for line in lines if line.verdict != "same"]
    grid = table(title, *HEADINGS, right=RIGHT)
    if len(shown) < len(lines):
        grid.caption = f"{len(lines) - len(shown)} more as they were"
    for line in shown:
        style = _STYLES.get(line.verdict, "")
        grid.add_row(*(Text(cell, style if cell == line.verdict else "") for cell in text_line(line)))
    return grid


def _pipe_table(lines: Iterable[Line]) -> str:
    rule = ["---:" if heading in RIGHT else "---" for heading in HEADINGS]
    rows = [[_escape(cell) for cell in text_line(line)] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADINGS, rule, *rows))


def _escape(text: str) -> str:
    """The text as it stands, on one line, in a table's cell as well; it notifies nobody."""
    return "".join(_SPECIAL.get(char, char) for char in " ".join(text.split()))
