"""From the marked-up parts of a table to whole Markdown and LaTeX documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import ascii_lowercase

import pandas as pd

from reports.markup import Markup
from reports.rows import Run

_DOCUMENT = r"""\documentclass{article}
\usepackage[a4paper,margin=15mm]{geometry}
\usepackage{booktabs,graphicx,multirow}
\pagestyle{empty}
\begin{document}
%s\end{document}
"""
_FLOAT = r"""\begin{table}
\centering
\caption{%s}\vskip 1ex
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%%
%s}
%s
\end{table}
"""


@dataclass(frozen=True)
class Block:
    """One part of a table with a caption of its own, marked up."""

    title: str
    caption: str
    tabular: str
    footnotes: list[str]
    appendix: tuple[str, ...] = ()
    """Paragraphs below it, in Markdown only."""


class Footnotes:
    """Remarks to cells; the same remark has the same letter."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def letter(self, remark: str) -> str:
        """What stands at a cell for a remark: a to z, aa to zz, ..."""
        index = len(self._letters)
        return self._letters.setdefault(remark, ascii_lowercase[index % 26] * (index // 26 + 1))

    def lines(self, markup: Markup) -> list[str]:
        """The remarks as they stand under the table."""
        return [markup.footnote.format(letter, markup.escape(remark)) for remark, letter in self._letters.items()]


def markdown_document(heading: str, blocks: Iterable[Block]) -> str:
    """One section per block; the heading is marked up."""
    parts = [f"# {heading}"]
    for block in blocks:
        parts += [f"## {block.title}", block.caption, block.tabular, *block.footnotes, *block.appendix]
    return "\n\n".join(parts) + "\n"


def latex_document(blocks: Iterable[Block], *, standalone: bool) -> str:
    """One float per block; standalone: a document of its own, else for `\\input` into one."""
    floats = "\n".join(
        _FLOAT % (f"{block.title}. {block.caption}", block.tabular, "\n".join(block.footnotes)) for block in blocks
    )
    return _DOCUMENT % floats if standalone else floats


def complete_caption(run: Run, text: str, markup: Markup) -> str:
    """A caption: what `text` says, how ranks look, and before all that a run is not final."""
    legend = f"Best in {markup.best.format('bold')}, second {markup.second.format('underlined')}, ties share."
    caption = f"{markup.escape(text)} {legend}"
    if run.partial:
        caption = f"{markup.strong.format('Partial run, not final:')} {markup.escape(run.partial)}. {caption}"
    return caption


def weights_text(rows: pd.DataFrame, methods: Mapping[str, str]) -> str:
    """Whose weights the methods had (names to titles), in their order."""
    labels = []
    for name, title in methods.items():
        for row in rows[rows["method"] == name].head(1).to_dict("records"):
            digest = row["checkpoint_sha256"]
            if row["weights"] not in ("", "none"):
                labels.append(f"{title} {row['weights']}" + (f" (sha256 {digest[:8]})" if digest else ""))
    return ", ".join(labels) or "none"
