"""Table 1 of the GSASR paper, from the rows of a run: scales and metrics down, data sets and methods across."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from reports.documents import Block, Footnotes, complete_caption, latex_document, markdown_document, weights_text
from reports.markup import LATEX, MARKDOWN, Markup
from reports.means import METRICS, Metric, blocks, own_reason
from reports.rows import Run


def csv(run: Run, scores: pd.DataFrame) -> str:
    """Set scores as tidy CSV, unrounded, with what must be known to compare them."""
    tidy = scores.drop(columns="mark").assign(protocol=run.protocol, partial=bool(run.partial), run_id=run.name)
    return tidy.to_csv(index=False, lineterminator="\n")


def markdown(run: Run, scores: pd.DataFrame) -> str:
    """The table as Markdown, one block per backbone."""
    return markdown_document(f"Table 1 of run {MARKDOWN.escape(run.name)}", _blocks(run, scores, MARKDOWN))


def latex(run: Run, scores: pd.DataFrame, *, standalone: bool = False) -> str:
    """The table as LaTeX with booktabs, one float per backbone."""
    return latex_document(_blocks(run, scores, LATEX), standalone=standalone)


def _blocks(run: Run, scores: pd.DataFrame, markup: Markup) -> list[Block]:
    found = []
    for backbone, rows in blocks(run).items():
        own = scores[scores["backbone"] == backbone]
        notes = Footnotes()
        tabular = markup.tabular(_cells(run, own, markup, notes))
        title = f"Backbone: {run.titles('backbones')[backbone]}" if backbone else "Methods without a backbone"
        caption = complete_caption(run, describe(run, rows, own), markup)
        found.append(Block(markup.escape(title), caption, tabular, notes.lines(markup)))
    return found


def describe(run: Run, rows: pd.DataFrame, scores: pd.DataFrame) -> str:
    """What must be known to read a block: protocol, weights, data sets and their sizes, metrics that are missing."""
    sizes = rows.groupby("dataset")["image"].nunique()
    sets = ", ".join(f"{title} ({sizes[name]})" for name, title in run.titles("datasets").items() if name in sizes)
    protocol = run.manifest.get("protocol")
    title = protocol.get("title") if isinstance(protocol, dict) else None
    sentences = [
        f"Protocol {run.protocol}" + (f" ({title})." if title else "."),
        f"Weights: {weights_text(rows, run.titles('methods'))}.",
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


def _shown(scores: pd.DataFrame) -> list[Metric]:
    """The metrics that have a value somewhere; when none has, those of the paper."""
    scored = set(scores.loc[scores["scored"] > 0, "metric"])
    return [metric for metric in METRICS if metric.name in scored] or list(METRICS[:4])


def _cells(run: Run, scores: pd.DataFrame, markup: Markup, notes: Footnotes) -> pd.DataFrame:
    """Marked-up text by (scale, metric) and (data set, method)."""
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
        text = _cell(line, metric, markup, notes) if line else ""
        cells.setdefault(column, {})[markup.escape(f"×{scale:g}"), heading] = text
    return pd.DataFrame(cells)


def _cell(line: dict[Any, Any], metric: Metric, markup: Markup, notes: Footnotes) -> str:
    if line["reason"]:
        return markup.missing.format(notes.letter(line["reason"]))
    return {"best": markup.best, "second": markup.second}.get(line["mark"], "{}").format(metric.format(line["mean"]))
