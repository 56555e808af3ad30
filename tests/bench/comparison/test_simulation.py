"""How often the tripwire alarms, simulated; run as a script, it prints the table in `bench.comparison.speed`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from comparison_runs import COST_ROW

from bench.comparison.cells import Cell, Cost, Side
from bench.comparison.reading import cost_of
from bench.comparison.speed import speeds

CELL = Cell("embedded", "liif", "edsr-micro", 4.0, 720)
PAIRS, FEW = 2000, 500
"""Simulated for the table, and by the tests."""


@dataclass(frozen=True)
class Noise:
    """Standard deviations of logarithms, but for the drift, which is the largest one either way."""

    name: str
    repeat: float
    drift: float
    process: float = 0.0


QUIET = Noise("3 %, interleaved", 0.03, 0.01)
USUAL = Noise("5 %, interleaved", 0.05, 0.01)
APART = Noise("5 %, not interleaved", 0.05, 0.025)
CROWDED = Noise("5 %, interleaved, processes 8 %", 0.05, 0.01, 0.08)


def cost(rng: np.random.Generator, noise: Noise, effect: float, processes: int, repeats: int) -> Cost:
    """One side's repeats, of which each process has the same number."""

    def noisy() -> np.ndarray:
        tail = (rng.random(repeats) < 0.05) * rng.exponential(0.3, repeats)
        return np.exp(rng.normal(0, noise.repeat, repeats)) * (1 + tail)

    drift = np.exp(rng.uniform(-noise.drift, noise.drift))
    layout = np.repeat(np.exp(rng.normal(0, noise.process, processes)), repeats // processes)
    values = (effect * drift * layout * noisy() / noisy()).tolist()
    size = repeats // processes
    rows = [
        replace(COST_ROW, repeat=i, session=str(i // size), latency_ms=value, calibration_ms=1.0)
        for i, value in enumerate(values)
    ]
    return cost_of(rows)


def alarms(noise: Noise, effect: float, *, processes: int = 1, repeats: int = 30, pairs: int = PAIRS) -> float:
    """Share of simulated pairs of runs, in percent, that the tripwire calls a regression."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(pairs):
        costs = [cost(rng, noise, size, processes, repeats) for size in (1.0, effect)]
        base, new = (Side(name, "cost", {}, {}, costs={CELL: side}) for name, side in zip("ab", costs, strict=True))
        (line,) = speeds(base, new, pinned=False)
        found += line.verdict == "regressed"
    return 100 * found / pairs


@pytest.mark.parametrize("noise", [QUIET, USUAL, APART], ids=lambda noise: noise.name)
def test_twenty_runs_without_change_raise_no_alarm(noise):
    assert alarms(noise, 1.0, pairs=20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("noise", [QUIET, USUAL, APART], ids=lambda noise: noise.name)
def test_a_quarter_is_caught_and_nothing_is_not(noise):
    assert alarms(noise, 1.25, pairs=FEW) >= 99
    assert alarms(noise, 1.0, pairs=FEW) <= 0.1


@pytest.mark.slow
def test_on_a_crowded_machine_several_processes_tell_more_than_one():
    assert alarms(CROWDED, 1.0, processes=10, pairs=FEW) <= 0.3
    assert alarms(CROWDED, 1.25, processes=10, pairs=FEW) >= 96
    assert alarms(CROWDED, 1.0, pairs=FEW) > 5


def main() -> None:
    """Print the table."""
    cases = [(noise, 1, repeats) for repeats in (10, 20, 30) for noise in (USUAL, APART)]
    cases += [(QUIET, 1, 30), *((CROWDED, processes, 30) for processes in (1, 3, 5, 10))]
    print("| noise | processes | repeats | no change | +10 % | +25 % |\n|---|---|---|---|---|---|")
    for noise, processes, repeats in cases:
        shares = [alarms(noise, effect, processes=processes, repeats=repeats) for effect in (1.0, 1.1, 1.25)]
        print(f"| {noise.name} | {processes} | {repeats} |", " | ".join(f"{share:.1f}" for share in shares), "|")


if __name__ == "__main__":
    sys.exit(main())
