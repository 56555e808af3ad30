"""Fetching official checkpoints: from the Hugging Face hub, or by telling people where to get them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.files import cannot_write
from methods.errors import UserError
from methods.names import select
from methods.official import Official, catalogue, read_lock, verify


@dataclass(frozen=True)
class Fetched:
    """What came of one checkpoint."""

    entry: Official
    state: Literal["present", "fetched", "by hand", "failed"]
    note: str
    """Where it is, what to do, or what went wrong."""


def fetch(names: str) -> Iterator[Fetched]:
    """Fetch the checkpoints that a comma list of names, wildcards or `all` means, one after the other.

    Files that are there already are only verified, those put there by hand are put on record.

    Raises:
        UserError: before anything is fetched: a name is unknown.
    """
    entries = {entry.name: entry for entry in catalogue()}
    return (_fetch(entries[name]) for name in select(names, entries, "official checkpoint"))


def _fetch(entry: Official) -> Fetched:
    try:
        if entry.present:
            verify(entry)
            return Fetched(entry, "present", str(entry.folder))
        if not entry.hub:
            return Fetched(entry, "by hand", entry.instruction())
        verify(entry, _download(entry))
        return Fetched(entry, "fetched", str(entry.folder))
    except UserError as error:
        return Fetched(entry, "failed", str(error))


def _download(entry: Official) -> str:
    """Put the files in their folder; returns the revision, that of an earlier fetch if there was one."""
    try:
        import huggingface_hub as hub
    except ImportError:
        raise UserError("Fetching from the hub needs huggingface_hub: pip install 'asrbench[hub]'.") from None
    owner, repository, *folders = entry.hub.split("/")
    name = f"{owner}/{repository}"
    try:
        revision = read_lock(entry).get("revision") or hub.HfApi().model_info(name).sha
        for path in entry.paths:
            source = hub.hf_hub_download(name, "/".join([*folders, path.name]), revision=revision)
            _copy(Path(source), path)
    except UserError:
        raise
    except Exception as error:  # of the hub's client, which has many kinds, or of the network
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{entry.name} could not be fetched from {name} ({reason}): check the connection, or get "
            f"{' and '.join(entry.files)} from {entry.page} and put them into {entry.folder}."
        ) from None
    return str(revision)


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, partial)
        partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        partial.unlink(missing_ok=True)
