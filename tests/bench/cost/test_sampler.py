"""Sampled peaks, means and energy against simulated GPUs whose curves are known, and against faults in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from threading import Event, current_thread
from time import perf_counter, sleep
from typing import Any

import pytest
from fake_nvml import MIB, Device, FakeNvml, failure, opened

from bench.cost import sampler as sampler_module
from bench.cost.nvml import Gpu, Reading, TextReading, no_gpu
from bench.cost.sampler import Sample, Sampler, Samples, summarise

PID = 7
STUCK = "the energy counter did not advance"
LOST = Reading(None, "NVML: GPU is lost")
FIRST_CALL = "nvmlDeviceGetPowerUsage"
READINGS = ("used_peak_mib", "process_peak_mib", "sm_clock_mhz", "power_w", "temperature_c")


def sampled(gpu: Gpu, block: Callable[[], Any] = lambda: sleep(0.05), interval: float = 0.002) -> Samples:
    with Sampler(gpu, PID, interval) as sampler:
        block()
    return sampler.summary()


def reasons(samples: Samples) -> set[str | None]:
    return {getattr(samples, name).reason for name in READINGS} | {samples.throttled_reason}


def growing(start: float, step: float) -> Callable[[], int]:
    values = iter(int(start + step * place) for place in range(10**9))
    return lambda: next(values)


def until_sampled(driver: FakeNvml, more: int) -> None:
    """Waits until so many more samples have been begun."""
    goal, deadline = driver.calls.count(FIRST_CALL) + more, perf_counter() + 10
    while driver.calls.count(FIRST_CALL) < goal:
        assert perf_counter() < deadline, "the thread does not sample"
        sleep(0.002)


def no_sampler_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "gpu-sampler"]


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    yield
    assert no_sampler_is_left()


# Samples made by hand.


def sample(time: float, throttled: str = "", **readings: float | Reading) -> Sample:
    values = {"power_w": 100.0, "used_mib": 10.0, "process_mib": 5.0, "sm_clock_mhz": 1000.0, "temperature_c": 40.0}
    made = {name: one if isinstance(one, Reading) else Reading(one) for name, one in (values | readings).items()}
    return Sample(time, throttled=TextReading(throttled), **made)


def powers(*points: tuple[float, float | Reading]) -> Sequence[Sample]:
    return [sample(time, power_w=value) for time, value in points]


def test_energy_is_the_trapezoids() -> None:
    # (100 + 200) / 2 * 1 + (200 + 200) / 2 * 3 + (200 + 50) / 2 * 0.5 = 150 + 600 + 62.5 J in 4.5 s
    curve = powers((10, 100), (11, 200), (14, 200), (14.5, 50))
    samples = summarise(curve, 4.5, Reading(None, STUCK))
    assert samples.energy_j.value == pytest.approx(812.5, rel=1e-12)
    assert samples.energy_source == "samples"
    assert samples.power_w.value == pytest.approx(812.5 / 4.5, rel=1e-12)
    assert (samples.count, samples.seconds) == (4, 4.5)


def test_what_the_samples_do_not_reach_goes_at_the_mean() -> None:
    samples = summarise(powers((0, 100), (1, 300)), 1.01, Reading(None, STUCK))
    assert samples.energy_j.value == pytest.approx(202)


def test_the_counter_wins() -> None:
    samples = summarise(powers((0, 100), (1, 300)), 1.0, Reading(123.0))
    assert (samples.energy_j, samples.energy_source) == (Reading(123.0), "counter")
    assert samples.power_w == Reading(200)


def test_one_sample_has_no_energy() -> None:
    samples = summarise(powers((0, 100)), 0.0, Reading(None, STUCK))
    assert samples.energy_j == Reading(None, f"counter: {STUCK}; power: fewer than two samples")
    assert samples.energy_source is None


def test_a_clock_that_stands_still() -> None:
    assert summarise(powers((3, 100), (3, 200)), 0.0, Reading(1.0)).power_w == Reading(150)


def test_peaks_and_the_median() -> None:
    columns = {"used_mib": (5, 50, 20), "process_mib": (1, 2, 30), "sm_clock_mhz": (1980, 210, 1900)}
    samples = summarise(
        [
            sample(time, temperature_c=40 + time, **{name: values[time] for name, values in columns.items()})
            for time in range(3)
        ],
        2.0,
        Reading(1.0),
    )
    assert (samples.used_peak_mib, samples.process_peak_mib) == (Reading(50), Reading(30))
    assert (samples.sm_clock_mhz, samples.temperature_c) == (Reading(1900), Reading(42))


def test_throttles_of_all_samples_once_each() -> None:
    texts = "", "sw-power-cap", "sw-power-cap,hw-thermal", ""
    samples = [sample(time, text) for time, text in enumerate(texts)]
    assert summarise(samples, 3.0, Reading(1.0)).throttled == "sw-power-cap,hw-thermal"
    assert summarise(samples[:1], 3.0, Reading(1.0)).throttled == ""


def test_a_single_failed_read_does_no_harm() -> None:
    curve = [
        (float(time), Reading(100.0 + time) if time != 7 else Reading(None, "NVML: Timeout")) for time in range(21)
    ]
    samples = summarise(powers(*curve), 20.0, Reading(None, STUCK))
    # The mean of 100 to 120 W without the 107 W of one second; the first and last stand for half a second each.
    assert samples.power_w.value == pytest.approx((110 * 20 - 107) / 19)


def test_failed_reads_count_by_their_time() -> None:
    # One sample of five failed, which stands for 1 s of 100 s, and then for 49 s.
    short = powers((0, 100.0), (49, 100.0), (50, LOST), (51, 100.0), (100, 100.0))
    assert summarise(short, 100.0, Reading(1.0)).power_w == Reading(100)
    long = powers((0, 100.0), (1, 100.0), (50, LOST), (99, 100.0), (100, 100.0))
    assert summarise(long, 100.0, Reading(1.0)).power_w.reason == "1 of 5 samples failed: NVML: GPU is lost"


def test_a_process_counts_from_when_it_is_seen() -> None:
    hidden = Reading(None, "process 7 is not shown")
    seen = [sample(time, process_mib=hidden if time < 5 else 10.0 * time) for time in range(10)]
    assert summarise(seen, 9.0, Reading(1.0)).process_peak_mib == Reading(90)
    lost = [sample(time, process_mib=Reading(50) if time < 5 else hidden) for time in range(10)]
    assert (
        summarise(lost, 9.0, Reading(1.0)).process_peak_mib.reason == "5 of 10 samples failed: process 7 is not shown"
    )
    never = [sample(time, process_mib=hidden) for time in range(10)]
    assert summarise(never, 9.0, Reading(1.0)).process_peak_mib == hidden


def test_the_last_reason_is_the_one_that_lasts() -> None:
    samples = summarise(powers((0, Reading(None, "NVML: Timeout")), (1, 100.0), (2, LOST)), 2.0, Reading(1.0))
    assert samples.power_w == Reading(None, "2 of 3 samples failed: NVML: GPU is lost")


def test_good_samples_before_a_fault_do_not_stand_for_the_block() -> None:
    samples = summarise(powers((0, 100.0), (1, 100.0)), 9.0, Reading(None, STUCK), "the sampling thread died")
    assert reasons(samples) == {"the sampling thread died"}
    assert [getattr(samples, name).value for name in READINGS] == [None] * len(READINGS)
    assert samples.energy_j == Reading(None, f"counter: {STUCK}; power: the sampling thread died")


def test_no_samples() -> None:
    samples = summarise([], 1.0, Reading(None, "no counter"))
    assert reasons(samples) == {"no sample was taken"}
    assert samples.energy_j.reason == "counter: no counter; power: no sample was taken"


# The thread.


def test_constant_power_has_exact_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = opened(monkeypatch, Device(milliwatts=250_000))
    started = perf_counter()
    samples = sampled(gpu, lambda: until_sampled(driver, 5))
    assert samples.energy_j.value == pytest.approx(250 * samples.seconds, rel=1e-9)  # the fake's counter stands still
    assert samples.energy_source == "samples"
    assert samples.count == driver.calls.count(FIRST_CALL) >= 5
    assert 0.008 <= samples.seconds <= perf_counter() - started  # four pauses at least


def test_a_ramp_of_power_in_simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def milliwatts() -> int:
        nonlocal now
        before, now = now, now + 0.25  # every sample takes a quarter of a second
        return round(1e6 * (before - 100))  # 1 kW more per second

    monkeypatch.setattr(sampler_module, "perf_counter", lambda: now)
    gpu, driver = opened(monkeypatch, Device(milliwatts=milliwatts))
    samples = sampled(gpu, lambda: until_sampled(driver, 8))
    last = 0.25 * (samples.count - 1)
    assert samples.seconds == last + 0.25
    assert samples.power_w.value == pytest.approx(1000 * last / 2, rel=1e-9)
    assert samples.energy_j.value == pytest.approx(1000 * last / 2 * (last + 0.25), rel=1e-9)


def test_the_counter_is_read_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = opened(monkeypatch, Device(millijoules=growing(1_000_000, 1234)))
    samples = sampled(gpu)
    assert (samples.energy_j, samples.energy_source) == (Reading(pytest.approx(1.234)), "counter")
    assert driver.calls.count("nvmlDeviceGetTotalEnergyConsumption") == 2


@pytest.mark.parametrize("step", [0, -5000], ids=["stuck", "backwards"])
def test_a_counter_that_does_not_advance(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    gpu, _ = opened(monkeypatch, Device(millijoules=growing(1_000_000, step)))
    samples = sampled(gpu)
    assert samples.energy_source == "samples"
    assert samples.energy_j.value == pytest.approx(200 * samples.seconds)


@pytest.mark.parametrize("end", [0, 1], ids=["start", "end"])
@pytest.mark.parametrize("fault", [failure("Unknown"), 2**64 - 1], ids=["error", "not-available"])
def test_a_counter_that_fails_at_one_end(monkeypatch: pytest.MonkeyPatch, end: int, fault: Any) -> None:
    answers = [1000, 2000]
    answers[end] = fault
    left = iter(answers)
    gpu, _ = opened(monkeypatch, Device(millijoules=lambda: next(left)))
    samples = sampled(gpu)
    assert samples.energy_source == "samples"
    assert samples.energy_j.value == pytest.approx(200 * samples.seconds)


def test_neither_counter_nor_power(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device(millijoules=failure("NotSupported"), milliwatts=failure("NoPermission")))
    samples = sampled(gpu)
    assert samples.energy_source is None
    assert samples.energy_j.reason == "counter: NVML: Not Supported; power: NVML: Insufficient Permissions"
    assert samples.power_w.reason == "NVML: Insufficient Permissions"
    assert samples.used_peak_mib == Reading(3000)


def test_a_peak_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(processes=[(PID, 100 * MIB)])
    gpu, driver = opened(monkeypatch, device)

    def block() -> None:
        until_sampled(driver, 3)
        device.used, device.processes, device.reasons, device.celsius = 4096 * MIB, [(PID, 900 * MIB)], 0x40, 77
        until_sampled(driver, 3)
        device.used, device.processes, device.reasons, device.celsius = 3000 * MIB, [(PID, 100 * MIB)], 0, 41
        until_sampled(driver, 3)

    samples = sampled(gpu, block)
    assert (samples.used_peak_mib, samples.process_peak_mib) == (Reading(4096), Reading(900))
    assert (samples.throttled, samples.temperature_c) == ("hw-thermal", Reading(77))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        ("nvmlDeviceGetMemoryInfo", "used_peak_mib"),
        ("nvmlDeviceGetComputeRunningProcesses", "process_peak_mib"),
        ("nvmlDeviceGetClockInfo", "sm_clock_mhz"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttled"),
    ],
)
def test_a_call_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, function: str, name: str) -> None:
    gpu, driver = opened(monkeypatch, Device(processes=[(PID, MIB)]))
    driver.failing[function] = failure("NoPermission")
    samples = sampled(gpu, lambda: None)
    expected = {None, "NVML: Insufficient Permissions"}
    assert reasons(samples) == expected
    failed = samples.throttled_reason if name == "throttled" else getattr(samples, name).reason
    assert failed == "NVML: Insufficient Permissions"
    assert (samples.throttled is None) == (name == "throttled")


def test_a_container_hides_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device(processes=[(31_000, 900 * MIB)]))
    samples = sampled(gpu)
    assert samples.process_peak_mib.reason is not None
    assert "another PID" in samples.process_peak_mib.reason
    assert samples.used_peak_mib == Reading(3000)


def test_a_gpu_that_is_lost_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = opened(monkeypatch, Device(processes=[(PID, MIB)]))
    calls = {name for name in vars(FakeNvml) if name.startswith("nvmlDeviceGet")}

    def block() -> None:
        until_sampled(driver, 5)
        driver.failing |= dict.fromkeys(calls, failure("GpuIsLost"))
        until_sampled(driver, 10)

    samples = sampled(gpu, block)
    for name in READINGS:
        reading = getattr(samples, name)
        assert reading.value is None
        assert reading.reason.endswith("samples failed: NVML: GPU is lost")
    assert (samples.throttled, samples.energy_source, samples.energy_j.value) == (None, None, None)
    assert samples.energy_j.reason is not None
    assert samples.energy_j.reason.startswith("counter: NVML: GPU is lost; power: ")


class DyingGpu(Gpu):
    """Breaks its promise not to raise, in the sampling thread only."""

    def temperature_c(self) -> Reading:
        if current_thread().name == "gpu-sampler":
            raise MemoryError("no room")
        return super().temperature_c()


def test_a_thread_that_dies_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    good, driver = opened(monkeypatch, Device())
    dying = DyingGpu(driver, good._board)
    samples = sampled(dying)
    why = "the sampling thread died: MemoryError: no room"
    assert reasons(samples) == {why}
    assert samples.energy_j.reason == f"counter: {STUCK}; power: {why}"
    assert samples.throttled is None
    good._board.millijoules = growing(0, 5000)
    assert sampled(dying).energy_j == Reading(5)  # the counter needs no thread


def test_a_thread_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gpu, _ = opened(monkeypatch, Device())
    monkeypatch.setattr(threading.Thread, "start", start)
    samples = sampled(gpu, lambda: None)
    assert reasons(samples) == {"the sampling thread died: RuntimeError: can't start new thread"}
    assert samples.count == 0


def test_a_driver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Event()
    gpu, _ = opened(monkeypatch, Device(celsius=lambda: hanging.wait(30) and 41))
    monkeypatch.setattr(sampler_module, "_PATIENCE", 0.1)
    samples = sampled(gpu)
    why = "the sampling thread did not end within 0.1 s: the driver hangs"
    assert reasons(samples) | {samples.energy_j.reason} == {why}
    hanging.set()
    for thread in threading.enumerate():
        if thread.name == "gpu-sampler":
            thread.join(5)


def test_without_a_gpu_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
    samples = sampled(no_gpu("the device is the CPU"))
    assert reasons(samples) | {samples.energy_j.reason} == {"the device is the CPU"}
    assert (samples.throttled, samples.energy_source, samples.count) == (None, None, 0)
    assert samples.seconds >= 0.05


def test_a_gpu_closed_before_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device())
    with Sampler(gpu, PID) as sampler:
        pass
    gpu.close()
    assert sampler.summary().used_peak_mib == Reading(3000)


@pytest.mark.parametrize("error", [ValueError("in the block"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_errors_of_the_block_pass(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    gpu, _ = opened(monkeypatch, Device())
    sampler = Sampler(gpu, PID, 0.002)

    def block() -> None:
        with sampler:
            assert not no_sampler_is_left()
            raise error

    with pytest.raises(type(error)):
        block()
    assert no_sampler_is_left()
    assert sampler.summary().used_peak_mib == Reading(3000)


def test_the_shortest_block_has_two_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device())
    samples = sampled(gpu, lambda: None, interval=10)
    assert samples.count >= 2
    assert samples.seconds < 5  # it does not wait for the interval


def test_one_block_per_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device())
    sampler = Sampler(gpu, PID)
    with sampler, pytest.raises(AssertionError, match="not ended"):
        sampler.summary()
    with pytest.raises(AssertionError, match="once"):
        sampler.__enter__()
