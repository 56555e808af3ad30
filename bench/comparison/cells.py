"""What is compared: the two sides, each a run or a stored baseline, as results by cell and image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bench.rows import METRIC_COLUMNS

Kind = Literal["run", "cost"]
Values = Mapping[str, float | None]
"""Metric names to values; None where there is none."""


class Cell(NamedTuple):
    """What was asked for; results of two sides with equal cells are compared."""

    dataset: str
    method: str
    backbone: str
    scale: float
    crop: int = 0
    """Side of the GT patch in pixels, of cost runs; else 0."""

    def __str__(self) -> str:
        network = f"{self.method}/{self.backbone}" if self.backbone else self.method
        return f"{network} x{self.scale:g} {self.dataset}" + (f" {self.crop} px" if self.crop else "")


class Spot(NamedTuple):
    """One result of a cell: that of an image, or in cost runs the whole cell, with an empty image."""

    cell: Cell
    image: str

    def __str__(self) -> str:
        return f"{self.cell}, {self.image}" if self.image else str(self.cell)


@dataclass(frozen=True)
class Entry:
    """Whether a spot was computed, and under which conditions."""

    conditions: Mapping[str, str]
    """What must agree on both sides, by name; empty where the spot was not computed."""
    weights: str
    """The checkpoint's sha256; where there is no file, its label."""
    status: str
    reason: str
    """Why the status is not ok; else empty."""


@dataclass(frozen=True)
class Cost:
    """What a cell's repeats took."""

    fallback: str
    """What was done after memory had run out: nothing, chunks or tiles."""
    repeats: int
    sessions: frozenset[str]
    """Processes, or pairs of interleaved ones, that measured; empty in a baseline."""
    latency: tuple[float, ...]
    """Milliseconds per repeat; empty in a baseline."""
    calibrated: tuple[float, ...]
    """The same, each in units of the calibration workload timed right before; empty in a baseline."""
    calibrated_median: float | None
    """Of each process the median of its `calibrated`, of these the geometric mean: repeats in one process do not show
    how processes differ."""
    spread: float | None
    """Standard deviation of `calibrated` by its mean."""
    memory_mib: float | None
    """Median peak: of CUDA's allocator, or of resident memory less what the process had before the network."""
    energy_j: float | None
    """Per image."""


@dataclass(frozen=True)
class Side:
    """BASE or NEW."""

    name: str
    kind: Kind
    manifest: Mapping[str, Any]
    """Of a baseline: the part of the run's manifest that was stored."""
    entries: Mapping[Spot, Entry]
    scores: Mapping[Spot, Values] = field(default_factory=dict)
    """Per image, also in cost runs."""
    costs: Mapping[Cell, Cost] = field(default_factory=dict)
    stored: bool = False
    """Whether this is a baseline."""

    @property
    def asked_metrics(self) -> frozenset[str]:
        """Metrics that the run was asked for, whether or not they could be computed."""
        named = self.manifest.get("metrics")
        return frozenset(METRIC_COLUMNS if named is None else (metric["name"] for metric in named))

    @property
    def machine(self) -> Mapping[str, Any]:
        """What tells one machine from another."""
        environment = self.manifest.get("environment", {})
        gpus = ", ".join(sorted({gpu["name"] for gpu in environment.get("gpus") or ()}))
        return {"CPU": environment.get("cpu"), "GPU": gpus or None}
