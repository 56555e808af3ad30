"""Memory, clocks, power and energy of a GPU over a block of work, read by a thread beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Self

from bench.cost.nvml import Gpu, Reading, TextReading

INTERVAL = 0.01
"""Seconds of pause between two samples. A sample is six calls of the driver, outside Python's lock; where they are slow
(some 1 ms each) samples come every 16 ms, and no slowness can make the thread ask without a pause. Peaks of memory are
seen nevertheless: torch's caching allocator keeps what it took."""
_ENOUGH = 0.9
"""Share of the time that good samples have to stand for. One failed call does no harm; a GPU that was lost does."""
_PATIENCE = 10.0
"""Seconds that a sampling thread gets to end; a call into a driver that hangs never returns."""

EnergySource = Literal["counter", "samples"]


@dataclass(frozen=True)
class Sample:
    """What was read at one moment."""

    time: float
    """Seconds, of any clock."""
    power_w: Reading
    used_mib: Reading
    process_mib: Reading
    sm_clock_mhz: Reading
    temperature_c: Reading
    throttled: TextReading


@dataclass(frozen=True)
class Samples:
    """A block of work summed up; a reading without a value says why."""

    used_peak_mib: Reading
    """Of all processes; samples may miss a peak that is shorter than their interval."""
    process_peak_mib: Reading
    """Of the process, from the first time the driver showed it."""
    sm_clock_mhz: Reading
    """Median."""
    power_w: Reading
    """Mean, weighted by time."""
    temperature_c: Reading
    """Highest."""
    throttled: str | None
    """Comma list of all that ever held the clocks down; empty: nothing did."""
    throttled_reason: str | None
    energy_j: Reading
    energy_source: EnergySource | None
    count: int
    """Samples that were taken."""
    seconds: float
    """From the block's start to its end."""


class Sampler:
    """Samples a GPU while its `with` block runs, once; the thread does not touch CUDA, and `summary` is for afterwards.

    The energy counter advances every 20 to 100 ms: keep a block whose energy counts at one second or longer. The
    thread takes Python's lock for a moment per sample, so do not time single inferences beside it.
    """

    def __init__(self, gpu: Gpu, pid: int, interval: float = INTERVAL) -> None:
        """pid: whose memory is the process's. interval: seconds between samples."""
        self._gpu, self._pid, self._interval = gpu, pid, interval
        self._samples: list[Sample] = []
        self._stop = Event()
        self._thread = Thread(target=self._run, name="gpu-sampler", daemon=True)
        self._fault: str | None = None
        self._seconds: float | None = None

    def __enter__(self) -> Self:
        assert self._seconds is None, "a sampler runs once"
        self._fault = self._gpu.absent
        self._counter = self._gpu.energy_j()
        self._started = perf_counter()
        if self._fault is None:
            try:
                self._thread.start()
            except RuntimeError as error:  # no more threads
                self._fault = _died(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)
        self._seconds = perf_counter() - self._started
        if self._thread.is_alive():
            self._fault = f"the sampling thread did not end within {_PATIENCE:g} s: the driver hangs"
            self._counter = Reading(None, self._fault)
        else:
            self._counter = _advance(self._counter, self._gpu.energy_j())

    def summary(self) -> Samples:
        """What the block did."""
        assert self._seconds is not None, "the block has not ended"
        return summarise(tuple(self._samples), self._seconds, self._counter, self._fault)

    def _run(self) -> None:
        try:
            running = True
            while running:  # the last sample comes after the end, so that samples span the block
                running = not self._stop.is_set()
                self._samples.append(take(self._gpu, self._pid))
                self._stop.wait(self._interval)
        except BaseException as error:  # a thread must not die in silence: every reading will say why
            self._fault = _died(error)


def take(gpu: Gpu, pid: int) -> Sample:
    """One sample; the power is read first, as it is integrated over the sample's time."""
    return Sample(
        perf_counter(),
        gpu.power_w(),
        gpu.used_mib(),
        gpu.process_mib(pid),
        gpu.sm_clock_mhz(),
        gpu.temperature_c(),
        gpu.throttled(),
    )


