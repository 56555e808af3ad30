"""Did the numbers worsen: metrics paired by image, and images that NEW could not compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from types import MappingProxyType

from bench.comparison.cells import Cell, Side, Spot
from bench.comparison.lines import Failure, Quality, Verdict
from bench.comparison.matching import Match
from bench.comparison.statistics import mean_interval, signed_rank_p
from bench.metrics import METRICS
from bench.rows import FAILED
from methods.names import resolve

TOLERANCES: Mapping[str, float] = MappingProxyType(
    {name: 1e-3 if metric.unit == "dB" else 1e-4 for name, metric in METRICS.items()}
)
"""By how much a mean may worsen, per metric, in its unit. One CPU repeats its numbers bit by bit; the tolerance is for
other CPUs and other versions of PyTorch."""
_DIGITS = 9
"""Decimals of a difference; what follows is rounding, of values around 30."""
_FALLBACKS = ("", "chunks", "tiles")
"""From good to bad."""


def tolerances(overrides: Mapping[str, float] | None) -> Mapping[str, float]:
    """The tolerance of every metric.

    Raises:
        UserError: an override is for no metric.
    """
    chosen = {resolve(name, METRICS, "metric"): value for name, value in (overrides or {}).items()}
    return {**TOLERANCES, **chosen}


def quality(base: Side, new: Side, match: Match, allowed: Mapping[str, float]) -> Iterator[Quality]:
    """A line per cell and metric that BASE has values of."""
    cells = {spot.cell for spot in match.spots}
    spots = sorted(spot for spot in base.scores.keys() & new.scores.keys() if spot.cell in cells)
    for cell, group in groupby(spots, key=lambda spot: spot.cell):
        found = list(group)
        for metric in METRICS:
            if metric in match.metrics and any(base.scores[spot].get(metric) is not None for spot in found):
                yield _line(cell, metric, found, base, new, allowed[metric])


def _line(cell: Cell, metric: str, spots: Iterable[Spot], base: Side, new: Side, tolerance: float) -> Quality:
    pairs: dict[str, tuple[float, float]] = {}
    lost: list[str] = []
    for spot in spots:
        before, after = base.scores[spot].get(metric), new.scores[spot].get(metric)
        if before is not None and after is None:
            lost.append(spot.image)
        elif before is not None and after is not None:
            pairs[spot.image] = before, after
    differences = {image: round(after - before, _DIGITS) for image, (before, after) in pairs.items()}
    sign = 1 if METRICS[metric].higher_is_better else -1
    worst = min(differences, key=lambda image: (sign * differences[image], image)) if pairs else ""
    mean = round(fmean(differences.values()), _DIGITS) if pairs else None
    return Quality(
        cell=cell,
        metric=metric,
        n=len(pairs),
        lost=len(lost),
        first_lost=min(lost, default=""),
        equal=not any(differences.values()),
        base=fmean(before for before, _ in pairs.values()) if pairs else None,
        new=fmean(after for _, after in pairs.values()) if pairs else None,
        difference=mean,
        interval=mean_interval(list(differences.values())),
        p=signed_rank_p(list(differences.values())),
        worst=worst,
        worst_difference=differences.get(worst),
        tolerance=tolerance,
        verdict="regressed" if lost else _verdict(sign * (mean or 0.0), tolerance),
    )


def _verdict(gain: float, tolerance: float) -> Verdict:
    return "regressed" if gain < -tolerance else "improved" if gain > tolerance else "same"


def failures(base: Side, new: Side, match: Match) -> Iterator[Failure]:
    """A line per cell and change of status, or of what was done after memory had run out."""
    changed = [spot for spot in match.spots if _outcome(base, spot) != _outcome(new, spot)]

    def kind(spot: Spot) -> tuple[Cell, str, str]:
        return spot.cell, _outcome(base, spot), _outcome(new, spot)

    for (cell, before, after), group in groupby(sorted(changed, key=kind), key=kind):
        spots: Sequence[Spot] = list(group)
        reason = new.entries[spots[0]].reason or base.entries[spots[0]].reason
        verdict = _status_verdict(before, after)
        yield Failure(cell, before, after, len(spots), spots[0].image, reason, verdict)


def _outcome(side: Side, spot: Spot) -> str:
    status = side.entries[spot].status
    fallback = side.costs[spot.cell].fallback if status == "ok" and spot.cell in side.costs else ""
    return f"ok in {fallback}" if fallback else status


def _status_verdict(before: str, after: str) -> Verdict:
    """Failing is worse than being skipped or computed; a row that was computed and now is not is a loss either way."""
    badness = [_badness(status) for status in (before, after)]
    return "regressed" if badness[1] > badness[0] else "improved" if badness[1] < badness[0] else "same"


def _badness(outcome: str) -> int:
    if outcome.startswith("ok"):
        return _FALLBACKS.index(outcome.removeprefix("ok").removeprefix(" in "))
    return len(_FALLBACKS) + (outcome in FAILED)
