"""Figures of a cost run: quality over time, and memory over scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.captions import random_weights
from reports.cost import TIME, CostBlock, cost_blocks, load_cost_run, shown_cells, summarise
from reports.errors import ReportError
from reports.plots import (
    COLUMN,
    GREY,
    PAGE,
    drawing,
    method_legend,
    new_figure,
    plain_ticks,
    point,
    styles,
    write_figure,
)
from reports.rows import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_HEIGHT = 1.85
_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def write_cost_figures(run_dir: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw a cost run, by default into its folder `reports/`, as PNG and PDF, and return the files' paths.

    One pair of figures for each table that the run has: `speed-quality`, which needs scores of trained weights, and
    `memory`.

    Raises:
        ReportError: there is no such run, it holds scores, nothing in it was measured, matplotlib is not installed, or
            the folder cannot be written.
    """
    run = load_cost_run(run_dir)
    folder = Path(out) if out is not None else run.path / "reports"
    blocks = list(cost_blocks(run, summarise(run)))
    files = []
    with drawing():
        for suffix, block in zip(suffixes(blocks), blocks, strict=True):
            cells = shown_cells(block)
            cells = cells[cells["status"] == "ok"]
            if cells["psnr_y"].notna().any() and not random_weights(cells):
                files += write_figure(speed_quality(run, cells), folder / f"speed-quality{suffix}")
            if cells["memory_mib"].gt(0).any():
                files += write_figure(memory(run, block, cells), folder / f"memory{suffix}")
    if not files:
        raise ReportError(f"The run {run.name} has neither scores nor memory to draw: measure again.")
    return files


def suffixes(blocks: Iterable[CostBlock]) -> list[str]:
    """What tells the files of a run's blocks apart; empty where there is one only."""
    parts = [
        {
            "backbone": block.backbone,
            "dataset": block.dataset,
            "crop": str(block.crop),
            **{name: str(value) for name, value in block.configuration.items()},
        }
        for block in blocks
    ]
    differing = [name for name in parts[0] if len({part[name] for part in parts}) > 1] if parts else []
    names = ["".join("-" + _plain(part[name]) for name in differing if _plain(part[name])) for part in parts]
    return [name if names.count(name) == 1 else f"{name}-{index}" for index, name in enumerate(names)]


def speed_quality(run: Run, cells: pd.DataFrame) -> Figure:
    """PSNR-Y over time, a panel per scale; bars are the middle half of the times, the line joins what nothing beats."""
    cells = cells.dropna(subset=["psnr_y", "latency_ms"])
    scales, titles = sorted(cells["scale"].unique()), run.titles("methods")
    columns = min(3, len(scales))
    rows = -(-len(scales) // columns)
    figure = new_figure(COLUMN if columns == 1 else PAGE, _ROW_HEIGHT * rows + 0.7)
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharex=True)
    far = _far(cells)
    near = cells[~far]
    for panel, scale in zip(panels.flat, scales, strict=False):
        of_scale = near[near["scale"] == scale]
        _front(panel, of_scale)
        _points(panel, of_scale, titles)
        _note(panel, cells[far & (cells["scale"] == scale)], titles)
        panel.set_title(f"×{scale:g}", loc="left")
    for panel in panels.flat[len(scales) :]:
        panel.set_visible(False)
    for index, panel in enumerate(panels.flat[: len(scales)]):
        panel.set(xscale="log", xlabel="time per image (ms)" if index + columns >= len(scales) else None)
        panel.tick_params("x", labelbottom=index + columns >= len(scales))
        panel.margins(x=0.08, y=0.18)
    for panel in panels[:, 0]:
        panel.set_ylabel("PSNR-Y (dB)")
    plain_ticks(panels.flat[0].xaxis, near["latency_ms"])
    hollow = bool((near["fallback"] != "").any())
    method_legend(figure, near["method"], titles, columns=5 if columns > 1 else 3, lines=False, hollow=hollow)
    return figure


def memory(run: Run, block: CostBlock, cells: pd.DataFrame) -> Figure:
    """Peak memory over scale, a line per method."""
    cells, titles = cells[cells["memory_mib"] > 0], run.titles("methods")
    figure, looks = new_figure(COLUMN, 3.0), styles(list(titles))
    axes: Any = figure.add_subplot()
    for name in titles:
        line, look = cells[cells["method"] == name].sort_values("scale"), looks[name]
        axes.plot(line["scale"], line["memory_mib"], linewidth=1, color=look.color, **point(look, hollow=False))
        apart = line[line["fallback"] != ""]
        axes.plot(apart["scale"], apart["memory_mib"], linestyle="", color=look.color, **point(look, hollow=True))
    scales = sorted(cells["scale"].unique())
    axes.set(xscale="log", yscale="log", xlabel="scale")
    axes.set_ylabel("peak memory (MiB)" if block.cuda else "peak resident memory (MiB)")
    axes.set_xticks(scales, [f"×{scale:g}" for scale in scales])
    axes.xaxis.minorticks_off()
    plain_ticks(axes.yaxis, cells["memory_mib"])
    hollow = bool((cells["fallback"] != "").any())
    method_legend(figure, cells["method"], titles, columns=3, lines=True, hollow=hollow)
    return figure


def _far(cells: pd.DataFrame) -> pd.Series[bool]:
    """Yardsticks (methods without a backbone) so far from the networks that showing them would crowd those."""
    networks = cells[cells["backbone"] != ""]
    if networks.empty:
        return pd.Series(False, cells.index)
    times, own = np.log(networks["latency_ms"]), np.log(cells["latency_ms"])
    room = 0.5 * max(float(times.max() - times.min()), 1.0)
    outside = (own < times.min() - room) | (own > times.max() + room)
    far: pd.Series[bool] = (cells["backbone"] == "") & outside
    return far


def _points(panel: Any, cells: pd.DataFrame, titles: Mapping[str, str]) -> None:
    looks = styles(list(titles))
    for cell in cells.to_dict("records"):
        look, time = looks[cell["method"]], cell["latency_ms"]
        spread = [[max(0.0, time - cell["latency_q1_ms"])], [max(0.0, cell["latency_q3_ms"] - time)]]
        bars = {"elinewidth": 0.8, "capsize": 1.5, "capthick": 0.6, "color": look.color, "zorder": 2}
        panel.errorbar(time, cell["psnr_y"], xerr=spread, **bars, **point(look, hollow=bool(cell["fallback"])))


def _note(panel: Any, cells: pd.DataFrame, titles: Mapping[str, str]) -> None:
    """What lies outside, in the corner."""
    for index, cell in enumerate(cells.to_dict("records")):
        text = f"{titles[cell['method']]}: {cell['psnr_y']:.2f} dB in {TIME.format(cell['latency_ms'])} ms"
        place = {"xycoords": "axes fraction", "xytext": (2, 3 + 9 * index), "textcoords": "offset points"}
        panel.annotate(text, (0, 0), color="#555555", fontsize=6.5, bbox=_BEHIND, **place)


def _front(panel: Any, cells: pd.DataFrame) -> None:
    """Join the methods that are better than every faster one."""
    ordered = cells.sort_values(["latency_ms", "psnr_y"], ascending=[True, False])
    best = ordered[ordered["psnr_y"] > ordered["psnr_y"].cummax().shift(fill_value=-float("inf"))]
    panel.plot(best["latency_ms"], best["psnr_y"], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)


def _plain(text: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in text).strip("-")
