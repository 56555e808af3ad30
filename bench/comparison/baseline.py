"""Committed baselines: what a run found, small enough for a repository, with the reason for which it was stored.

The metrics of a run of quality are `metrics.csv`, a line per image, with `metrics.json`, which says what they are; a
run of cost is `speed.json`. Both compare like the run that they were made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.comparison.cells import Cell, Cost, Entry, Side, Spot, Values
from bench.comparison.judge import judge
from bench.comparison.lines import Comparison
from bench.comparison.metrics_table import DECIMALS, digest, read_table, write_table
from bench.comparison.reading import read_side
from bench.files import write_atomic
from methods.errors import UserError

SCHEMA_VERSION = 1
_METRICS, _TABLE, _SPEED = "metrics.json", "metrics.csv", "speed.json"
_FACTS = ("protocol", "cost", "datasets", "metrics", "partial", "limit")
_ENVIRONMENT = ("asrbench", "python", "packages", "torch", "cpu", "cores", "gpus")
_NAME = "the baseline"


def is_baseline(folder: Path) -> bool:
    """Whether a folder holds baselines and no run."""
    return any((folder / name).is_file() for name in (_METRICS, _SPEED)) and not (folder / "manifest.json").exists()


def store_baseline(run: Path, folder: Path, reason: str, *, subset: bool = False) -> Path:
    """Make a finished run the baseline in `folder`, of metrics or of speed as it is of quality or of cost.

    Raises:
        UserError: as `store_metrics`; or a subset of costs, which only one run measures alike.
    """
    if read_side(run).kind != "cost":
        return store_metrics(run, folder, reason, subset=subset)
    if subset:
        raise UserError(f"{run} is a run of cost, whose times belong together: measure all, or leave it out.")
    return store_speed(run, folder, reason)


def store_metrics(run: Path, folder: Path, reason: str, *, subset: bool = False) -> Path:
    """Make the metrics of a finished run the baseline in `folder`; returns the CSV's path.

    Of rows that are not ok nothing is stored. subset: the baseline before keeps the results that the run lacks.

    Raises:
        UserError: there is no reason, no such run, it is not finished, `folder` cannot be written to, or the results of
            a subset do not belong beside the others.
    """
    side = _finished(run, "run")
    if subset:
        side = _joined(_read_metrics(folder), side)
    about = _about(side, folder / _METRICS, reason)
    table = write_table(side)
    write_atomic(folder / _TABLE, table.encode())
    write_atomic(folder / _METRICS, _json({**about, "sha256": digest(table)}))
    return folder / _TABLE


def store_speed(run: Path, folder: Path, reason: str) -> Path:
    """Make the costs of a finished run the baseline in `folder`; returns the file's path.

    Raises:
        UserError: there is no reason, no such run, it is not finished, or `folder` cannot be written to.
    """
    side = _finished(run, "cost")
    about = _about(side, folder / _SPEED, reason)
    cells = [_stored_cell(cell, cost, side.entries[Spot(cell, "")]) for cell, cost in sorted(side.costs.items())]
    write_atomic(folder / _SPEED, _json({**about, "metrics": [], "cells": cells}))
    return folder / _SPEED


def compare_with_baseline(
    folder: Path,
    run: Path,
    *,
    subset: bool = False,
    allow_weights: bool = False,
    tolerances: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare a run with the baseline in `folder`, by its metrics or its cost as the run is of quality or cost.

    On another machine, times and memory of the baseline are shown and not judged. Arguments are those of `compare`.

    Raises:
        UserError: there is no such baseline or run, or they cannot be compared.
    """
    new = read_side(run)
    base = _read_speed(folder) if new.kind == "cost" else _read_metrics(folder)
    if new.kind == "run":
        new = replace(new, scores={spot: _rounded(values) for spot, values in new.scores.items()})
    return judge(base, new, subset=subset, allow_weights=allow_weights, overrides=tolerances)


