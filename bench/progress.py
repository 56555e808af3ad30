"""What a running benchmark says: live bars on a terminal, one plain line per finished cell elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.console import console
from bench.rows import FAILED, Row

if TYPE_CHECKING:
    from rich.console import Console

    from bench.plan import Cell

_HEADLINES = (("psnr_y", "PSNR-Y"), ("psnr_rgb", "PSNR-RGB"))


def cell_label(method: str, backbone: str, dataset: str, scale: float) -> str:
    """A cell in one phrase, such as `gsasr/edsr-micro embedded x4`."""
    return f"{method}{'/' + backbone if backbone else ''} {dataset} x{scale:g}"


def headline(rows: list[Row]) -> str:
    """The running mean PSNR of a cell's rows, such as `PSNR-Y 27.31 dB`; empty before there is one."""
    for column, title in _HEADLINES:
        values = [value for row in rows if (value := getattr(row, column)) is not None]
        if values:
            return f"{title} {sum(values) / len(values):.2f} dB"
    return ""


class Progress:
    """Says nothing; the base of those that do. The runner calls the methods in this order."""

    def running(self, images: int) -> AbstractContextManager[Any]:
        """The whole run; images: how many are left to do."""
        return nullcontext()

    def note(self, text: str) -> None:
        """Something to know that stops nothing."""

    def begin(self, cell: Cell, done: list[Row]) -> None:
        """A cell starts; `done` are its rows of an earlier run."""

    def image(self, row: Row) -> None:
        """One image of the cell has its row."""

    def end(self) -> None:
        """The cell is finished."""


class PlainProgress(Progress):
    """One line per finished cell, notes and failures as they come: for pipes, files and logs."""

    def __init__(self, to: Console | None = None) -> None:
        self.console = to or console(stderr=True)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def begin(self, cell: Cell, done: list[Row]) -> None:
        self._label = cell_label(cell.method, cell.backbone, cell.dataset, cell.scale)
        self._rows, self._earlier, self._start = list(done), len(done), time.monotonic()

    def image(self, row: Row) -> None:
        self._rows.append(row)
        if row.status != "ok":
            self.note(f"{self._label}  {row.image}  {row.status}: {row.reason}")

    def end(self) -> None:
        self.console.print(self._line(), markup=False)

    def _line(self) -> str:
        failed = sum(row.status in FAILED for row in self._rows)
        skipped = sum(row.status == "skipped" for row in self._rows)
        parts = [self._label, f"{len(self._rows)} image{'s' if len(self._rows) != 1 else ''}", headline(self._rows)]
        parts += [f"{count} {what}" for count, what in ((failed, "failed"), (skipped, "skipped")) if count]
        parts.append("done before" if self._earlier == len(self._rows) else f"{time.monotonic() - self._start:.1f} s")
        return "  ".join(filter(None, parts))


class LiveProgress(PlainProgress):
    """The same lines, and under them the bars of the run (with the time left) and of the cell (with its PSNR)."""

    def running(self, images: int) -> AbstractContextManager[Any]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        text = TextColumn("{task.description}", markup=False)
        self._bars = Bars(
            text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self.console, transient=True
        )
        self._run = self._bars.add_task("all cells", total=images)
        self._cell = self._bars.add_task("", total=None)
        return self._bars

    def begin(self, cell: Cell, done: list[Row]) -> None:
        super().begin(cell, done)
        self._bars.reset(self._cell, description=self._label, total=len(cell.images), completed=len(done))

    def image(self, row: Row) -> None:
        super().image(row)
        self._bars.update(self._cell, advance=1, description=f"{self._label}  {headline(self._rows)}")
        self._bars.advance(self._run)


def for_screen() -> Progress:
    """Bars on a terminal, plain lines otherwise."""
    screen = console(stderr=True)
    return LiveProgress(screen) if screen.is_terminal else PlainProgress(screen)
