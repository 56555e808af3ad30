"""What is compiled on this machine: made once, verified whenever it is read, safe among processes."""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

CACHE_VARIABLE = "ASRBENCH_CACHE"
"""Environment variable that names the folder."""
LOCK_WAIT_S = 150.0
"""Patience with another process that builds the same artefact; more than a compiler is given."""

_ABANDONED_S = 3600.0
"""Age from which a temporary folder must belong to a build that was killed."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_log = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """Something could not be built or kept: one sentence; `log` is the file with the tool's output, if there is one."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class Artefact(NamedTuple):
    """A file of the cache and what was put into it; the file itself ends with a digest."""

    path: Path
    data: bytes


def digest(*parts: str | bytes) -> str:
    """A name for the parts: 32 hexadecimal digits, others when a part or a border between two of them changes."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()[:32]


def cached(name: str, key: str, make: Callable[[Path], object]) -> Artefact:
    """The artefact for a key, made by `make` if there is no intact one.

    Args:
        name: a file name whose suffix the artefact keeps, as "host.so".
        key: what the artefact depends on, from `digest`.
        make: writes the artefact to the path that it is given, in a folder of its own.

    Raises:
        BuildError: nothing can be written. What `make` raises passes through.
    """
    target = folder() / f"{Path(name).stem}-{key}{Path(name).suffix}"
    found = _read(target)
    if found is None:
        with _lock(target):
            found = _read(target) or _build(target, make)
    return found


def folder() -> Path:
    """The folder of the artefacts: ASRBENCH_CACHE, else the user's cache, else a private one for temporary files.

    Raises:
        BuildError: none can be written.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.expanduser(named)).absolute()
    for candidate in (_user_folder, _shared_temporary_folder, _process_folder):
        try:
            return _writable(candidate())
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
            _log.info("not caching in %s: %s", candidate.__name__.strip("_").replace("_", " "), error)
    raise BuildError(
        f"No folder can be written for compiled kernels, not even a temporary one; set {CACHE_VARIABLE} to one."
    )


def failure(what: str, name: str, log: str) -> BuildError:
    """The error for a tool that failed: says what, keeps the tool's output as `name`.log, and says where."""
    path = folder() / f"{name}.log"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(log, encoding="utf-8")
    except OSError as error:
        return BuildError(f"{what}, and its output could not be kept in {path}: {error.strerror}.")
    return BuildError(f"{what}; its output is in {path}", path)


def _read(target: Path) -> Artefact | None:
    """None if the file is absent, cut short or altered."""
    try:
        content = target.read_bytes()
    except OSError:
        return None
    data, seal = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return Artefact(target, data) if hashlib.sha256(data).digest() == seal else None


def _build(target: Path, make: Callable[[Path], object]) -> Artefact:
    try:
        _remove_abandoned(target.parent)
        work = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    except OSError as error:
        raise _unwritable(target.parent, error) from None
    try:
        made = work / target.name
        make(made)
        return _publish(made, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(made: Path, target: Path) -> Artefact:
    """Seal the file and move it into its place, whole or not at all, whatever else happens at the same time."""
    data = made.read_bytes()
    try:
        # Loaders of shared libraries ignore what follows the last section.
        with made.open("ab") as file:
            file.write(hashlib.sha256(data).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, target)
    except OSError as error:
        # Where files in use cannot be replaced, whoever holds this one has just made it.
        found = _read(target)
        if found is None:
            raise _unwritable(target.parent, error) from None
        return found
    return Artefact(target, data)


def _unwritable(place: Path, error: OSError) -> BuildError:
    reason = error.strerror or error
    return BuildError(f"Compiled kernels cannot be kept in {place} ({reason}); set {CACHE_VARIABLE} to another folder.")


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process at a time build; go on without where that takes too long or files cannot be locked.

    The operating system frees the lock of a process that dies. Two builds at once cost time, nothing else.
    """
    lock = FileLock(target.with_name(target.name + ".lock"), timeout=LOCK_WAIT_S)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        _log.info("building %s without a lock: %s", target.name, error)
    try:
        yield
    finally:
        lock.release()


def _remove_abandoned(place: Path) -> None:
    for left in place.glob(".making-*"):
        try:
            old = time.time() - left.lstat().st_mtime > _ABANDONED_S
        except OSError:  # another process was faster
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def _writable(place: Path) -> Path:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(b"\0")
    return place


def _user_folder() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG specification has relative paths ignored.
        base = base if base.is_absolute() else Path.home() / ".cache"
    return base / "asrbench"


def _shared_temporary_folder() -> Path:
    """One per user. Others can write beside it, so it must be ours alone: what lies in it will be executed."""
    if sys.platform == "win32":
        return Path(tempfile.gettempdir()) / "asrbench"
    place = Path(tempfile.gettempdir()) / f"asrbench-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{place} is not a folder of this user alone")
    return place


@functools.cache
def _process_folder() -> Path:
    place, owner = Path(tempfile.mkdtemp(prefix="asrbench-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child leaves it to its parent
            shutil.rmtree(place, ignore_errors=True)

    atexit.register(remove)
    return place
