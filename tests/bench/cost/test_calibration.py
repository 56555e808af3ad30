"""The calibration: the workload that its version stands for, its settings, and that it feels a loaded machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d, gelu

from bench.cost import calibration
from bench.cost.calibration import calibrate, tf32
from bench.tracking import tracking

CPU = torch.device("cpu")
BUSY = "print(flush=True)\nwhile True: pass"


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_version_1_is_a_convolution_and_a_perceptron_of_these_numbers() -> None:
    draw = torch.Generator().manual_seed(0)
    image, kernel = torch.randn(64, 66, 66, generator=draw), torch.randn(64, 576, generator=draw) / 24
    layer, second = torch.randn(256, 64, generator=draw) / 8, torch.randn(256, 256, generator=draw) / 16
    features = conv2d(image[None], kernel.view(64, 64, 3, 3))[0].flatten(1)
    assert calibration.VERSION == 1
    torch.testing.assert_close(calibration._workload(CPU)(), second @ gelu(layer @ features))


def test_a_second_call_makes_no_tensor() -> None:
    run = calibration._workload(CPU)
    with torch.inference_mode(), tracking() as tracker:
        run()
    assert tracker.peak == 0
    with torch.inference_mode(), tracking() as tracker:
        run() + 1
    assert tracker.peak > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults")
def test_a_second_call_takes_no_memory_from_the_system() -> None:
    import resource

    calibrate(CPU)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    calibrate(CPU, repeats=5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 256  # 1 MiB; a repeat's tensors have 20


def test_the_mean_of_the_repeats_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 2.0, 6.0])

    class FakeMeter:
        def __init__(self, device: torch.device) -> None:
            assert device == CPU

        def measure(self, call: Any) -> tuple[None, Any]:
            assert call is calibration._workload(CPU)
            return None, SimpleNamespace(latency_ms=next(times))

    monkeypatch.setattr(calibration, "Meter", FakeMeter)
    assert calibrate(CPU, repeats=3) == 3.0


def test_the_settings_of_the_run_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def workload(_: torch.device) -> Any:
        return lambda: seen.append((torch.is_autocast_enabled("cpu"), torch.backends.cuda.matmul.allow_tf32))

    monkeypatch.setattr(calibration, "_workload", workload)
    with torch.autocast("cpu", torch.bfloat16), tf32(True):
        calibrate(CPU)
        assert torch.is_autocast_enabled("cpu")
        assert torch.backends.cuda.matmul.allow_tf32
    assert seen == [(False, False)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a say in which core is used")
@pytest.mark.usefixtures("one_thread")
def test_a_core_shared_with_other_processes_is_felt() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # the others inherit it
    others: list[subprocess.Popen[bytes]] = []
    try:
        quiet = min(calibrate(CPU) for _ in range(10))
        others += [subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) for _ in range(4)]
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        loaded = calibrate(CPU, repeats=5)
    finally:
        os.sched_setaffinity(0, allowed)
        for other in others:
            other.kill()
            other.communicate()
    assert loaded > 1.4 * quiet  # 5, if nobody else is here


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_takes_milliseconds_and_no_memory() -> None:
    device = torch.device("cuda")
    calibrate(device)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    assert 0.1 < calibrate(device, repeats=5) < 100
    assert torch.cuda.max_memory_allocated(device) == held
