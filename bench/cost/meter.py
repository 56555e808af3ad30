"""The clock and the memory counters of one device, as one process sees them. Knows nothing of what it measures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_MIB = 2**20
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPUINFO, _CPUS = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu")
_RESET_PEAK = "5"
"""What proc(5) has for `clear_refs`: set the peak resident size to the present one; Linux 4.0 and newer."""


@dataclass(frozen=True)
class Timing:
    """How long one call took."""

    latency_ms: float
    """Wall clock, the device synchronised on both sides."""
    device_ms: float | None
    """Between two CUDA events around the same work; None where there are none."""
    cpu_ms: float
    """CPU time of the whole process, all threads and kernel time included."""


class Meter:
    """Measures calls on one device; one per process and device. All sizes are MiB (2**20 bytes).

    What cannot be measured here is None, and `absent` says why, by the names of the cost row's columns.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._absent: dict[str, str] = {}
        self._unreset: tuple[float, str] | None = None
        """The resident peak at a reset that failed, and why: only what exceeds it is known to be newer."""
        if device.type != "cuda":
            for name in ("device_ms", "alloc_peak_mib", "reserved_peak_mib"):
                self._absent[name] = f"{device.type} has no CUDA counters"

    @property
    def absent(self) -> Mapping[str, str]:
        """{column: why it is null}, as far as the readings so far have shown."""
        return dict(self._absent)

    def measure(self, call: Callable[[], T]) -> tuple[T, Timing]:
        """Run `call` once: synchronise, start the clocks, call, synchronise, stop them.

        What `call` raises passes through. Python's garbage collector is left as it is.
        """
        with self._current():
            events = self._events()
            synchronize(self.device)
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            if events:
                events[0].record()
            result = call()
            if events:
                events[1].record()
            synchronize(self.device)
            wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
        device_ms = float(events[0].elapsed_time(events[1])) if events else None
        return result, Timing(wall / 1e6, device_ms, cpu / 1e6)

    def _current(self) -> AbstractContextManager[Any]:
        """Makes the device torch's current one, on whose stream events are recorded."""
        if self.device.type != "cuda":
            return nullcontext()
        import torch

        return torch.cuda.device(self.device)

    def _events(self) -> tuple[torch.cuda.Event, torch.cuda.Event] | None:
        """Two CUDA events that the driver knows already, which the first record of an event sees to."""
        if self.device.type != "cuda":
            return None
        import torch

        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        end.record()
        return start, end

    def reset_peaks(self) -> None:
        """Let all peaks start anew from what is in use now.

        What torch's CUDA allocator holds in reserve stays reserved, and so counts in the new peak.
        """
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
            self._unreset = None
        except OSError as error:
            why = f"the peak cannot be reset here ({error.strerror}), and was at least as high before"
            self._unreset = _lifetime_peak_mib() or 0.0, why

    def resident_mib(self) -> float | None:
        """Resident memory of the process now, pages of mapped files (torch's libraries) included; Linux only."""
        return _status_mib("VmRSS")

    def peak_resident_mib(self) -> float | None:
        """Highest resident memory since the last reset, or since the process started if there was none.

        Where peaks cannot be reset it is None unless it has exceeded what it was at the reset.
        """
        peak, why = _lifetime_peak_mib(), f"{sys.platform} tells no peak of resident memory"
        if peak is not None and self._unreset is not None and peak <= self._unreset[0]:
            peak, why = None, self._unreset[1]
        self._absent.pop("rss_peak_mib", None)
        if peak is None:
            self._absent["rss_peak_mib"] = why
        return peak

    def allocated_mib(self) -> float | None:
        """What tensors on the CUDA device take now."""
        return self._cuda("memory_allocated")

    def alloc_peak_mib(self) -> float | None:
        """The most that tensors on the CUDA device took since the last reset."""
        return self._cuda("max_memory_allocated")

    def reserved_peak_mib(self) -> float | None:
        """The most that torch's CUDA allocator held since the last reset, whether tensors used it or not."""
        return self._cuda("max_memory_reserved")

    def _cuda(self, counter: str) -> float | None:
        if self.device.type != "cuda":
            return None
        import torch

        return float(getattr(torch.cuda, counter)(self.device)) / _MIB

    def cpu_mhz(self) -> float | None:
        """Mean frequency of the cores that this process may use.

        Virtual machines mostly tell the nominal one. Reading it interrupts every core: not while a clock runs.
        """
        found = _cpufreq_mhz() or _cpuinfo_mhz()
        if not found:
            self._absent["cpu_mhz"] = "neither cpufreq nor /proc/cpuinfo tells the frequency of the cores"
            return None
        return sum(found) / len(found)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work; on the CPU it always has."""
    if device.type == "cpu":
        return
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    else:
        torch.accelerator.synchronize(device)


def _status_mib(field: str) -> float | None:
    """A size that Linux tells of this process, None elsewhere."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def _lifetime_peak_mib() -> float | None:
    """The peak of resident memory as the system counts it: since the start, or the last reset where that works."""
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB or None


def _own_cores() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _cpufreq_mhz() -> list[float]:
    """Per core, from the kernel's frequency driver, which counts in kHz; empty where there is none."""
    try:
        return [
            int((_CPUS / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").read_text(encoding="ascii")) / 1000
            for core in sorted(_own_cores() or ())
        ]
    except (OSError, ValueError):
        return []


def _cpuinfo_mhz() -> list[float]:
    """Per core, as x86 kernels list it; empty elsewhere."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    own, found, core = _own_cores(), [], -1
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor" and value.isdigit():
            core = int(value)
        elif name == "cpu MHz" and (own is None or core in own):
            found.append(float(value))
    return found
