"""Did it become slower: repeats of a cell in BASE against those in NEW.

On a shared machine the clock shows what the neighbours do. There, a time counts in units of the calibration workload
that ran right before it, and the rule is a tripwire for slow-downs of 25 %: an alarm where the ratio of the medians is
above 1.15 and the Mann-Whitney test has p < 0.01. A threshold at 1.25 itself would miss half of them. How often this
rule alarms, in percent of 2000 simulated pairs of runs of one cell:

| noise | processes | repeats | no change | +10 % | +25 % |
|---|---|---|---|---|---|
| 5 %, interleaved | 1 | 10 | 0.1 | 9.9 | 91.7 |
| 5 %, not interleaved | 1 | 10 | 0.1 | 12.2 | 90.3 |
| 5 %, interleaved | 1 | 20 | 0.0 | 6.5 | 99.7 |
| 5 %, not interleaved | 1 | 20 | 0.0 | 9.5 | 99.1 |
| 5 %, interleaved | 1 | 30 | 0.0 | 4.3 | 99.9 |
| 5 %, not interleaved | 1 | 30 | 0.0 | 9.4 | 99.5 |
| 3 %, interleaved | 1 | 30 | 0.0 | 0.1 | 100.0 |
| 5 %, interleaved, processes 8 % | 1 | 30 | 12.2 | 33.7 | 75.9 |
| 5 %, interleaved, processes 8 % | 3 | 30 | 2.2 | 25.5 | 89.2 |
| 5 %, interleaved, processes 8 % | 5 | 30 | 0.7 | 21.6 | 93.7 |
| 5 %, interleaved, processes 8 % | 10 | 30 | 0.1 | 16.8 | 97.4 |

Each repeat and each calibration has log-normal noise of that size, and 5 % of them take longer by another 30 % on
average (exponential); each run as a whole drifts by a factor that calibration does not remove, uniform up to 1 % either
way where runs are interleaved and up to 2.5 % where not. The script `tests/bench/comparison/test_simulation.py` repeats
it. A real change of 10 % is found now and then; that is no false alarm. With 10 repeats, spikes of single calibrations
hide some slow-downs.

The last rows are for machines with more work than cores. There, processes that do the same differ, each for as long as
it lives, and no number of repeats shows it: of 12 interleaved pairs of processes without change, 30 repeats each, on
two cores at a load of 4 to 7, the ratios were 0.83 to 1.27. So on such a machine measure a cell by several processes; a
side's time is then the geometric mean of their medians. Of 6 pairs each that was 1.00 and 1.06, and 1.28 with 25 % of
busy waiting added.

Against a stored baseline, of which only medians are known, a sign test of NEW's repeats takes the place of the
Mann-Whitney test.

On a pinned device, with at least 30 repeats a side that took turns, the latency itself is compared: more than 5 % and
p < 0.002.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from bench.comparison.cells import Cell, Cost, Side
from bench.comparison.lines import Speed, Verdict
from bench.comparison.statistics import rank_sum_p, sign_p
from methods.errors import UserError


@dataclass(frozen=True)
class Rule:
    """When a difference in speed is a change."""

    ratio: float
    """Of the medians, and its inverse for what became faster."""
    p: float
    repeats: int
    """Fewer on either side are too few to say."""

    def verdict(self, ratio: float, p: float, repeats: int) -> Verdict:
        """What the medians' ratio NEW / BASE, a p and the smaller number of repeats amount to."""
        if repeats < self.repeats:
            return "too few"
        if p >= self.p or 1 / self.ratio <= ratio <= self.ratio:
            return "same"
        return "regressed" if ratio > 1 else "improved"


TRIPWIRE = Rule(ratio=1.15, p=0.01, repeats=10)
PINNED = Rule(ratio=1.05, p=0.002, repeats=30)


