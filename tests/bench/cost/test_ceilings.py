"""The ceilings: by hand with a clock of known times, against numpy, and as `doctor` tells them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, cycle
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import doctor
from bench.cost import ceilings as ceilings_module
from bench.cost.ceilings import Ceilings, ceilings_sentence, measure_ceilings

CPU = torch.device("cpu")
NUMPY = """
import sys, time, numpy as np
kind, side = sys.argv[1], int(sys.argv[2])
left, right = (np.full((side, side), value, np.float32) for value in (0.5, 2.0))
out = np.empty_like(left)
call = (lambda: np.matmul(left, right, out=out)) if kind == "matmul" else (lambda: np.copyto(out, left))
best, end = float("inf"), time.perf_counter() + 0.3
while time.perf_counter() < end:
    start = time.perf_counter()
    call()
    best = min(best, time.perf_counter() - start)
print((2 * side**3 if kind == "matmul" else 2 * left.nbytes) / best / 1e9)
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_numpy(kind: str, side: int) -> float:
    """GFLOP/s or GB/s that numpy reaches with one thread."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-c", NUMPY, kind, str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **single})
    return float(done.stdout)


def ratio(ours: Callable[[], float], theirs: Callable[[], float], enough: float) -> float:
    """Of two ceilings measured in turns. Another process may slow either, so the best counts, until they are close."""
    best = [0.0, 0.0]
    for _ in range(8):
        best = [max(best[0], ours()), max(best[1], theirs())]
        if 1 / enough < best[0] / best[1] < enough:
            break
    return best[0] / best[1]


def test_products_run_about_as_fast_as_numpys() -> None:
    def ours() -> float:
        return ceilings_module._matmul_gflops(CPU, 0.3)

    assert 1 / 2 < ratio(ours, lambda: by_numpy("matmul", 512), 1.8) < 2


def test_copies_run_about_as_fast_as_numpys() -> None:
    def ours() -> float:
        return ceilings_module._copy_gb_s(CPU, 0.2)

    assert 1 / 3 < ratio(ours, lambda: by_numpy("copy", 4096), 2.5) < 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Warm-ups take 0.1 ms, the repeats 3, 1 and 2 ms; the list tells for every call whether TF32 was allowed."""
    allowed: list[bool] = []

    class FakeMeter:
        def __init__(self, device: torch.device) -> None:
            self.times = chain([0.1], cycle([3.0, 1.0, 2.0]))

        def measure(self, call: Callable[[], Any]) -> tuple[Any, Any]:
            allowed.append(torch.backends.cuda.matmul.allow_tf32)
            return call(), SimpleNamespace(latency_ms=next(self.times), device_ms=None)

    monkeypatch.setattr(ceilings_module, "Meter", FakeMeter)
    return allowed


def test_the_rates_by_hand(clock: list[bool]) -> None:
    found = measure_ceilings(CPU, seconds=0)
    assert found.matmul_gflops == pytest.approx(2 * 256**3 / 1e6)  # in a thousandth of a second, in 1e9
    assert found.copy_gb_s == pytest.approx(2 * 64 * 2**20 / 1e6)
    assert found.exp_g_s == pytest.approx(4 * 32768 / 1e6)
    assert (found.matmul_tf32_gflops, found.threads, found.device) == (None, 1, "cpu")
    assert clock == [False] * 4 + [False] * 8  # a warm-up and three repeats each


@pytest.mark.slow
def test_larger_products_are_tried_while_there_is_time(clock: list[bool]) -> None:
    assert ceilings_module._matmul_gflops(CPU, 0.0) == pytest.approx(2 * 256**3 / 1e6)
    few = len(clock)
    assert ceilings_module._matmul_gflops(CPU, 1.0) >= 2 * 512**3 / 1e6
    assert len(clock) - few >= 2 * 4


def test_they_are_plain_data_and_a_sentence() -> None:
    cpu = Ceilings(123.4, None, 17.6, 1.24, 2, "cpu")
    assert json.loads(json.dumps(cpu.as_dict())) == {
        "matmul_gflops": 123.4,
        "matmul_tf32_gflops": None,
        "copy_gb_s": 17.6,
        "exp_g_s": 1.24,
        "threads": 2,
        "device": "cpu",
    }
    assert ceilings_sentence(cpu) == "matrix multiply 123 GFLOP/s, copy 18 GB/s, exp 1.2 G/s (2 threads)"
    gpu = Ceilings(51234.0, 345678.0, 3900.0, 812.3, 1, "cuda")
    sentence = "matrix multiply 51,234 GFLOP/s (345,678 with TF32), copy 3,900 GB/s, exp 812 G/s (cuda)"
    assert ceilings_sentence(gpu) == sentence
    assert ceilings_sentence(Ceilings(9.0, None, 0.5, 0.031, 1, "cpu")).endswith("exp 0.031 G/s (1 thread)")


def test_doctor_tells_the_speed_of_the_cpu() -> None:
    found = [finding for finding in doctor.doctor() if finding.check.startswith("speed")]
    assert found[0][:2] == ("speed", "ok")
    number = r"\d[\d,.]*"
    pattern = rf"matrix multiply {number} GFLOP/s, copy {number} GB/s, exp {number} G/s \(1 thread\)\."
    assert re.fullmatch(pattern, found[0].sentence)
    assert len(found) == 1 + torch.cuda.is_available()


def test_doctor_tells_the_speed_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(device: torch.device, seconds: float) -> Ceilings:
        assert seconds <= 0.1
        return Ceilings(100.0, 200.0 if device.type == "cuda" else None, 10.0, 5.0, 1, str(device))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ceilings_module, "measure_ceilings", measure)
    assert [finding.check for finding in doctor._speed()] == ["speed", "speed on the GPU"]
    assert "200 with TF32" in list(doctor._speed())[1].sentence


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_has_all_ceilings() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    found = measure_ceilings(torch.device("cuda"), 0.2)
    assert torch.backends.cuda.matmul.allow_tf32 == before
    assert found.matmul_tf32_gflops is not None
    assert found.matmul_tf32_gflops > 0.9 * found.matmul_gflops > 100
    assert found.copy_gb_s > 50
    assert found.exp_g_s > 5
