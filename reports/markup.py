"""The two ways a table is written: Markdown for repositories, LaTeX (booktabs) for papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

_LATEX_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "{''}",
        "×": r"$\times$",
        "—": r"\textemdash{}",
        "–": r"\textendash{}",
        **{char: "\\" + char for char in "$&#%_"},
    }
)


def escape_latex(text: str) -> str:
    """Make text printable as it stands; what pdflatex has no glyph for becomes `?`."""
    printable = "".join(char if " " <= char < "\u0180" or char in "—–" else "?" for char in text)
    return printable.translate(_LATEX_SPECIAL).replace("--", "-{}-")


def escape_markdown(text: str) -> str:
    """Make text printable as it stands, in a table's cell as well."""
    return "".join("\\" + char if char in "\\`*_[]<>|" else char for char in " ".join(text.split()))


@dataclass(frozen=True)
class Markup:
    """What tells Markdown from LaTeX inside cells, headings and captions; the templates take one text."""

    best: str
    second: str
    missing: str
    noted: str
    higher: str
    lower: str
    strong: str
    footnote: str
    escape: Callable[[str], str]
    tabular: Callable[[pd.DataFrame], str]


def pipe_table(frame: pd.DataFrame) -> str:
    """A GitHub table of cells with (scale, metric) down and (data set, method) across; one data set goes unnamed."""
    columns = frame.columns.to_frame().to_numpy().tolist()
    several = len({dataset for dataset, _ in columns}) > 1
    heads = [f"{dataset}<br>{method}" if several else method for dataset, method in columns]
    lines, before = [], ""
    for (scale, metric), cells in zip(frame.index.to_list(), frame.to_numpy().tolist(), strict=True):
        lines.append(["" if scale == before else scale, metric, *cells])
        before = scale
    align = ["left", "left", *["right"] * len(heads)]
    return tabulate(lines, ["Scale", "Metric", *heads], "pipe", disable_numparse=True, colalign=align)


def booktabs(frame: pd.DataFrame) -> str:
    """A tabular of the same cells, with space between scales and a rule under each data set's name."""
    columns = "ll" + "r" * frame.shape[1]
    text: str = frame.style.to_latex(hrules=True, clines="skip-last;index", column_format=columns, multicol_align="c")
    text = text.replace("\\cline{1-2}\n\\bottomrule", r"\bottomrule").replace(r"\cline{1-2}", r"\addlinespace")
    rules, start = "", 3
    for width in frame.columns.to_frame().groupby(0, sort=False).size():
        rules += rf"\cmidrule(lr){{{start}-{start + width - 1}}}"
        start += width
    return text.replace("\\\\\n", f"\\\\\n{rules}\n", 1)


MARKDOWN = Markup(
    best="**{}**",
    second="<u>{}</u>",
    missing="—<sup>{}</sup>",
    noted="{}<sup>{}</sup>",
    higher="{} ↑",
    lower="{} ↓",
    strong="**{}**",
    footnote="<sup>{}</sup> {}.",
    escape=escape_markdown,
    tabular=pipe_table,
)
LATEX = Markup(
    best=r"\textbf{{{}}}",
    second=r"\underline{{{}}}",
    missing=r"\textemdash\textsuperscript{{{}}}",
    noted=r"{}\textsuperscript{{{}}}",
    higher=r"{} $\uparrow$",
    lower=r"{} $\downarrow$",
    strong=r"\textbf{{{}}}",
    footnote=r"\par\smallskip\footnotesize\textsuperscript{{{}}} {}.",
    escape=escape_latex,
    tabular=booktabs,
)
