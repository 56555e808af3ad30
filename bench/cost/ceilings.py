"""What this machine can do at best: matrix products, copies and exponentials, to hold the cost of networks against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.cost.calibration import tf32
from bench.cost.meter import Meter

if TYPE_CHECKING:
    import torch

MIN_REPEATS = 3
_PRODUCT_SIDES = (256, 512, 1024, 2048, 4096, 8192)
"""Large ones keep many cores busy; small ones are sometimes over before another process interrupts them."""
_COPY_MIB_PER_THREAD, _COPY_MAX_THREADS, _COPY_MIB_CUDA = 32, 16, 256
"""Beyond the caches: on CPUs a core has at most 32 MiB of the last level, on GPUs there are at most 128 MiB."""
_EXP_PER_THREAD = 2**15
"""Numbers that a thread takes in one go: 128 KiB read, 128 KiB written, in the cache of its core."""
_EXP_CALLS, _EXP_CALLS_CUDA = 4, 16
"""Calls on the clock together, so that its own time and, on GPUs, that of launches hardly count."""


@dataclass(frozen=True)
class Ceilings:
    """Rates that no network exceeds.

    Each is the best of several repeats: other processes, interrupts and cold caches only ever slow a repeat down.
    """

    matmul_gflops: float
    """1e9 float32 operations per second of square matrix products, a multiply-add being two; TF32 is off."""
    matmul_tf32_gflops: float | None
    """The same with TF32, on CUDA devices."""
    copy_gb_s: float
    """1e9 bytes per second, read and written, of copies larger than the caches."""
    exp_g_s: float
    """1e9 exponentials per second, of float32 numbers that stay in the caches."""
    threads: int
    """CPU threads of torch."""
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, for the manifest."""
        return asdict(self)


def measure_ceilings(device: torch.device, seconds: float = 0.5) -> Ceilings:
    """Measure the rates, each for about so many seconds and at least three times.

    Not in a process whose memory is measured: the tensors of the copies alone take 128 MiB to 1 GiB.
    """
    import torch

    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        with tf32(False):
            matmul = _matmul_gflops(device, seconds)
        with tf32(True):
            matmul_tf32 = _matmul_gflops(device, seconds) if device.type == "cuda" else None
        return Ceilings(
            matmul_gflops=matmul,
            matmul_tf32_gflops=matmul_tf32,
            copy_gb_s=_copy_gb_s(device, seconds),
            exp_g_s=_exp_g_s(device, seconds),
            threads=torch.get_num_threads(),
            device=str(device),
        )


def ceilings_sentence(ceilings: Ceilings) -> str:
    """The rates as people read them, without a full stop."""
    rate, threads = ceilings.matmul_tf32_gflops, f"{ceilings.threads} thread{'s' * (ceilings.threads != 1)}"
    with_tf32 = "" if rate is None else f" ({_digits(rate)} with TF32)"
    return (
        f"matrix multiply {_digits(ceilings.matmul_gflops)} GFLOP/s{with_tf32}, "
        f"copy {_digits(ceilings.copy_gb_s)} GB/s, exp {_digits(ceilings.exp_g_s)} G/s "
        f"({threads if ceilings.device == 'cpu' else ceilings.device})"
    )


def _digits(rate: float) -> str:
    """Two digits or more: the last ones of a rate change from day to day."""
    return f"{rate:.2g}" if rate < 10 else f"{rate:,.0f}"


def _matmul_gflops(device: torch.device, seconds: float) -> float:
    """Of the products, from small to large, that leave the time for some repeats."""
    best, deadline = 0.0, time.perf_counter() + seconds
    for side in _PRODUCT_SIDES:
        left = deadline - time.perf_counter()
        # Three repeats, a warm-up and the making of the matrices, eight times the work of those before.
        if best and 2e-9 * side**3 / best > left / 8:
            break
        best = max(best, 2e-9 * side**3 / best_seconds(_product(device, side), device, left / 4))
    return best


def _product(device: torch.device, side: int) -> Callable[[], Any]:
    import torch

    left, right = (torch.full((side, side), value, device=device) for value in (0.5, 2.0))
    product = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=product)


def _copy_gb_s(device: torch.device, seconds: float) -> float:
    import torch

    threads = max(2, min(torch.get_num_threads(), _COPY_MAX_THREADS))
    mib = _COPY_MIB_CUDA if device.type == "cuda" else _COPY_MIB_PER_THREAD * threads
    source = torch.ones(mib * 2**18, device=device)
    target = torch.empty_like(source)
    return 2e-9 * source.nbytes / best_seconds(lambda: target.copy_(source), device, seconds)


def _exp_g_s(device: torch.device, seconds: float) -> float:
    import torch

    count, calls = _EXP_PER_THREAD * torch.get_num_threads(), _EXP_CALLS
    if device.type == "cuda":
        # Both tensors take half of the cache.
        count, calls = torch.cuda.get_device_properties(device).L2_cache_size // 16, _EXP_CALLS_CUDA
    exponents = torch.linspace(-8, 8, count, device=device)
    powers = torch.empty_like(exponents)  # results written back over their exponents would soon be infinite

    def call() -> None:
        for _ in range(calls):
            torch.exp(exponents, out=powers)

    return 1e-9 * count * calls / best_seconds(call, device, seconds)


def best_seconds(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Of the repeats that fit into so many `seconds`, and of three at least; the first one warms up and is dropped."""
    meter, deadline = Meter(device), time.perf_counter() + seconds
    meter.measure(call)
    best, repeats = float("inf"), 0
    while repeats < MIN_REPEATS or time.perf_counter() < deadline:
        _, timing = meter.measure(call)
        best = min(best, (timing.latency_ms if timing.device_ms is None else timing.device_ms) / 1000)
        repeats += 1
    return best
