"""Reading a run folder as one side of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from math import isfinite
from pathlib import Path
from statistics import fmean, geometric_mean, median, pstdev
from typing import Any

from bench.comparison.cells import Cell, Cost, Entry, Kind, Side, Spot, Values
from bench.cost.rows import CostRow
from bench.manifest import read_manifest
from bench.rows import METRIC_COLUMNS, Row
from bench.store import read_rows
from methods.errors import UserError

REMEDY = "name the folder of a run that this version wrote"


def read_side(path: Path) -> Side:
    """The run in the folder `path`.

    Raises:
        UserError: there is none, it is damaged, empty, or holds two results of one cell and image.
    """
    manifest = read_manifest(path / "manifest.json", remedy=REMEDY)
    if manifest is None:
        raise UserError(f"{path} is not the folder of a run, it has no manifest.json: {REMEDY}.")
    side = _cost_side(path, manifest) if kind_of(manifest, path) == "cost" else _run_side(path, manifest)
    if not side.entries:
        raise UserError(f"The run {path} holds no rows: start it again.")
    return side


def kind_of(manifest: Mapping[str, Any], path: Path) -> Kind:
    """The kind of run that a manifest describes.

    Raises:
        UserError: it is of a kind that cannot be compared.
    """
    match manifest.get("kind", "run"):
        case "run":
            return "run"
        case "cost":
            return "cost"
        case other:
            raise UserError(f"{path} holds a run of the unknown kind {other!r}: {REMEDY}.")


def finite(value: float | None) -> float | None:
    """The value, or None for NaN and infinity, which no mean may hold."""
    return value if value is not None and isfinite(value) else None


def _run_side(path: Path, manifest: Mapping[str, Any]) -> Side:
    entries: dict[Spot, Entry] = {}
    scores: dict[Spot, Values] = {}
    for row in Row.latest(read_rows(path, Row)):
        spot = Spot(Cell(row.dataset, row.method, row.backbone, row.scale), row.image)
        if spot in entries:
            raise UserError(f"{path} holds two results of {spot}, by different settings: run it again with --fresh.")
        entries[spot] = _entry(row, _precision(row))
        if row.status == "ok":
            scores[spot] = _scores(row)
    return Side(path.name, "run", manifest, entries, scores)


def _cost_side(path: Path, manifest: Mapping[str, Any]) -> Side:
    entries: dict[Spot, Entry] = {}
    scores: dict[Spot, Values] = {}
    costs: dict[Cell, Cost] = {}
    rows = sorted(CostRow.latest(read_rows(path, CostRow)), key=_cell)
    for cell, group in groupby(rows, key=_cell):
        found = _newest(list(group), cell, path)
        entries[Spot(cell, "")] = _entry(found[0], _cost_conditions(found))
        if found[0].status == "ok":
            costs[cell] = cost_of(found)
            scores |= {Spot(cell, row.image): _scores(row) for row in reversed(found)}
    return Side(path.name, "cost", manifest, entries, scores, costs)


def _cell(row: CostRow) -> Cell:
    return Cell(row.dataset, row.method, row.backbone, row.scale, row.crop)


def _newest(rows: Sequence[CostRow], cell: Cell, path: Path) -> list[CostRow]:
    """The repeats of the cell's last measurement, or the one row that says why it failed."""
    last = max(rows, key=lambda row: row.measured_at)
    settings = {tuple(_conditions_of_cost(row).items()) for row in rows if row.status == "ok"}
    if len(settings) > 1:
        raise UserError(f"{path} holds two results of {cell}, by different settings: run it again with --fresh.")
    if last.status != "ok":
        return [last]
    same = [row for row in rows if (row.row_key, row.fallback, row.status) == (last.row_key, last.fallback, "ok")]
    return sorted(same, key=lambda row: row.repeat)


def cost_of(rows: Sequence[CostRow]) -> Cost:
    """What the repeats of one cell, all ok, took."""
    latency = tuple(row.latency_ms for row in rows if row.latency_ms is not None)
    known = tuple(ratio for ratio in map(_calibrated, rows) if ratio is not None)
    complete = known if len(known) == len(latency) else ()
    return Cost(
        fallback=rows[0].fallback,
        repeats=len(latency),
        sessions=frozenset(row.session for row in rows),
        latency=latency,
        calibrated=complete,
        calibrated_median=_over_processes(rows) if complete else None,
        spread=pstdev(complete) / fmean(complete) if complete else None,
        memory_mib=_median(_peak(row) for row in rows),
        energy_j=_median(row.energy_j for row in rows),
    )


def _over_processes(rows: Sequence[CostRow]) -> float | None:
    by_session: dict[str, list[float | None]] = {}
    for row in rows:
        by_session.setdefault(row.session, []).append(_calibrated(row))
    medians = [median for median in map(_median, by_session.values()) if median]
    return geometric_mean(medians) if len(medians) > 1 else next(iter(medians), None)


def _calibrated(row: CostRow) -> float | None:
    return row.latency_ms / row.calibration_ms if row.latency_ms is not None and row.calibration_ms else None


def _peak(row: CostRow) -> float | None:
    if row.device.startswith("cuda"):
        return row.alloc_peak_mib
    if row.rss_peak_mib is None or row.rss_base_mib is None:
        return None
    return row.rss_peak_mib - row.rss_base_mib


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if finite(value) is not None]
    return median(known) if known else None  # type: ignore[type-var]


def _entry(row: Row | CostRow, conditions: Mapping[str, str]) -> Entry:
    ok = row.status == "ok"
    weights = row.checkpoint_sha256 or row.weights
    return Entry(conditions if ok else {}, weights, row.status, "" if ok else row.reason or "")


def _scores(row: Row | CostRow) -> Values:
    return {name: finite(getattr(row, name, None)) for name in METRIC_COLUMNS}


def _precision(row: Row | CostRow) -> Mapping[str, str]:
    return {
        "options": row.options,
        "device": row.device.partition(":")[0],
        "dtype": row.dtype,
        "acceleration": row.acceleration or "none",
    }


def _conditions_of_cost(row: CostRow) -> Mapping[str, str]:
    return {
        **_precision(row),
        "TF32": row.tf32 or "none",
        "autotune": str(row.autotune),
        "CPU threads": str(row.threads),
        "machine": row.device_name,
    }


def _cost_conditions(rows: Sequence[CostRow]) -> Mapping[str, str]:
    images = ", ".join(sorted({row.image for row in rows}))
    return {**_conditions_of_cost(rows[0]), "images": images}