def describe_rule(base: Side, new: Side, *, pinned: bool) -> str:
    """The rule of a comparison of costs in a sentence, with what the reader should know of how the runs were made."""
    if pinned:
        return "Speed: pinned device, interleaved repeats; alarm above +5 % of the median with p < 0.002."
    tripwire = "Speed: tripwire for slow-downs of 25 %, in units of the calibration workload"
    if base.stored:
        return f"{tripwire}; against a stored baseline, measured at another time."
    common = [(base.costs[cell], new.costs[cell]) for cell in base.costs.keys() & new.costs.keys()]
    fewest = min((len(side.sessions) for pair in common for side in pair), default=0)
    processes = f"{fewest} process{'es' * (fewest != 1)} per cell"
    if all(_interleaved(before, after) for before, after in common):
        return f"{tripwire}; the runs were interleaved, {processes}."
    return f"{tripwire}; the runs were made at different times, {processes}."


def speeds(base: Side, new: Side, *, pinned: bool, same_machine: bool = True) -> Iterator[Speed]:
    """A line per cell that both sides computed.

    Raises:
        UserError: pinned, and the runs were not interleaved or have too few repeats.
    """
    for cell in sorted(base.costs.keys() & new.costs.keys()):
        before, after = base.costs[cell], new.costs[cell]
        if pinned:
            _refuse_unpinned(cell, before, after)
        if before.fallback != after.fallback:
            yield _not_gated(cell, before, after, "memory ran out differently")
        elif pinned:
            p = rank_sum_p(before.latency, after.latency)
            medians = median(before.latency), median(after.latency)
            yield _line(cell, before, after, "ms", medians, p=p, rule=PINNED)
        elif not before.calibrated_median or not after.calibrated_median:
            yield _not_gated(cell, before, after, "no calibration")
        elif not same_machine:
            yield _not_gated(cell, before, after, "other machine")
        else:
            yield _tripwire(cell, before, after, before.calibrated_median, after.calibrated_median)


def _tripwire(cell: Cell, before: Cost, after: Cost, base: float, new: float) -> Speed:
    p = rank_sum_p(before.calibrated, after.calibrated) if before.calibrated else sign_p(after.calibrated, base)
    return _line(cell, before, after, "calibrations", (base, new), p=p, rule=TRIPWIRE)


def _line(
    cell: Cell,
    before: Cost,
    after: Cost,
    unit: str,
    medians: tuple[float | None, float | None],
    *,
    p: float | None = None,
    rule: Rule | None = None,
    note: str = "",
) -> Speed:
    base, new = medians
    ratio = new / base if base and new is not None else None
    verdict: Verdict = "not gated"
    if rule and ratio is not None and p is not None:
        verdict = rule.verdict(ratio, p, min(before.repeats, after.repeats))
    return Speed(
        cell=cell,
        unit=unit,
        base=base,
        new=new,
        ratio=ratio,
        spread=max((side.spread for side in (before, after) if side.spread is not None), default=None),
        p=p,
        repeats=(before.repeats, after.repeats),
        base_ms=median(before.latency) if before.latency else None,
        new_ms=median(after.latency) if after.latency else None,
        note=note,
        verdict=verdict,
    )


def _not_gated(cell: Cell, before: Cost, after: Cost, why: str) -> Speed:
    return _line(cell, before, after, "calibrations", (before.calibrated_median, after.calibrated_median), note=why)


def _interleaved(before: Cost, after: Cost) -> bool:
    return bool(before.sessions) and before.sessions == after.sessions


def _refuse_unpinned(cell: Cell, before: Cost, after: Cost) -> None:
    if not _interleaved(before, after):
        raise UserError(
            f"A pinned comparison needs runs that took turns, and those of {cell} did not: measure them interleaved, "
            "or leave --pinned out."
        )
    fewest = min(before.repeats, after.repeats)
    if fewest < PINNED.repeats:
        raise UserError(
            f"A pinned comparison needs {PINNED.repeats} repeats, and {cell} has {fewest}: measure more, or leave "
            "--pinned out."
        )
