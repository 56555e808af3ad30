"""The metrics of a run as CSV: a line per image, in a fixed order, so that a change shows as a small difference."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from bench.comparison.cells import Cell, Entry, Side, Spot, Values
from bench.rows import METRIC_COLUMNS
from methods.errors import UserError

DECIMALS = 6
_NETWORK = ("method", "backbone", "weights")
_CONDITIONS = ("options", "device", "dtype", "acceleration")
COLUMNS = (*_NETWORK, *_CONDITIONS, "dataset", "scale", "image", *METRIC_COLUMNS)
"""`weights` is the checkpoint's sha256, or the label where there is no file; options as in the rows."""


def write_table(side: Side) -> str:
    """The results that are ok, as CSV with the columns COLUMNS."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for spot, entry in sorted(side.entries.items(), key=lambda item: item[0]):
        if entry.status == "ok":
            writer.writerow(_line(spot, entry, side.scores[spot]))
    return text.getvalue()


def _line(spot: Spot, entry: Entry, values: Values) -> Mapping[str, str]:
    cell = spot.cell
    return {
        **{"method": cell.method, "backbone": cell.backbone, "weights": entry.weights},
        **{name: entry.conditions[name] for name in _CONDITIONS},
        **{"dataset": cell.dataset, "scale": f"{cell.scale!r}", "image": spot.image},
        **{name: "" if (value := values[name]) is None else f"{value:.{DECIMALS}f}" for name in METRIC_COLUMNS},
    }


def digest(text: str) -> str:
    """The sha256 of a table, whatever its line ends have become."""
    return sha256("\n".join(text.splitlines()).encode()).hexdigest()


def read_table(file: Path, expected: str | None) -> tuple[dict[Spot, Entry], dict[Spot, Values]]:
    """What a table holds.

    expected: its digest, as it was stored.

    Raises:
        UserError: there is none, or it is not the one that was stored.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"There is no readable baseline {file}: restore it, or store one with its reason.") from error
    if digest(text) != expected:
        raise UserError(
            f"{file} is not the table that was stored with its reason: restore it, or store a run as the new baseline."
        )
    entries: dict[Spot, Entry] = {}
    scores: dict[Spot, Values] = {}
    for line in csv.DictReader(io.StringIO(text)):
        spot = Spot(Cell(line["dataset"], line["method"], line["backbone"], float(line["scale"])), line["image"])
        entries[spot] = Entry({name: line[name] for name in _CONDITIONS}, line["weights"], "ok", "")
        scores[spot] = {name: float(line[name]) if line[name] else None for name in METRIC_COLUMNS}
    return entries, scores
