"""The accuracy of the cut-off: `python -m pytest tests/benchmarks/test_cutoff.py -s` prints the documented table."""

from __future__ import annotations

import math

import torch
from scenes import Grid, gaussians
from torch import Tensor

from kernels import rasterize

GRID = Grid((12, 12), 4)
ROUNDING = 2e-6
"""Of float32, which remains where nothing is cut off."""


def drawn(dtype: torch.dtype, cutoff: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The image, and the gradients for a fixed random upstream gradient."""
    inputs = [value.to(dtype).requires_grad_() for value in gaussians(GRID)]
    image = rasterize(*inputs, GRID.out_size, cutoff=cutoff)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return image.detach(), torch.autograd.grad(image, inputs, upstream.to(dtype))


def test_dropped_pairs_stay_below_their_bound():
    truth, gradients = drawn(torch.float64, math.inf)
    print(f"\nimage maximum {truth.max():.2f}; gradients of mu, sigma, rho, color relative to their maxima")
    for cutoff in (4.6, 8.0, 9.2, 11.5, 14.0, 20.0):
        image, ours = drawn(torch.float32, cutoff)
        error, bound = (image - truth).abs().max().item(), math.exp(-cutoff)
        shares = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, gradients, strict=True)]
        print(f"E = {cutoff:4}  exp(-E) = {bound:.1e}  image {error:.1e}  " + "  ".join(f"{s:.0e}" for s in shares))
        assert error <= bound * truth.max().item() + ROUNDING
        assert max(shares) <= 20 * bound + ROUNDING
