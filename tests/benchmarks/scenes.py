"""What the rasterizer's benchmarks draw, GSASR's grid of 16 Gaussians per LR pixel, and the plain form beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

CUTOFF = 9.2
"""Pairs below exp(-9.2) = 1e-4 of a Gaussian's peak are dropped: a 40th of an 8-bit level."""


class Grid(NamedTuple):
    """LR size and scale."""

    lr: tuple[int, int]
    scale: float

    @property
    def out_size(self) -> tuple[int, int]:
        return round(self.lr[0] * self.scale), round(self.lr[1] * self.scale)


GRIDS = {
    "A": Grid((180, 180), 4),
    "B": Grid((60, 60), 12),
    "C": Grid((360, 360), 2),
    "D": Grid((510, 339), 4),
}


def gaussians(grid: Grid, batch: int = 1, device: str = "cpu") -> list[Tensor]:
    """mu, sigma, rho, color: centres jittered by a cell, sigma 0.2 .. 0.6 of scale / 1.2, image mean about 0.5."""
    draw = torch.Generator().manual_seed(0)
    axes = [(torch.arange(4 * side) + 0.5) / 4 for side in grid.lr]
    centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 2)
    shape = (batch, centers.shape[1])
    jitter = (2 * torch.rand(*shape, 2, generator=draw) - 1) / 4
    sigma = (0.2 + 0.4 * torch.rand(*shape, 2, generator=draw)) * grid.scale / 1.2
    rho = torch.tanh(0.5 * torch.randn(shape, generator=draw))
    color = 0.2 * torch.rand(*shape, 1, generator=draw) * torch.rand(*shape, 3, generator=draw)
    mu = (centers + jitter) * grid.scale - 0.5
    return [value.to(device).contiguous() for value in (mu, sigma, rho, color)]


def naive(mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor, out_size: tuple[int, int]) -> Tensor:
    """Every Gaussian on every pixel, as one writes it in PyTorch; (N, ..) to (C, H, W).

    Exponents are clamped at -60: below -87 PyTorch's exp takes many times longer on a CPU.
    """
    y, x = (torch.arange(side, dtype=mu.dtype) for side in out_size)
    b = ((y - mu[:, :1]) / sigma[:, :1])[:, :, None]
    a = ((x - mu[:, 1:]) / sigma[:, 1:])[:, None, :]
    r = rho[:, None, None]
    weight = torch.exp((-((a - r * b) ** 2 / ((1 - r) * (1 + r)) + b**2) / 2).clamp(min=-60))
    return torch.einsum("nhw,nc->chw", weight, color)


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a call: other processes add to wall time, and only ever add."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best
