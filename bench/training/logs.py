"""The training log: one CSV row per entry, TensorBoard scalars where it is installed, a line on the console."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TrainingLog:
    """Appends to `log.csv` in a folder.

    columns: of the CSV file; entries may leave some out. start: later entries, left by an interrupted run, are dropped.
    """

    def __init__(self, folder: Path, columns: list[str], start: int = 0) -> None:
        self.path, self.columns = folder / "log.csv", columns
        kept = _rows_until(self.path, start) if start else []
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(kept)
        self._board = _open_tensorboard(folder, start)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` for a step, everywhere."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow({"step": step, **{k: f"{v:.6g}" for k, v in values.items()}})
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        print(f"step {step:6d}  " + "  ".join(f"{k} {v:.5g}" for k, v in values.items()), flush=True)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self._board is not None:
            self._board.close()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= step]


def _open_tensorboard(folder: Path, start: int) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
