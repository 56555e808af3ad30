"""The run folder: rows appended as they come, manifest and Parquet put in place whole, one writer at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, get_type_hints

from filelock import FileLock, Timeout

from bench.files import cannot_write, write_atomic
from bench.rows import StoredRow
from bench.schema import parse
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.manifest import Manifest

_FSYNC_SECONDS = 1.0
R = TypeVar("R", bound=StoredRow)


class RunFolder(Generic[R]):
    """Exclusive access to `results/<run_id>` while it is open; rows that were there before stay.

    Raises:
        UserError: the folder cannot be written to, or another process is writing to it.
    """

    def __init__(self, path: Path, kind: type[R], *, fresh: bool = False) -> None:
        """kind: class of the rows. fresh: forget those of earlier runs."""
        self.path, self._kind = path, kind
        self._rows_path = path / "rows" / "0.jsonl"
        self._lock = _lock(path)
        try:
            if fresh:
                _remove_results(path)
            self._file = _open_repaired(self._rows_path)
        except BaseException:
            self._lock.release()
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Put the rows on the disk and let other processes in."""
        os.fsync(self._file)
        os.close(self._file)
        self._lock.release()

    def rows(self) -> list[R]:
        """The rows so far, one per place, in a fixed order."""
        return self._kind.latest(read_rows(self.path, self._kind))

    def append(self, row: R) -> None:
        """Write one row at once.

        Raises:
            UserError: the disk is full; the rows before this one are intact.
        """
        end = os.lseek(self._file, 0, os.SEEK_END)
        line = _line(row)
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(0, "the disk is full")
            if time.monotonic() - self._synced > _FSYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            os.ftruncate(self._file, end)
            raise cannot_write(self._rows_path, error) from error

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace manifest.json, whole or not at all."""
        write_atomic(self.path / "manifest.json", manifest.to_json().encode())

    def consolidate(self) -> None:
        """At the end of a run: keep one row per place, in a fixed order, and write them as Parquet too."""
        rows = self.rows()
        os.fsync(self._file)
        os.close(self._file)
        write_atomic(self._rows_path, b"".join(_line(row) for row in rows))
        self._file = _open_repaired(self._rows_path)
        write_atomic(self.path / "rows.parquet", _parquet(rows, self._kind))


def read_rows(run_folder: Path, kind: type[R]) -> Iterator[R]:
    """The rows of a run in the order they were appended; a torn last line, as a kill leaves it, does not count.

    Raises:
        UserError: any other line is damaged.
    """
    for path in sorted((run_folder / "rows").glob("*.jsonl")):
        *lines, _torn = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            yield _parse_line(line, kind, f"Line {number} of {path}")


def _line(row: StoredRow) -> bytes:
    return row.to_json().encode() + b"\n"


def _parse_line(line: bytes, kind: type[R], where: str) -> R:
    try:
        return parse(kind, json.loads(line), where)
    except (ValueError, TypeError) as error:
        detail = f" ({error})" if isinstance(error, UserError) else ""
        raise UserError(f"{where} is not a result row{detail}: remove it, or start again with --fresh.") from error


def _lock(path: Path) -> FileLock:
    lock = FileLock(path / ".lock")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"Another process is writing to {path}: wait for it, or choose another --run-id.") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    return lock


def _open_repaired(path: Path) -> int:
    """Open for appending and cut off the torn last line that a killed writer may have left; returns the descriptor."""
    try:
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(file, path.read_bytes().rfind(b"\n") + 1)
    except OSError as error:
        raise cannot_write(path, error) from error
    return file


def _remove_results(path: Path) -> None:
    for old in (*(path / "rows").glob("*.jsonl"), path / "rows.parquet", path / "manifest.json"):
        try:
            old.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(old, error) from error


def _parquet(rows: Iterable[StoredRow], row_kind: type[StoredRow]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    hints = get_type_hints(row_kind)

    def field_of(name: str, doc: str) -> Any:
        kind = next((kind for kind in types if kind is hints[name] or hints[name] == kind | None), str)
        return pa.field(name, types[kind], metadata={"doc": doc})

    schema = pa.schema([field_of(column.name, column.metadata["doc"]) for column in row_kind.columns()])
    buffer = BytesIO()
    parquet.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), buffer)
    return buffer.getvalue()
