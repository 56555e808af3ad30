"""Table 1 of the GSASR paper, from the rows of a run: scales and metrics down, data sets and methods across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pandas as pd

from reports.errors import ReportError
from reports.files import write_atomic
from reports.markup import LATEX, MARKDOWN, Markup
from reports.means import METRICS, Metric, blocks, own_reason, set_scores
from reports.rows import Run, load_run

FORMATS = {"md": "md", "latex": "tex", "csv": "csv"}
"""What `--format` takes, and the suffix of the file it writes."""
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


def write_report(
    run_dir: str | Path,
    table: int = 1,
    formats: Sequence[str] = tuple(FORMATS),
    out: str | Path | None = None,
    *,
    standalone: bool = False,
) -> list[Path]:
    """Write the table of a run, by default into its folder `reports/`, and return the files' paths.

    standalone: make the LaTeX file a document of its own; otherwise it is for `\\input` into one that loads booktabs,
    graphicx and multirow.

    Raises:
        ReportError: there is no such run, table or format, or the folder cannot be written.
    """
    if table != 1:
        raise ReportError(f"There is no table {table} in this version: give --table 1.")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ReportError(
            f"There is no report format {', '.join(unknown) or 'given'}: choose from {', '.join(FORMATS)}."
        )
    run = load_run(run_dir)
    scores = set_scores(run)
    folder = Path(out) if out is not None else run.path / "reports"
    make = {
        "md": lambda: markdown(run, scores),
        "latex": lambda: latex(run, scores, standalone=standalone),
        "csv": lambda: csv(run, scores),
    }
    return [
        write_atomic(folder / f"table{table}.{FORMATS[name]}", make[name]().encode()) for name in dict.fromkeys(formats)
    ]


def csv(run: Run, scores: pd.DataFrame) -> str:
    """Set scores as tidy CSV, unrounded, with what must be known to compare them."""
    tidy = scores.drop(columns="mark").assign(protocol=run.protocol, partial=bool(run.partial), run_id=run.name)
    return tidy.to_csv(index=False, lineterminator="\n")


def markdown(run: Run, scores: pd.DataFrame) -> str:
    """The table as Markdown, one block per backbone."""
    parts = [f"# Table 1 of run {MARKDOWN.escape(run.name)}"]
    for block in _blocks(run, scores, MARKDOWN):
        parts += [f"## {block.title}", block.caption, block.tabular, *block.footnotes]
    return "\n\n".join(parts) + "\n"


def latex(run: Run, scores: pd.DataFrame, *, standalone: bool = False) -> str:
    """The table as LaTeX with booktabs, one float per backbone."""
    floats = "\n".join(
        _FLOAT % (f"{block.title}. {block.caption}", block.tabular, "\n".join(block.footnotes))
        for block in _blocks(run, scores, LATEX)
    )
    return _DOCUMENT % floats if standalone else floats


@dataclass(frozen=True)
class _Block:
    """One backbone's part of the table, marked up."""

    title: str
    caption: str
    tabular: str
    footnotes: list[str]


def _blocks(run: Run, scores: pd.DataFrame, markup: Markup) -> list[_Block]:
    found = []
    for backbone, rows in blocks(run).items():
        own = scores[scores["backbone"] == backbone]
        reasons: dict[str, str] = {}
        tabular = markup.tabular(_cells(run, own, markup, reasons))
        title = f"Backbone: {run.titles('backbones')[backbone]}" if backbone else "Methods without a backbone"
        legend = f"Best in {markup.best.format('bold')}, second {markup.second.format('underlined')}, ties share."
        caption = f"{markup.escape(describe(run, rows, own))} {legend}"
        if run.partial:
            caption = f"{markup.strong.format('Partial run, not final:')} {markup.escape(run.partial)}. {caption}"
        notes = [markup.footnote.format(letter, markup.escape(reason)) for reason, letter in reasons.items()]
        found.append(_Block(markup.escape(title), caption, tabular, notes))
    return found


def describe(run: Run, rows: pd.DataFrame, scores: pd.DataFrame) -> str:
    """What must be known to read a block: protocol, weights, data sets and their sizes, metrics that are missing."""
    sizes = rows.groupby("dataset")["image"].nunique()
    sets = ", ".join(f"{title} ({sizes[name]})" for name, title in run.titles("datasets").items() if name in sizes)
    protocol = run.manifest.get("protocol")
    title = protocol.get("title") if isinstance(protocol, dict) else None
    sentences = [
        f"Protocol {run.protocol}" + (f" ({title})." if title else "."),
        f"Weights: {_weights(rows, run.titles('methods'))}.",
        f"Means over the images of {sets}.",
    ]
    for metric in METRICS[:4]:
        if metric not in _shown(scores):
            reason = _reason(rows, metric)
            sentences.append(f"{metric.title} not computed" + (f": {reason}." if reason else "."))
    return " ".join(sentences)


def _reason(rows: pd.DataFrame, metric: Metric) -> str:
    """Why a metric has no values; the remedy, behind the colon, is of no use to a table's readers."""
    reasons = (own_reason(reason, metric) for reason in rows.loc[rows["status"] == "ok", "reason"].unique())
    return "; ".join(dict.fromkeys(reason.partition(": ")[0] for reason in reasons if reason))


def _weights(rows: pd.DataFrame, methods: dict[str, str]) -> str:
    labels = []
    for name, title in methods.items():
        for row in rows[rows["method"] == name].head(1).to_dict("records"):
            digest = row["checkpoint_sha256"]
            if row["weights"] not in ("", "none"):
                labels.append(f"{title} {row['weights']}" + (f" (sha256 {digest[:8]})" if digest else ""))
    return ", ".join(labels) or "none"


def _shown(scores: pd.DataFrame) -> list[Metric]:
    """The metrics that have a value somewhere; when none has, those of the paper."""
    scored = set(scores.loc[scores["scored"] > 0, "metric"])
    return [metric for metric in METRICS if metric.name in scored] or list(METRICS[:4])


def _cells(run: Run, scores: pd.DataFrame, markup: Markup, reasons: dict[str, str]) -> pd.DataFrame:
    """Marked-up text by (scale, metric) and (data set, method); `reasons` collects the footnotes."""
    lines = {
        (line["dataset"], line["method"], line["scale"], line["metric"]): line for line in scores.to_dict("records")
    }
    present = [set(names) for names in zip(*lines, strict=True)]
    datasets = {name: title for name, title in run.titles("datasets").items() if name in present[0]}
    methods = {name: title for name, title in run.titles("methods").items() if name in present[1]}
    cells: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for scale, metric, dataset, method in product(sorted(present[2]), _shown(scores), datasets, methods):
        line = lines.get((dataset, method, scale, metric.name))
        column = markup.escape(datasets[dataset]), markup.escape(methods[method])
        heading = (markup.higher if metric.higher_is_better else markup.lower).format(metric.title)
        text = _cell(line, metric, markup, reasons) if line else ""
        cells.setdefault(column, {})[markup.escape(f"×{scale:g}"), heading] = text
    return pd.DataFrame(cells)


def _cell(line: dict[Any, Any], metric: Metric, markup: Markup, reasons: dict[str, str]) -> str:
    if line["reason"]:
        return markup.missing.format(reasons.setdefault(line["reason"], _letter(len(reasons))))
    return {"best": markup.best, "second": markup.second}.get(line["mark"], "{}").format(metric.format(line["mean"]))


def _letter(index: int) -> str:
    return ascii_lowercase[index % 26] * (index // 26 + 1)