def _joined(before: Side, new: Side) -> Side:
    """The results of both, the new ones where both have some.

    Raises:
        UserError: they are of different protocols, images or conditions.
    """
    judge(before, new, subset=True, allow_weights=True)
    return replace(
        new,
        manifest={**new.manifest, **{name: before.manifest[name] for name in _FACTS if name in before.manifest}},
        entries={**before.entries, **new.entries},
        scores={**before.scores, **new.scores},
    )


def _rounded(values: Values) -> Values:
    """Values as the table has them, so that an unchanged run differs by nothing."""
    return {name: None if value is None else round(value, DECIMALS) for name, value in values.items()}


def _finished(run: Path, kind: str) -> Side:
    side = read_side(run)
    if side.kind != kind:
        raise UserError(f"{run} is a run of kind {side.kind!r}, not {kind!r}: name another run.")
    if side.manifest.get("state") != "finished":
        raise UserError(f"The run {run} is not finished, so it can be no baseline: finish it first.")
    if not any(entry.status == "ok" for entry in side.entries.values()):
        raise UserError(f"The run {run} holds no result that is ok, so it can be no baseline: see why it failed.")
    return side


def _about(side: Side, file: Path, reason: str) -> dict[str, Any]:
    """What a baseline says of itself; the reasons of those before it are kept."""
    if not reason.strip():
        raise UserError("A baseline needs a reason: say why the numbers may change.")
    environment = side.manifest.get("environment") or {}
    git = environment.get("git") or {}
    return {
        "schema": SCHEMA_VERSION,
        "reason": reason.strip(),
        "date": side.manifest.get("started"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "history": _history(file),
        **{name: side.manifest[name] for name in _FACTS if name in side.manifest},
        "environment": {name: environment.get(name) for name in _ENVIRONMENT},
    }


def _history(file: Path) -> list[Mapping[str, Any]]:
    """Reason, date and commit of all earlier baselines in this file, newest first."""
    if not file.exists():
        return []
    before = _read(file)
    return [{name: before[name] for name in ("reason", "date", "commit")}, *before["history"]]


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        schema = content["schema"]
    except FileNotFoundError as error:
        raise UserError(f"There is no baseline {file}: store one, with its reason.") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{file} is not a baseline: restore it, or remove it and store one.") from error
    if schema != SCHEMA_VERSION:
        raise UserError(f"{file} has schema version {schema}, not {SCHEMA_VERSION}: remove it and store one.")
    return dict(content)


def _read_metrics(folder: Path) -> Side:
    about = _read(folder / _METRICS)
    entries, scores = read_table(folder / _TABLE, about.get("sha256"))
    return Side(_NAME, "run", about, entries, scores, stored=True)


def _stored_cell(cell: Cell, cost: Cost, entry: Entry) -> Mapping[str, Any]:
    return {
        **cell._asdict(),
        "weights": entry.weights,
        "conditions": dict(entry.conditions),
        "fallback": cost.fallback,
        "repeats": cost.repeats,
        "calibrated_median": cost.calibrated_median,
        "spread": cost.spread,
        "memory_mib": cost.memory_mib,
        "energy_j": cost.energy_j,
    }


def _read_speed(folder: Path) -> Side:
    about = _read(folder / _SPEED)
    entries: dict[Spot, Entry] = {}
    costs: dict[Cell, Cost] = {}
    try:
        for stored in about["cells"]:
            cell = Cell(**{name: stored[name] for name in Cell._fields})
            entries[Spot(cell, "")] = Entry(stored["conditions"], stored["weights"], "ok", "")
            measured = {name: stored[name] for name in ("fallback", "repeats", "calibrated_median", "spread")}
            measured |= {name: stored[name] for name in ("memory_mib", "energy_j")}
            costs[cell] = Cost(sessions=frozenset(), latency=(), calibrated=(), **measured)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / _SPEED} is not a baseline: restore it, or remove it and store one.") from error
    return Side(_NAME, "cost", about, entries, costs=costs, stored=True)
