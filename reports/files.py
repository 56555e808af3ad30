"""Putting a report in place, whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from reports.errors import ReportError


def write_atomic(file: Path, content: bytes) -> Path:
    """Write `file`, replacing what was there, and return its path; missing folders are made.

    Raises:
        ReportError: it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ReportError(f"{str(file)!r} cannot be written ({error.strerror}): give another folder.") from None
    return file
