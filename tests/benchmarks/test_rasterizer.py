"""The rasterizer's speed on a CPU: `python -m pytest tests/benchmarks -m slow -s` prints the numbers.

What is asserted are ratios within one process and growth with size, which do not depend on the machine; absolute times
are recorded by pytest-benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from scenes import CUTOFF, GRIDS, Grid, cpu_seconds, gaussians, naive
from torch import Tensor

from kernels import available_backends, rasterize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.quiet,
    pytest.mark.skipif("host" not in available_backends(), reason="needs a C++ compiler or a prebuilt library"),
]
TRAINING = Grid((48, 48), 4)
"""36,864 Gaussians on 192 x 192 pixels: a training patch."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forward_and_backward(grid: Grid, backend: str) -> tuple:
    """Two calls: draw, and send a gradient back through a drawing made before."""
    inputs = [value.requires_grad_() for value in gaussians(grid)]
    image = rasterize(*inputs, grid.out_size, cutoff=CUTOFF, backend=backend)
    upstream = torch.rand_like(image)

    def forward() -> None:
        with torch.no_grad():
            rasterize(*inputs, grid.out_size, cutoff=CUTOFF, backend=backend)

    return forward, lambda: torch.autograd.grad(image, inputs, upstream, retain_graph=True)


def naive_seconds(grid: Grid, count: int) -> tuple[float, float]:
    """Forward and backward of all Gaussians, from those of the `count` first ones."""
    part = [value[0, :count].contiguous().requires_grad_() for value in gaussians(grid)]
    upstream = torch.rand(3, *grid.out_size)

    def backward(image: Tensor) -> None:
        torch.autograd.grad(image, part, upstream, retain_graph=True)

    with torch.no_grad():
        forward = cpu_seconds(lambda: naive(*part, grid.out_size), 3)
    image = naive(*part, grid.out_size)
    factor = 16 * math.prod(grid.lr) / count
    return factor * forward, factor * cpu_seconds(lambda: backward(image), 3)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_time(benchmark, name, way):
    grid = GRIDS[name]
    run = forward_and_backward(grid, "host")[way == "backward"]
    benchmark.extra_info |= {"gaussians": 16 * math.prod(grid.lr), "pixels": math.prod(grid.out_size), "threads": 1}
    benchmark.pedantic(run, rounds=7, warmup_rounds=1)


@pytest.mark.parametrize(("grid", "count", "least"), [(TRAINING, 1024, (300, 300)), (GRIDS["A"], 32, (10_000, 20_000))])
def test_times_faster_than_dense(grid, count, least):
    ours = [cpu_seconds(run, 7) for run in forward_and_backward(grid, "host")]
    ratios = [plain / own for plain, own in zip(naive_seconds(grid, count), ours, strict=True)]
    print(f"\n{grid}: {ratios[0]:,.0f} times (forward) and {ratios[1]:,.0f} times (backward) faster than dense PyTorch")
    assert ratios[0] >= least[0]
    assert ratios[1] >= least[1]


def test_times_faster_than_tiles():
    host, tiles = ([cpu_seconds(run, 5) for run in forward_and_backward(TRAINING, name)] for name in ("host", "torch"))
    forward, backward = (slow / fast for slow, fast in zip(tiles, host, strict=True))
    print(f"\n{forward:.1f} times (forward) and {backward:.1f} times (backward) faster than tiled PyTorch")
    assert forward > 3
    assert backward > 3


def test_cost_is_linear_in_pixels():
    sides = (180, 360, 720, 1440, 2880)
    for way, name in enumerate(("forward", "backward")):
        runs = (forward_and_backward(Grid((side // 4, side // 4), 4), "host")[way] for side in sides)
        times = [cpu_seconds(run, 3) for run in runs]
        slope = math.log(times[-1] / times[1]) / math.log((sides[-1] / sides[1]) ** 2)
        shown = ", ".join(f"{side}: {1e3 * seconds:.1f} ms" for side, seconds in zip(sides, times, strict=True))
        print(f"\n{name}: {shown}; time grows as pixels^{slope:.2f}")
        assert 0.8 < slope < 1.2


def test_cost_is_flat_in_scale():
    times = {}
    for scale in (2, 3, 4, 6, 8, 12):
        runs = forward_and_backward(Grid((720 // scale, 720 // scale), scale), "host")
        times[scale] = [cpu_seconds(run, 3) for run in runs]
    for way, name in enumerate(("forward", "backward")):
        print(f"\n{name}: " + ", ".join(f"x{scale}: {1e3 * t[way]:.0f} ms" for scale, t in times.items()))
        # At x2 there are 36 times as many Gaussians as at x12, for the same pairs.
        assert max(t[way] for t in times.values()) < 6 * min(t[way] for t in times.values())
