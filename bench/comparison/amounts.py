"""Did it come to need more memory, and, for information only, more energy."""

from __future__ import annotations

from collections.abc import Iterator

from bench.comparison.cells import Side
from bench.comparison.lines import Amount, Verdict

MEMORY_RATIO = 1.05
MEMORY_FLOOR_MIB = 4.0
"""Differences up to this say nothing: the resident memory of 40 processes that did the same, a few convolutions in
PyTorch on a CPU, peaked 22.9 to 26.8 MiB above where it had begun."""


def amounts(base: Side, new: Side, *, same_machine: bool = True) -> Iterator[Amount]:
    """Lines of peak memory and energy per image, per cell that both sides computed."""
    for cell in sorted(base.costs.keys() & new.costs.keys()):
        before, after = base.costs[cell], new.costs[cell]
        verdict: Verdict = "not gated"
        if before.memory_mib is not None or after.memory_mib is not None:
            if same_machine and before.fallback == after.fallback:
                verdict = memory_verdict(before.memory_mib, after.memory_mib)
            ratio = _ratio(before.memory_mib, after.memory_mib)
            yield Amount(cell, "peak memory", "MiB", before.memory_mib, after.memory_mib, ratio, verdict)
        if before.energy_j is not None and after.energy_j is not None:
            ratio = _ratio(before.energy_j, after.energy_j)
            yield Amount(cell, "energy per image", "J", before.energy_j, after.energy_j, ratio, "not gated")


def memory_verdict(base: float | None, new: float | None) -> Verdict:
    """Whether a peak in MiB changed by more than 5 % and more than MEMORY_FLOOR_MIB."""
    if base is None or new is None:
        return "not gated"
    if abs(new - base) <= MEMORY_FLOOR_MIB:
        return "same"
    if new > base * MEMORY_RATIO:
        return "regressed"
    return "improved" if base > new * MEMORY_RATIO else "same"


def _ratio(base: float | None, new: float | None) -> float | None:
    return new / base if base and new is not None else None
