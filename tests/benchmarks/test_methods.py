"""Speed of all methods on EDSR-baseline: `python -m pytest tests/benchmarks/test_methods.py -m slow`.

One run each: what is recorded beside the time, multiply-adds and GFLOP/s, says more than repeats would. Together they
take about a minute on two cores. `python -m bench profile` shows where a method's time goes, at any size.
"""

from __future__ import annotations

import pytest
import torch

from bench.tracking import tracking
from methods import load
from methods.registry import list_methods

pytestmark = [pytest.mark.slow, pytest.mark.quiet]
SIZES = {"60x60 x4": (60, 4), "20x20 x12": (20, 12)}
"""LR side and scale: the same 240 x 240 pixels from many LR pixels and from few."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [spec.name for spec in list_methods()])
def test_time(benchmark, name, size):
    side, scale = SIZES[size]
    backbone = "edsr-baseline" if name != "bicubic" else None
    model, out_size = load(name, backbone, weights="random"), (scale * side, scale * side)
    ghost, lr = load(name, backbone, weights="random", device="meta"), torch.rand(1, 3, side, side)
    with torch.inference_mode():
        with tracking() as tracker:
            ghost(lr.to("meta"), out_size, float(scale))
        sr = benchmark.pedantic(lambda: model(lr, out_size, float(scale)), rounds=1)
    assert sr.shape == (1, 3, *out_size)
    assert sr.isfinite().all()
    benchmark.extra_info |= {
        "macs": tracker.macs,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "gflops": round(2 * tracker.macs / benchmark.stats.stats.min / 1e9, 1),
    }
