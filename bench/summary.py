"""Short tables for the screen: what a plan holds, what a run found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import TYPE_CHECKING

from bench.console import table
from bench.rows import Row
from bench.settings import YARDSTICK

if TYPE_CHECKING:
    from rich.table import Table

    from bench.plan import Plan

Means = Mapping[tuple[str, float], float]


def plan_table(plan: Plan, done: AbstractSet[str]) -> Table:
    """One line per network and dataset: scales, images, those that are done before (their row keys in `done`)."""
    right = ("images", "done")
    grid = table(None, "method", "backbone", "weights", "dataset", "scales", *right, "", right=right)
    for (method, backbone, dataset, problem), group in groupby(
        plan.cells, lambda cell: (cell.method, cell.backbone, cell.dataset, cell.problem)
    ):
        cells = list(group)
        keys = [key for cell in cells for key in cell.row_keys]
        weights = cells[0].checkpoint.label if cells[0].checkpoint else "-"
        scales = ",".join(f"{cell.scale:g}" for cell in cells)
        finished = sum(key in done for key in keys)
        verdict = "cannot run" if problem else "done" if finished == len(keys) else ""
        grid.add_row(method, backbone or "-", weights, dataset, scales, str(len(keys)), str(finished), verdict)
    return grid


def run_tables(rows: Sequence[Row]) -> list[Table]:
    """Per dataset: the mean PSNR by scale and network, and by how much it differs from bicubic."""
    names = dict.fromkeys(row.dataset for row in rows)
    return [_run_table(name, [row for row in rows if row.dataset == name]) for name in names]


def _run_table(dataset: str, rows: Sequence[Row]) -> Table:
    rgb = any(row.psnr_rgb is not None for row in rows) and all(row.psnr_y is None for row in rows)
    column, title = ("psnr_rgb", "PSNR-RGB") if rgb else ("psnr_y", "PSNR-Y")
    networks = list(dict.fromkeys(_network(row) for row in rows))
    means = _means(rows, column)
    grid = table(f"{dataset}: mean {title} in dB (difference to bicubic)", "scale", *networks, right=tuple(networks))
    for scale in sorted({row.scale for row in rows}):
        grid.add_row(f"x{scale:g}", *(_entry(means, network, scale) for network in networks))
    return grid


def _network(row: Row) -> str:
    return f"{row.method}/{row.backbone}" if row.backbone else row.method


def _means(rows: Sequence[Row], column: str) -> Means:
    """The mean by network and scale, where all images but skipped ones have a value."""
    values: dict[tuple[str, float], list[float | None]] = {}
    for row in rows:
        if row.status != "skipped":
            values.setdefault((_network(row), row.scale), []).append(getattr(row, column))
    complete = {key: [v for v in found if v is not None] for key, found in values.items() if None not in found}
    return {key: sum(found) / len(found) for key, found in complete.items()}


def _entry(means: Means, network: str, scale: float) -> str:
    mean, yardstick = means.get((network, scale)), means.get((YARDSTICK, scale))
    if mean is None:
        return "-"
    if yardstick is None or network == YARDSTICK:
        return f"{mean:.2f}"
    return f"{mean:.2f} ({mean - yardstick:+.2f})"
