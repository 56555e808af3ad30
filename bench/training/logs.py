"""What a training says: CSV rows, TensorBoard scalars where it is installed, a bar and lines on the console."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.console import console
from bench.files import cannot_write


class TrainingLog:
    """Appends to `log.csv` in a folder, and shows how far the training is.

    columns: of the CSV file; entries may leave some out. steps: in all. start: later entries, left by an interrupted
    training, are dropped.
    """

    def __init__(self, folder: Path, columns: list[str], steps: int, start: int = 0) -> None:
        self.path, self.columns, self.steps = folder / "log.csv", columns, steps
        kept = read_log(self.path, start) if start else []
        content = io.StringIO(newline="")
        writer = csv.DictWriter(content, columns, restval="")
        writer.writeheader()
        writer.writerows({key: row.get(key, "") for key in columns} for row in kept)
        self._write(content.getvalue(), "w")
        self._board = _open_tensorboard(folder, start)
        self.console = console()
        self._bars = _bars(self.console, steps, start) if self.console.is_terminal else None

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` for a step, everywhere."""
        content = io.StringIO(newline="")
        row = {"step": step, **{key: f"{value:.6g}" for key, value in values.items()}}
        csv.DictWriter(content, self.columns, restval="").writerow(row)
        self._write(content.getvalue(), "a")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        line = f"step {step:7d}  " + "  ".join(f"{key} {value:.5g}" for key, value in values.items())
        self.console.print(line, markup=False, highlight=False)

    def advance(self, step: int, loss: float | None = None) -> None:
        """Move the bar."""
        if self._bars is not None:
            bars, task = self._bars
            shown = {} if loss is None else {"loss": f"loss {loss:.5f}"}
            bars.update(task, completed=step, **shown)

    def close(self) -> None:
        """Flush what TensorBoard still holds, and take the bar away."""
        if self._board is not None:
            self._board.close()
        if self._bars is not None:
            self._bars[0].stop()

    def _write(self, content: str, mode: str) -> None:
        try:
            with self.path.open(mode, newline="", encoding="utf-8") as file:
                file.write(content)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def read_log(path: Path, until: int | None = None) -> list[dict[str, str]]:
    """The rows of a `log.csv`, up to a step; a torn last line is no row."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if whole and not whole[-1].endswith("\n"):
        whole.pop()
    return [row for row in csv.DictReader(whole) if until is None or int(row["step"]) <= until]


def _bars(screen: Any, steps: int, start: int) -> tuple[Any, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Progress(*columns, TextColumn("{task.fields[loss]}", markup=False), console=screen, transient=True)
    bars.start()
    return bars, bars.add_task("", total=steps, completed=start, loss="")


def _open_tensorboard(folder: Path, start: int) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)
