"""How time and memory grow with the number of output pixels: power laws through the sizes of a cost run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.cost import CONFIGURATION, MEMORY, TIME, CostBlock, cost_blocks, summarise
from reports.errors import ReportError
from reports.means import Metric
from reports.rows import Run

FEWEST = 3
"""Sizes that a fit needs: through two it has no error."""
CONSTANT = 0.05
"""A range below this share of the median counts as none."""


class Fit(NamedTuple):
    """Least squares of log y against log x: y = exp(intercept) x^exponent."""

    exponent: float
    error: float
    """Standard error of the exponent."""
    r2: float
    intercept: float


class Law(NamedTuple):
    """How one quantity of one method grows; where a power law says nothing, `fit` is None and `why` says so."""

    pixels: list[float]
    values: list[float]
    fit: Fit | None
    why: str


class Growth(NamedTuple):
    """One method's laws."""

    method: str
    time: Law
    memory: Law


class Group(NamedTuple):
    """What one figure compares: methods at one scale, otherwise as in the block."""

    block: CostBlock
    scale: float
    growths: list[Growth]


def groups(run: Run) -> list[Group]:
    """All scales with enough sizes, in the tables' order; failed cells and fallbacks are no points.

    Raises:
        ReportError: there is none.
    """
    found = list(_groups(run))
    if not found:
        sizes = ", ".join(map(str, sorted(run.rows["crop"].unique())))
        raise ReportError(
            f"The run {run.name} has crops of {sizes} pixels, but growth needs {FEWEST} sizes at a scale: measure more."
        )
    return found


def _groups(run: Run) -> Iterator[Group]:
    blocks: dict[tuple[object, ...], list[CostBlock]] = {}
    for block in cost_blocks(run, summarise(run)):
        place = (*(block.configuration[name] for name in CONFIGURATION), block.backbone, block.dataset)
        blocks.setdefault(place, []).append(block)
    for alike in blocks.values():
        cells_of_all = pd.concat([block.cells for block in alike])
        for scale in sorted(cells_of_all["scale"].unique()):
            cells = cells_of_all[cells_of_all["scale"] == scale]
            if cells["crop"].nunique() >= FEWEST:
                names = [name for name in run.titles("methods") if name in set(cells["method"])]
                yield Group(alike[0], float(scale), [_growth(cells, name) for name in names])


def _growth(cells: pd.DataFrame, method: str) -> Growth:
    own = cells[(cells["method"] == method) & (cells["fallback"] == "") & (cells["status"] == "ok")]
    own = own.assign(pixels=own["pixels"].fillna(own["crop"] ** 2)).sort_values("pixels")
    timed, weighed = own.dropna(subset=["latency_ms"]), own.dropna(subset=["memory_mib"])
    spread = timed["latency_q3_ms"] - timed["latency_q1_ms"]
    return Growth(
        method,
        law(timed["pixels"].tolist(), timed["latency_ms"].tolist(), _largest(spread), TIME),
        law(weighed["pixels"].tolist(), weighed["memory_mib"].tolist(), _largest(weighed["memory_iqr_mib"]), MEMORY),
    )


def law(pixels: Sequence[float], values: Sequence[float], noise: float, quantity: Metric) -> Law:
    """The power law through one point per size, or why there is none.

    noise: the largest spread within one size, in the values' unit; a range within twice of it is no growth.
    """
    places, found = list(pixels), list(values)
    if len(found) < FEWEST:
        return Law(places, found, None, f"measured at {len(found)} of at least {FEWEST} sizes")
    low, high = min(found), max(found)
    span = quantity.format(low) if quantity.format(low) == quantity.format(high) else ""
    span = span or f"{quantity.format(low)} to {quantity.format(high)}"
    if high - low <= max(CONSTANT * abs(float(np.median(found))), 2 * noise):
        return Law(places, found, None, f"constant, {span}")
    if low <= 0:
        return Law(places, found, None, f"too little to measure, {span}")
    return Law(places, found, fit_power(places, found), "")


def fit_power(pixels: Sequence[float], values: Sequence[float]) -> Fit:
    """Least squares on logarithms, of at least three positive points at two or more places."""
    x, y = np.log(pixels), np.log(values)
    x_off, y_off = x - x.mean(), y - y.mean()
    exponent = float(x_off @ y_off / (x_off @ x_off))
    left = float(((y_off - exponent * x_off) ** 2).sum())
    error = float(np.sqrt(left / (len(x) - 2) / (x_off @ x_off)))
    return Fit(exponent, error, 1 - left / float(y_off @ y_off), float(y.mean() - exponent * x.mean()))


def _largest(spreads: pd.Series[float]) -> float:
    return float(spreads.max()) if spreads.notna().any() else 0.0
