"""The rasterizer's speed on a GPU: `tox -e gpu` prints it and writes it to results/gpu/.

Goals, warm, bins included: 1 ms each way for the grids A to C, 4 ms for D.
"""

from __future__ import annotations

import ctypes
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from scenes import GRIDS, Grid, gaussians

from kernels import choose, dmax_to_window, rasterize
from kernels.nvrtc import compile_cuda

RESULTS = Path(__file__).parents[2] / "results" / "gpu"
SCATTER = Path(__file__).with_name("scatter.cu").read_text(encoding="utf-8")
GOALS_MS = {"A": 1.0, "B": 1.0, "C": 1.0, "D": 4.0}
CUTOFF = 14.0
EX2_PER_CLOCK, FMA_PER_CLOCK = 16, {7: 64, 8: 64, 9: 128, 10: 128, 12: 128}
"""Of a multiprocessor, the latter by the major compute capability; 128 for 8.6 and 8.9, too."""
FMAS = {"forward": 6, "backward": 17}
"""Multiply-adds of a pair, products and sums that stand alone counted as one."""


def test_the_comparison_compiles():
    assert compile_cuda(SCATTER, {}, "sm_80", name="scatter.cu").code


def milliseconds(run: Callable[[], object], repeats: int = 30) -> list[float]:
    """Time between events on the stream, per call, after 10 warm-ups."""
    for _ in range(10):
        run()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)


def pairs(grid: Grid) -> int:
    """Gaussian-pixel pairs inside the boxes."""
    mu, sigma, *_ = gaussians(grid)
    reach, total = sigma * math.sqrt(2 * CUTOFF), torch.ones(mu.shape[1], dtype=torch.float64)
    for axis, side in enumerate(grid.out_size):
        first = (mu - reach).ceil().clamp(min=0)[0, :, axis]
        total *= ((mu + reach).floor().clamp(max=side - 1)[0, :, axis] - first + 1).clamp(min=0)
    return int(total.sum())


def scatter_run(grid: Grid) -> Callable[[], object]:
    """The plain kernel over the official window of 0.1."""
    from kernels.driver import Driver

    major, minor = torch.cuda.get_device_capability()
    module = Driver().module(compile_cuda(SCATTER, {}, f"sm_{major}{minor}", name="scatter.cu").code, 0)
    inputs = gaussians(grid, device="cuda")
    image, count = torch.zeros(3, *grid.out_size, device="cuda"), inputs[2].numel()
    numbers = [ctypes.c_int(value) for value in (count, *grid.out_size)]
    windows = [ctypes.c_float(half) for half in dmax_to_window(0.1, grid.out_size)]
    stream = torch.cuda.current_stream().cuda_stream
    return lambda: module.launch("scatter", (-(-count // 128), 1, 1), 128, (*inputs, *numbers, *windows, image), stream)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_reach_the_goals():
    assert choose("cuda").name == "nvrtc"
    device = torch.cuda.get_device_properties(0)
    result = {
        "gpu": device.name, "torch": torch.__version__, "cutoff": CUTOFF, "time": datetime.now(UTC).isoformat(),
        "grids": {},
    }  # fmt: skip
    for name, grid in GRIDS.items():
        inputs = [value.requires_grad_() for value in gaussians(grid, device="cuda")]
        image = rasterize(*inputs, grid.out_size, cutoff=CUTOFF)
        upstream = torch.rand_like(image)

        def forward(inputs=inputs, grid=grid) -> None:
            with torch.no_grad():
                rasterize(*inputs, grid.out_size, cutoff=CUTOFF)

        def backward(image=image, inputs=inputs, upstream=upstream) -> None:
            torch.autograd.grad(image, inputs, upstream, retain_graph=True)

        count = pairs(grid)
        row: dict[str, object] = {"gaussians": inputs[2].numel(), "pairs": count}
        for way, run in (("forward", forward), ("backward", backward)):
            times = milliseconds(run)
            row[f"{way}_ms"] = times
            row[f"{way}_bound_ms"] = bound_ms(device, count, FMAS[way])
        if name != "D":
            row["scatter_ms"] = milliseconds(scatter_run(grid), 5)
        result["grids"][name] = row
    report(result)
    for name, row in result["grids"].items():
        for way in ("forward", "backward"):
            assert row[f"{way}_ms"][0] <= GOALS_MS[name], f"{name} {way}"
        if "scatter_ms" in row:
            assert row["scatter_ms"][0] >= 20 * row["forward_ms"][0]


def bound_ms(device: torch._C._CudaDeviceProperties, count: int, fmas: int) -> float:
    """The longer of what the exponentials and the multiply-adds of `count` pairs take at the boost clock."""
    wide = device.major == 8 and device.minor > 0
    fma_rate = 128 if wide else FMA_PER_CLOCK.get(device.major, 128)
    clocks = count * max(1 / EX2_PER_CLOCK, fmas / fma_rate) / device.multi_processor_count
    return clocks / (getattr(device, "clock_rate", 1_700_000) * 1e3) * 1e3


def report(result: dict) -> None:
    """Print a line per grid and write all to results/gpu/rasterizer-<gpu>.json."""
    for name, row in result["grids"].items():
        for way in ("forward", "backward"):
            times, bound = row[f"{way}_ms"], row[f"{way}_bound_ms"]
            median = times[len(times) // 2]
            print(
                f"\n{name} {way}: {times[0]:.3f} ms, median {median:.3f}; {bound / times[0]:.0%} of the bound", end=""
            )
        if "scatter_ms" in row:
            print(f"; scatter {row['scatter_ms'][0]:.1f} ms", end="")
    RESULTS.mkdir(parents=True, exist_ok=True)
    title = re.sub(r"[^a-z0-9]+", "-", result["gpu"].lower()).strip("-")
    (RESULTS / f"rasterizer-{title}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
