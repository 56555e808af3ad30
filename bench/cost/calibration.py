"""A fixed workload that tells how fast this machine is right now, so that speed can be given in its units.

On shared machines the speed changes from one moment to the next, by other people's work and by clock rates. The
workload is timed right before every repeat; in medians of latency / calibration most of that is gone, as long as every
thread has a core: two other processes on two cores slowed LIIF 2.4 to 2.9 times with one thread, and changed the
quotient by a factor of 1.0 to 1.15; with two threads these were 4.1 and 1.5. Single quotients scatter nearly as widely
as latencies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from bench.compute import allow_tf32, tf32_allowed
from bench.cost.meter import Meter

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Goes up with every change of the workload: times of different versions are in different units."""
CHANNELS, SIDE, WIDTH = 64, 64, 256
"""The convolution's channels and image side, and the width of the layer that takes every pixel as a query."""
ROUNDS = {"cpu": 1, "cuda": 25}
"""How often the workload is gone through: for some 15 ms on a core, and about 1 ms on a large GPU."""
_WARMUPS = 3


def calibrate(device: torch.device, repeats: int = 1) -> float:
    """Milliseconds that the workload takes now, the mean of some repeats; the first call on a device also warms up.

    One round is a 3x3 convolution (windows gathered, then multiplied), a layer for every pixel and a GELU: what
    networks do. It is float32 without TF32 and autocast, in memory that is allocated once (20 MiB), by torch's present
    number of threads, and asks neither cuDNN nor oneDNN for an algorithm. The mean, because the inference that follows
    is slowed by the mean load of its time as well: the fastest repeat would hide what is to be divided out. Call it
    once before base lines of memory are read, and reset peaks after it.
    """
    import torch

    with torch.inference_mode(), torch.autocast(device.type, enabled=False), tf32(False):
        run, meter = _workload(device), Meter(device)
        return sum(meter.measure(run)[1].latency_ms for _ in range(repeats)) / repeats


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """While it is entered, CUDA's float32 products may, or may not, round their factors to TF32."""
    before = tf32_allowed()
    allow_tf32(allowed, before[1])
    try:
        yield
    finally:
        allow_tf32(*before)


@cache
def _workload(device: torch.device) -> Callable[[], torch.Tensor]:
    """The workload with its memory, warmed up."""
    import torch

    draw, side = torch.Generator().manual_seed(0), SIDE

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).to(device)

    image = random(CHANNELS, side + 2, side + 2)
    windows = image.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 3, 4, 1, 2)  # (C, 3, 3, side, side), nothing copied
    kernel, layer = random(CHANNELS, CHANNELS * 9) / 24, random(WIDTH, CHANNELS) / 8
    gathered = image.new_empty(CHANNELS, 3, 3, side, side)
    features = image.new_empty(CHANNELS, side * side)
    hidden, active = (image.new_empty(WIDTH, side * side) for _ in range(2))
    second = random(WIDTH, WIDTH) / 16

    def run() -> torch.Tensor:
        for _ in range(ROUNDS.get(device.type, 1)):
            gathered.copy_(windows)
            torch.mm(kernel, gathered.view(CHANNELS * 9, -1), out=features)
            torch.mm(layer, features, out=hidden)
            torch.ops.aten.gelu.out(hidden, out=active)
            torch.mm(second, active, out=hidden)
        return hidden

    for _ in range(_WARMUPS):
        run()
    return run