def summarise(samples: Sequence[Sample], seconds: float, counter: Reading, fault: str | None = None) -> Samples:
    """Sums samples up, in the order of their times.

    counter: energy by the counter in J, or why not. fault: why the samples do not stand for the block.
    """
    weights = _weights([sample.time for sample in samples])
    seen = next((place for place, sample in enumerate(samples) if sample.process_mib.value is not None), 0)

    def over(column: str, summed: Callable[[list[Any], list[float]], Any], start: int = 0) -> tuple[Any, str | None]:
        readings = [getattr(sample, column) for sample in samples[start:]]
        return _over(readings, weights[start:], summed, fault)

    power = Reading(*over("power_w", _mean))
    throttled, throttled_reason = over("throttled", _union)
    energy, source = _energy(counter, power, len(samples), seconds)
    return Samples(
        used_peak_mib=Reading(*over("used_mib", _highest)),
        process_peak_mib=Reading(*over("process_mib", _highest, seen)),
        sm_clock_mhz=Reading(*over("sm_clock_mhz", lambda values, _: median(values))),
        power_w=power,
        temperature_c=Reading(*over("temperature_c", _highest)),
        throttled=throttled,
        throttled_reason=throttled_reason,
        energy_j=energy,
        energy_source=source,
        count=len(samples),
        seconds=seconds,
    )


def _over(
    readings: Sequence[Reading | TextReading],
    weights: Sequence[float],
    summed: Callable[[list[Any], list[float]], Any],
    fault: str | None,
) -> tuple[Any, str | None]:
    if fault is not None or not readings:
        return None, fault or "no sample was taken"
    good = [
        (reading.value, weight) for reading, weight in zip(readings, weights, strict=True) if reading.reason is None
    ]
    if sum(weight for _, weight in good) >= _ENOUGH * sum(weights):
        return summed([value for value, _ in good], [weight for _, weight in good]), None
    reason = next(reading.reason for reading in reversed(readings) if reading.reason is not None)
    failed = len(readings) - len(good)
    return None, f"{failed} of {len(readings)} samples failed: {reason}" if good else reason


def _weights(times: Sequence[float]) -> list[float]:
    """Half of the time between each sample's neighbours, so that a weighted mean is the trapezoidal rule's."""
    if len(times) < 2 or times[-1] <= times[0]:
        return [1.0] * len(times)
    edges = [times[0], *((a + b) / 2 for a, b in pairwise(times)), times[-1]]
    return [after - before for before, after in pairwise(edges)]


def _mean(values: list[float], weights: list[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _highest(values: list[float], _: list[float]) -> float:
    return max(values)


def _union(values: list[str], _: list[float]) -> str:
    """Every name once, in the order they first came up."""
    return ",".join(dict.fromkeys(name for value in values for name in value.split(",") if name))


def _advance(start: Reading, end: Reading) -> Reading:
    """How far the energy counter went."""
    if start.value is None or end.value is None:
        return Reading(None, start.reason if start.value is None else end.reason)
    if end.value <= start.value:
        return Reading(None, "the energy counter did not advance")
    return Reading(end.value - start.value)


def _energy(counter: Reading, power: Reading, count: int, seconds: float) -> tuple[Reading, EnergySource | None]:
    """By the counter, which misses nothing, or else by power over time.

    The power sensors of A100 and H100 look at a quarter of the time only (arXiv 2312.02741).
    """
    if counter.value is not None:
        return counter, "counter"
    if power.value is not None and count >= 2:
        return Reading(power.value * seconds), "samples"
    reason = power.reason or "fewer than two samples"
    return Reading(None, reason if reason == counter.reason else f"counter: {counter.reason}; power: {reason}"), None


def _died(error: BaseException) -> str:
    return f"the sampling thread died: {type(error).__name__}: {error}"
