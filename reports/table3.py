"""Table 3 of the GSASR paper, from the rows of a cost run: scales and metrics down, methods across."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports import paper
from reports.captions import describe, random_weights
from reports.cost import COST_METRICS, MEMORY, NOISY, TIME, CostBlock, cost_blocks, cost_protocol, shown_cells
from reports.cost_details import ceilings_section, details_section
from reports.documents import Block, Footnotes, complete_caption, latex_document, markdown_document
from reports.markup import LATEX, MARKDOWN, Markup
from reports.means import Metric, marks
from reports.rows import Run

Published = Mapping[tuple[str, float, str], paper.Printed]


def csv(run: Run, cells: pd.DataFrame, *, published: bool = False) -> str:
    """One line per cell, fallbacks and failures apart, unrounded; printed values of the paper as they are."""
    tidy = cells.assign(absent=[json.dumps(absent, sort_keys=True) for absent in cells["absent"]])
    if published:
        tidy = tidy.assign(**_printed_columns(run, cells))
    statistic = cost_protocol(run)["statistic"]
    tidy = tidy.assign(protocol=run.protocol, statistic=statistic, partial=bool(run.partial), run_id=run.name)
    return tidy.to_csv(index=False, lineterminator="\n")


def _printed_columns(run: Run, cells: pd.DataFrame) -> dict[str, list[str]]:
    titles, backbones = run.titles("methods"), run.titles("backbones")
    places = list(zip(cells["backbone"], cells["dataset"], cells["crop"], strict=True))
    tables = {place: paper.table3(backbones[place[0]], place[1], int(place[2])) for place in dict.fromkeys(places)}
    methods = [paper.short_title(titles[name]) for name in cells["method"]]
    nothing = paper.Printed("", "")
    return {
        f"paper_{metric.name}": [
            tables[place].get((method, float(scale), metric.name), nothing).text
            for place, method, scale in zip(places, methods, cells["scale"], strict=True)
        ]
        for metric in COST_METRICS
    }


def markdown(run: Run, cells: pd.DataFrame, *, published: bool = False) -> str:
    """The table as Markdown, one block per device, backbone, data set and patch size, with details below each."""
    return markdown_document(
        f"Table 3 of run {MARKDOWN.escape(run.name)}",
        [_block(run, block, MARKDOWN, published) for block in cost_blocks(run, cells)],
    )


def latex(run: Run, cells: pd.DataFrame, *, published: bool = False, standalone: bool = False) -> str:
    """The table as LaTeX with booktabs, one float per block."""
    blocks = [_block(run, block, LATEX, published) for block in cost_blocks(run, cells)]
    return latex_document(blocks, standalone=standalone)


def _block(run: Run, block: CostBlock, markup: Markup, published: bool) -> Block:
    cells, notes = shown_cells(block), Footnotes()
    shown = _shown(cells)
    backbone = run.titles("backbones")[block.backbone] if block.backbone else ""
    printed = paper.table3(backbone, block.dataset, block.crop) if published else {}
    tabular = markup.tabular(_Filler(run, block, markup, notes, printed).frame(cells, shown))
    dataset = run.titles("datasets")[block.dataset]
    title = f"{backbone or 'Methods without a backbone'}, {block.crop}×{block.crop} crops of {dataset}, {block.device}"
    text = describe(run, block, cells, shown, printed if published else None)
    sections = (*details_section(run, cells), *ceilings_section(run, block, cells)) if markup is MARKDOWN else ()
    return Block(markup.escape(title), complete_caption(run, text, markup), tabular, notes.lines(markup), sections)


def _shown(cells: pd.DataFrame) -> list[Metric]:
    """Time, memory, and the scores that have a value somewhere; those of random weights mean nothing."""
    costs = (TIME, MEMORY)
    scored = not random_weights(cells)
    return [metric for metric in COST_METRICS if metric in costs or (scored and cells[metric.name].notna().any())]


class _Filler:
    """Makes the marked-up cells of one block."""

    def __init__(self, run: Run, block: CostBlock, markup: Markup, notes: Footnotes, printed: Published) -> None:
        self._methods = run.titles("methods")
        self._dataset = f"{block.crop}×{block.crop} crops of {run.titles('datasets')[block.dataset]}"
        self._markup, self._notes, self._printed = markup, notes, printed
        self._repeats = cost_protocol(run).get("repeats") or int(block.cells["repeats"].max())

    def frame(self, cells: pd.DataFrame, metrics: list[Metric]) -> pd.DataFrame:
        """Text by (scale, metric) and (data set, method)."""
        escape = self._markup.escape
        methods = [name for name in self._methods if name in set(cells["method"])]
        found: dict[tuple[str, str], dict[tuple[str, str], str]] = {
            (escape(self._dataset), escape(self._methods[name])): {} for name in methods
        }
        for scale in sorted(cells["scale"].unique()):
            lines = {line["method"]: line for line in cells[cells["scale"] == scale].to_dict("records")}
            for metric in metrics:
                heading = (self._markup.higher if metric.higher_is_better else self._markup.lower).format(metric.title)
                present = [name for name in methods if name in lines]
                ranks = dict(zip(present, _ranks([lines[name] for name in present], metric), strict=True))
                for name, column in zip(methods, found.values(), strict=True):
                    text = self._cell(lines[name], metric, ranks[name]) if name in lines else ""
                    column[escape(f"×{scale:g}"), heading] = text + self._paper(name, float(scale), metric)
        return pd.DataFrame(found)

    def _cell(self, line: dict[Any, Any], metric: Metric, rank: str) -> str:
        value = line[metric.name]
        if value != value:
            why = line["reason"] or line["absent"].get(metric.name) or "not measured"
            return self._markup.missing.format(self._notes.letter(why.rstrip(".")))
        text = {"best": self._markup.best, "second": self._markup.second}.get(rank, "{}").format(metric.format(value))
        return self._noted(text, [self._notes.letter(remark) for remark in self._remarks(line, metric)])

    def _remarks(self, line: dict[Any, Any], metric: Metric) -> list[str]:
        remarks = []
        if _apart(line, metric):
            why = f" ({line['failed'].rstrip('.')})" if line["failed"] else ""
            remarks.append(f"memory had run out{why}, so measured in smaller {line['fallback']}; not ranked")
        elif line["tile"] == line["tile"] and metric in (TIME, MEMORY):
            remarks.append(f"{line['tile']:.0f} queries rendered at a time instead of the method's default")
        if metric is TIME:
            if line["cv"] > NOISY:
                remarks.append(f"varied by more than {NOISY * 100:g} % (coefficient of variation) over the repeats")
            if line["repeats"] < self._repeats:
                remarks.append(f"{line['repeats']} of {self._repeats} repeats")
            if line["others"] > 0:
                remarks.append(f"{line['others']:.0f} other processes were on the GPU")
            if line["throttled"]:
                remarks.append(f"clocks were throttled ({line['throttled']})")
        return remarks

    def _paper(self, method: str, scale: float, metric: Metric) -> str:
        found = self._printed.get((paper.short_title(self._methods[method]), scale, metric.name))
        if found is None:
            return ""
        return " / " + self._noted(found.text, [self._notes.letter(found.remark)] if found.remark else [])

    def _noted(self, text: str, letters: list[str]) -> str:
        return self._markup.noted.format(text, ",".join(letters)) if letters else text


def _apart(line: Mapping[Any, Any], metric: Metric) -> bool:
    """Whether the number is of something else than the column's other numbers: tiles change scores, too."""
    return line["fallback"] == "tiles" or (line["fallback"] != "" and metric in (TIME, MEMORY))


def _ranks(lines: list[dict[Any, Any]], metric: Metric) -> list[str]:
    return marks([float("nan") if _apart(line, metric) else line[metric.name] for line in lines], metric)
