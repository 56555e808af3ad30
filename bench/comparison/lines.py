"""What a comparison found: a line per cell and quantity, each with its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.comparison.cells import Cell, Kind

Verdict = Literal["same", "regressed", "improved", "too few", "not gated"]


@dataclass(frozen=True)
class Failure:
    """A cell whose images, some or all, have one status in BASE and another in NEW."""

    cell: Cell
    base: str
    """The status in BASE, or the fallback that the cell took when memory ran out."""
    new: str
    count: int
    """Images; in cost runs 1."""
    first: str
    """Image; empty in cost runs."""
    reason: str
    verdict: Verdict


@dataclass(frozen=True)
class Quality:
    """A metric's paired difference over the images of a cell."""

    cell: Cell
    metric: str
    n: int
    """Images that have a value on both sides."""
    lost: int
    """Images, computed on both sides, that have a value in BASE only."""
    first_lost: str
    """The first of them by name; else empty."""
    equal: bool
    """Whether no image differs."""
    base: float | None
    """Mean over the n images; None where n is 0."""
    new: float | None
    difference: float | None
    """Mean of NEW - BASE."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the difference; None where n is below 2."""
    p: float | None
    """Wilcoxon's signed-rank test; None: too few images."""
    worst: str
    """The image that worsened most, or improved least; empty where n is 0."""
    worst_difference: float | None
    tolerance: float
    verdict: Verdict


@dataclass(frozen=True)
class Speed:
    """How long the repeats of a cell took."""

    cell: Cell
    unit: str
    """ms, or calibrations: the time of the calibration workload that ran right before the repeat."""
    base: float | None
    """Median over the repeats; where several processes measured, the geometric mean of theirs."""
    new: float | None
    ratio: float | None
    """NEW / BASE."""
    spread: float | None
    """The larger one of the two sides' standard deviation by mean."""
    p: float | None
    repeats: tuple[int, int]
    base_ms: float | None
    """Median latency as the clock showed it; None where a baseline does not have it."""
    new_ms: float | None
    note: str
    verdict: Verdict


@dataclass(frozen=True)
class Amount:
    """Peak memory or energy of a cell."""

    cell: Cell
    quantity: Literal["peak memory", "energy per image"]
    unit: Literal["MiB", "J"]
    base: float | None
    new: float | None
    ratio: float | None
    verdict: Verdict


Line = Failure | Quality | Speed | Amount


@dataclass(frozen=True)
class Comparison:
    """NEW against BASE."""

    base: str
    new: str
    kind: Kind
    protocol: str
    """Names of the protocols, and of what both sides ran on."""
    rule: str
    """How speed was judged, in a sentence; empty for runs of quality."""
    failures: tuple[Failure, ...] = ()
    quality: tuple[Quality, ...] = ()
    speed: tuple[Speed, ...] = ()
    amounts: tuple[Amount, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines: failures, quality, speed, memory and energy."""
        return (*self.failures, *self.quality, *self.speed, *self.amounts)

    @property
    def regressed(self) -> bool:
        """Whether anything worsened by more than its tolerance."""
        return any(self.of("regressed"))

    @property
    def improved(self) -> bool:
        """Whether anything became better by more than its tolerance; something else may have regressed."""
        return any(self.of("improved"))

    def of(self, verdict: Verdict) -> Iterator[Line]:
        """The lines of one verdict."""
        return (line for line in self.lines if line.verdict == verdict)
