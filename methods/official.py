"""The catalogue of official checkpoints, and the folder where those that were fetched lie. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from methods.errors import UserError

CATALOGUE = Path(__file__).with_name("official.toml")
LOCK = "official.lock.json"
"""Beside fetched files: their sha256 when they were first seen, and the hub's revision."""
TRAINING_DATA = "DIV2K"
"""Of all of them."""


@dataclass(frozen=True)
class Official:
    """One checkpoint as its authors publish it."""

    method: str
    backbone: str
    page: str
    """Where people find it."""
    files: tuple[str, ...]
    """What the files are called, or are to be called: one, or encoder and decoder."""
    container: str
    """`"liif"`, `"basicsr"` or `"mmediting"`: how weights lie in the file."""
    licence: str
    variant: str = ""
    hub: str = ""
    """owner/repository/folder on the Hugging Face hub; empty: has to be fetched by hand."""
    psnr: tuple[float, ...] = ()
    """Published PSNR-Y on DIV2K at ×2, ×3, ×4."""

    @property
    def name(self) -> str:
        """As `fetch` takes it."""
        return f"{self.method}/{self.backbone}" + (f"/{self.variant}" if self.variant else "")

    @property
    def folder(self) -> Path:
        """Where its files belong."""
        return folder() / self.name

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, there or not."""
        return tuple(self.folder / file for file in self.files)

    @property
    def present(self) -> bool:
        """Whether all files are there."""
        return all(path.is_file() for path in self.paths)

    def instruction(self) -> str:
        """What to do to get it, as a sentence."""
        if self.hub:
            return f"run `python -m bench fetch {self.name}`"
        return f"get {' and '.join(self.files)} from {self.page} and put it into {self.folder}"


@cache
def catalogue() -> tuple[Official, ...]:
    """All official checkpoints."""
    entries = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["checkpoint"]
    return tuple(Official(**{**e, "files": tuple(e["files"]), "psnr": tuple(e.get("psnr", ()))}) for e in entries)


def cache_folder() -> Path:
    """The suite's cache: what `ASRBENCH_CACHE` names, or a folder in the user's."""
    base = os.environ.get("ASRBENCH_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asrbench"


def folder() -> Path:
    """Where fetched checkpoints lie."""
    return cache_folder() / "official"


def official_files(method: str, backbone: str) -> tuple[Path, ...]:
    """The verified files of the official checkpoint of a method on a backbone.

    Raises:
        UserError: there is none, it was not fetched, or a file is not the one that was first seen.
    """
    found = next((e for e in catalogue() if (e.method, e.backbone, e.variant) == (method, backbone, "")), None)
    if found is None:
        known = ", ".join(entry.backbone for entry in catalogue() if entry.method == method) or "none"
        raise UserError(
            f"No official checkpoint of {method} on {backbone or 'no backbone'} is known (known: {known}): name a file."
        )
    if not found.present:
        raise UserError(f"The official checkpoint {found.name} is not here: {found.instruction()}.")
    verify(found)
    return found.paths


def verify(entry: Official, revision: str | None = None) -> dict[str, Any]:
    """Compare a checkpoint's files with what was recorded when they were first seen, or record them now.

    revision: the hub's, to be recorded. Returns what is on record.

    Raises:
        UserError: a file is another one, or the record cannot be written.
    """
    lock = entry.folder / LOCK
    recorded = read_lock(entry)
    hashes: dict[str, str] = dict(recorded.get("sha256", {}))
    for path in entry.paths:
        digest = _sha256(path)
        if hashes.setdefault(path.name, digest) != digest:
            expected = hashes[path.name]
            raise UserError(
                f"{path} was not opened, as its sha256 is not {expected}: restore the file or delete {lock}."
            )
    content = {"sha256": hashes, "revision": recorded.get("revision") or revision}
    if content != recorded:
        partial = lock.with_suffix(f".{os.getpid()}")
        try:
            partial.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
            partial.replace(lock)
        except OSError as error:
            raise UserError(f"Cannot write {lock} ({error.strerror}): free space or set ASRBENCH_CACHE.") from None
    return content


def read_lock(entry: Official) -> Mapping[str, Any]:
    """What is on record about a checkpoint's files; nothing if there is no readable record."""
    try:
        content = json.loads((entry.folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The weights {path} cannot be read ({error.strerror}): check the file.") from None
