"""A short table for the screen: what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import TYPE_CHECKING

from bench.console import table
from bench.cost.rows import CostRow, peak_mib
from methods.registry import list_methods

if TYPE_CHECKING:
    from rich.table import Table

    from bench.cost.protocols import CostProtocol

UNSTEADY = 0.05
"""A coefficient of variation above which a time is marked."""


def cost_table(rows: Sequence[CostRow], protocol: CostProtocol) -> Table:
    """One line per network, size and fallback; one column per scale with time and memory."""
    scales = sorted({row.scale for row in rows})
    right = tuple(f"x{scale:g}" for scale in scales)
    title = f"{protocol.name}: {protocol.statistic} of the repeats in ms, peak memory in MiB"
    grid = table(title, "network", "patch", *right, right=right)
    order = {spec.name: spec.order for spec in list_methods()}
    lines = sorted(
        {(row.method, row.backbone, row.crop, row.fallback) for row in rows}, key=lambda line: (order[line[0]], *line)
    )
    for method, backbone, crop, fallback in lines:
        own = [
            row
            for row in rows
            if (row.method, row.backbone, row.crop, row.fallback) == (method, backbone, crop, fallback)
        ]
        name = f"{method}/{backbone}" if backbone else method
        name += f" ({fallback})" if fallback else ""
        grid.add_row(
            name, f"{crop}", *(_entry([row for row in own if row.scale == scale], protocol) for scale in scales)
        )
    if any("~" in str(cell) for column in grid.columns for cell in column.cells):
        grid.caption = f"~ coefficient of variation above {UNSTEADY:.0%}: the machine was not quiet"
    return grid


def _entry(rows: Sequence[CostRow], protocol: CostProtocol) -> str:
    good = [row for row in rows if row.status == "ok"]
    if not good:
        return rows[-1].status if rows else ""
    middle = median if protocol.statistic == "median" else mean
    times = [row.latency_ms for row in good if row.latency_ms is not None]
    center, average = middle(times), mean(times)
    spread = (sum((time - average) ** 2 for time in times) / len(times)) ** 0.5 / average
    peaks = [peak for row in good if (peak := peak_mib(row)) is not None]
    memory = f"{middle(peaks):7.0f}" if peaks else "      -"
    return f"{'~' if spread > UNSTEADY else ''}{center:.1f} {memory}"
