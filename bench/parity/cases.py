"""Parity cases on disk: finding them, reading them, and what comparing with one gives."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from methods.errors import UserError
from methods.registry import by_reference_name

Array = npt.NDArray[Any]
Verdict = Literal["pass", "fail", "skip"]


class CannotRun(Exception):
    """This version or machine lacks what a case needs; the text says what."""


@dataclass(frozen=True)
class Check:
    """One comparison within a case; it passes if the error is at most the tolerance, which NaN is not."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the tolerance is met."""
        return self.error <= self.tolerance

    @property
    def strain(self) -> float:
        """How much of the tolerance is used up, to find a case's worst check."""
        if self.passed:
            return self.error / self.tolerance if self.tolerance else 0.0
        return math.inf if math.isnan(self.error) or not self.tolerance else self.error / self.tolerance


@dataclass(frozen=True)
class CaseResult:
    """What became of one case: its worst check stands for it."""

    case: str
    kind: str
    error: float
    """Relative to the largest reference value; of metrics, in the tolerance's unit. NaN if nothing was compared."""
    tolerance: float
    verdict: Verdict
    seconds: float
    note: str
    """Which check was the worst, or why there is none."""
    method: str | None = None
    """The registered method that the case is about, if it is about one."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; a skipped case is not wrong."""
        return self.verdict != "fail"


@dataclass(frozen=True)
class Case:
    """A JSON file that describes a case; its arrays lie beside it."""

    path: Path
    spec: Mapping[str, Any]
    kind: str

    @property
    def name(self) -> str:
        """Folder and stem, as people refer to cases."""
        return f"{self.path.resolve().parent.name}/{self.path.stem}"

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Everything in the case's own npz file."""
        return self.arrays_of(f"{self.path.stem}.npz")

    def arrays_of(self, name: str) -> dict[str, Array]:
        """Everything in an npz file of the case's folder.

        Raises:
            UserError: it is missing or damaged.
        """
        file = self.path.with_name(name)
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                return dict(archive)
        except FileNotFoundError:
            raise UserError(f"The parity case {self.path} lacks its arrays: put {name} beside it.") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"The arrays {file} cannot be read ({error}): get the file again.") from None


def find_cases(paths: Iterable[str | Path]) -> list[Case]:
    """The cases that files (.json, .npz) and folders name, without repeats; folders are searched to any depth.

    The set means (bicubic.csv), which take minutes, are a case only when named.

    Raises:
        UserError: a path does not exist, holds no case, or is a file that is not one.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.rglob("*.json"))
            if not found:
                raise UserError(f"The folder {path} holds no parity case: give one with .json and .npz files.")
            files.update(dict.fromkeys(found))
        else:
            files[path.with_suffix(".json") if path.suffix == ".npz" else path] = None
    return [_read(file) for file in files]


def method_name(case: Case) -> str | None:
    """The registered method that a case is about: its variant, what its config calls it, or its method; else None."""
    if case.kind != "method":
        return None
    for name in (case.spec.get("variant"), case.spec["config"].get("name"), case.spec["method"]):
        if isinstance(name, str) and (spec := by_reference_name(name)):
            return spec.name
    return None


def _read(path: Path) -> Case:
    try:
        text = path.read_text(encoding="utf-8")
        spec = {"lines": list(csv.DictReader(text.splitlines()))} if path.suffix == ".csv" else json.loads(text)
    except OSError as error:
        reason = error.strerror or "not readable"
        raise UserError(f"The parity case {path} cannot be read ({reason}): give a .json file or a folder.") from None
    except ValueError as error:
        raise UserError(f"The parity case {path} is not JSON ({error}): get the file again.") from None
    kind = _kind(spec) if isinstance(spec, dict) else None
    if kind is None:
        raise UserError(f"{path} is not a parity case: it describes no network, rasterization or metric.")
    lacking = [key for key in _REQUIRED[kind] if key not in spec]
    if lacking:
        raise UserError(f"The parity case {path} lacks {', '.join(lacking)}: get the file again.")
    return Case(path, spec, kind)


_NETWORK = ("config", "state_dict", "out_size", "procedure", "rtol")
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "method": ("backbone", "scale", *_NETWORK),
    "encoder": ("backbone", *_NETWORK),
    "rasterizer": ("h", "w", "dmax", "rtol"),
    "scores": ("cases", "tolerance"),
    "imresize": ("cases",),
    "matlab": ("cases",),
    "perceptual": ("cases", "backbone"),
    "bicubic": ("lines",),
}
_ENTRY_KINDS = {
    "psnr_y": "scores",
    "expected": "perceptual",
    "lr_shape": "matlab",
    "out_shape": "imresize",
    "upsampled_from": "bicubic",
}
"""What tells the files about metrics apart: a key of their entries, to the kind."""


def _kind(spec: Mapping[str, Any]) -> str | None:
    if isinstance(spec.get("method"), str):
        return {"rasterizer": "rasterizer", "encoders": "encoder"}.get(spec["method"], "method")
    entries = spec.get("cases") or spec.get("lines")
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        return next((kind for key, kind in _ENTRY_KINDS.items() if key in entries[0]), None)
    return None
