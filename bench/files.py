"""Writing files so that no reader ever sees half of one, and naming them so that none leaves its folder."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from methods.errors import UserError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def safe_name(name: str, what: str) -> str:
    """Return `name` if it can be a file name on every system.

    Raises:
        UserError: it could leave its folder or be refused by a file system.
    """
    if NAME_PATTERN.fullmatch(name) is None or _RESERVED.fullmatch(name) or name.endswith("."):
        shown = ascii(name if len(name) <= 60 else name[:60] + "...")
        raise UserError(
            f"The {what} {shown} is not allowed: use letters, digits, '.', '_' and '-', starting with a letter or "
            "digit, at most 100 characters, and no name that a system reserves."
        )
    return name


def cannot_write(path: Path, error: OSError) -> UserError:
    """The sentence for a file that cannot be written: which, why, and what to do."""
    return UserError(f"Cannot write {path} ({error.strerror or error}): free space or choose another place.")


def write_atomic(path: Path, content: bytes) -> None:
    """Put `content` at `path` all at once: temporary file, fsync, rename.

    Raises:
        UserError: the disk is full or the folder cannot be written to; what was at `path` is intact.
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
