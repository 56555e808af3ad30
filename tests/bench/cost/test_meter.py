"""The clock against waits of known length, the memory counters against blocks of known size."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from bench.cost import meter as meter_module
from bench.cost.meter import Meter

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
PAGE = 4096
BLOCK_MIB = 64
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def burn(milliseconds: float) -> str:
    """Compute until this thread has had so much CPU time."""
    end = time.thread_time_ns() + milliseconds * 1e6
    while time.thread_time_ns() < end:
        pass
    return "burnt"


def touched(mib: int) -> bytearray:
    """A block of which every page is in memory."""
    block = bytearray(mib * 2**20)
    for start in range(0, len(block), PAGE):
        block[start] = 1
    return block


def test_a_wait_takes_wall_clock_and_no_cpu_time() -> None:
    result, timing = Meter(CPU).measure(lambda: time.sleep(0.05))
    assert result is None
    assert 50 <= timing.latency_ms < 500
    assert timing.cpu_ms < 25
    assert timing.device_ms is None


def test_a_busy_wait_takes_both() -> None:
    result, timing = Meter(CPU).measure(lambda: burn(40))
    assert result == "burnt"
    assert 40 <= timing.cpu_ms < 60
    assert timing.latency_ms >= timing.cpu_ms - 20  # whatever other threads of this process do


def test_the_cpu_time_is_that_of_all_threads() -> None:
    def call() -> None:
        threads = [threading.Thread(target=burn, args=(30,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 60 <= Meter(CPU).measure(call)[1].cpu_ms < 90


def test_the_clock_stops_at_an_error_and_starts_anew() -> None:
    meter = Meter(CPU)
    with pytest.raises(ZeroDivisionError):
        meter.measure(lambda: 1 / 0)
    assert meter.measure(lambda: 7)[0] == 7


@linux
def test_the_peak_rises_by_what_is_touched_and_falls_after_a_reset() -> None:
    meter = Meter(CPU)
    meter.reset_peaks()
    base, start = meter.peak_resident_mib(), meter.resident_mib()
    assert base is not None
    assert start is not None
    assert abs(base - start) < 4
    block = touched(BLOCK_MIB)
    held = meter.resident_mib()
    del block
    peak, after = meter.peak_resident_mib(), meter.resident_mib()
    assert peak is not None
    assert held is not None
    assert after is not None
    assert abs(peak - base - BLOCK_MIB) <= 4
    assert abs(held - start - BLOCK_MIB) <= 4
    assert abs(after - start) <= 4
    meter.reset_peaks()
    fallen = meter.peak_resident_mib()
    assert fallen is not None
    assert abs(peak - fallen - BLOCK_MIB) <= 4
    assert "rss_peak_mib" not in meter.absent


@linux
def test_without_resets_only_a_new_peak_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meter = Meter(CPU)
    meter.reset_peaks()
    first = touched(BLOCK_MIB)
    del first
    monkeypatch.setattr(meter_module, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    before = meter.peak_resident_mib()
    meter.reset_peaks()
    second = touched(BLOCK_MIB // 2)
    assert meter.peak_resident_mib() is None
    assert meter.absent["rss_peak_mib"].startswith("the peak cannot be reset here (No such file or directory)")
    third = touched(BLOCK_MIB)
    now = meter.peak_resident_mib()
    assert "rss_peak_mib" not in meter.absent
    assert now is not None
    assert before is not None
    assert abs(now - before - BLOCK_MIB // 2) <= 4
    assert len(second) + len(third) == 3 * 2**20 * BLOCK_MIB // 2


@linux
def test_the_fallback_counts_in_the_same_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meter = Meter(CPU)
    by_status = meter.peak_resident_mib()
    monkeypatch.setattr(meter_module, "_STATUS", tmp_path / "status")
    by_rusage = meter.peak_resident_mib()
    assert by_status is not None
    assert by_rusage is not None
    assert by_rusage >= by_status - 4  # it knows no reset
    assert by_rusage < 1000 * by_status
    assert meter.resident_mib() is None


def test_the_frequency_is_the_mean_over_our_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpuinfo = "".join(f"processor\t: {core}\ncpu MHz\t\t: {1000 + 500 * core}.5\n\n" for core in range(4))
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(meter_module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(meter_module, "_CPUS", tmp_path)
    monkeypatch.setattr(meter_module, "_own_cores", lambda: {1, 3})
    assert Meter(CPU).cpu_mhz() == (1500.5 + 2500.5) / 2
    for core in (1, 3):
        (tmp_path / f"cpu{core}" / "cpufreq").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").write_text(f"{3_000_000 + core}\n")
    assert Meter(CPU).cpu_mhz() == pytest.approx(3000.002)


def test_an_unknown_frequency_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meter_module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(meter_module, "_CPUS", tmp_path)
    meter = Meter(CPU)
    assert meter.cpu_mhz() is None
    assert "frequency" in meter.absent["cpu_mhz"]


def test_a_cpu_has_no_cuda_counters() -> None:
    meter = Meter(CPU)
    assert meter.allocated_mib() is meter.alloc_peak_mib() is meter.reserved_peak_mib() is None
    assert set(meter.absent) == {"device_ms", "alloc_peak_mib", "reserved_peak_mib"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_clock_waits_for_the_gpu() -> None:
    meter, cycles = Meter(CUDA), 20_000_000  # some 10 ms at 2 GHz
    meter.measure(lambda: torch.cuda._sleep(1000))
    _, timing = meter.measure(lambda: torch.cuda._sleep(cycles))
    assert timing.device_ms is not None
    assert 4 < timing.device_ms <= timing.latency_ms
    assert timing.latency_ms - timing.device_ms < 5
    _, twice = meter.measure(lambda: torch.cuda._sleep(2 * cycles))
    assert twice.device_ms == pytest.approx(2 * timing.device_ms, rel=0.3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_allocators_peak_rises_and_falls() -> None:
    meter = Meter(CUDA)
    kept = torch.zeros(2**20, device=CUDA)  # 4 MiB
    meter.reset_peaks()
    base = meter.allocated_mib()
    block = torch.empty(BLOCK_MIB * 2**20, dtype=torch.uint8, device=CUDA)
    del block
    assert base is not None
    assert base >= kept.nbytes / 2**20
    assert meter.allocated_mib() == base
    assert meter.alloc_peak_mib() == base + BLOCK_MIB
    reserved = meter.reserved_peak_mib()
    assert reserved is not None
    assert reserved >= base + BLOCK_MIB
    meter.reset_peaks()
    assert meter.alloc_peak_mib() == base
