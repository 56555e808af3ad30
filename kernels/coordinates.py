"""Conversions to the rasterizer's units: pixels, pixel i centred at i, order (y, x)."""

from __future__ import annotations

import torch
from torch import Tensor


def from_unit(mean: Tensor, out_size: tuple[int, int] | Tensor) -> Tensor:
    """Convert positions in the unit square to pixels: m * size - 1/2.

    mean: (B, N, 2) as (y, x); 0 and 1 are the outer edges of the first and the last pixel.
    out_size: (H, W), or (B, 2) with one size per image. Returns (B, N, 2).
    """
    return mean * _sizes_like(mean, out_size) - 0.5


def dmax_to_window(dmax: float, out_size: tuple[int, int] | Tensor) -> tuple[float, float] | Tensor:
    """Convert the half-width of the official GSASR kernel to pixels: dmax (H - 1) / 2 and dmax (W - 1) / 2.

    dmax counts in units where the centres of the first and the last pixel lie at -1 and 1, so the window spans dmax
    times the image's side.
    out_size: (H, W), or (B, 2) with one size per image. Returns (half_y, half_x), or (B, 2) of them.
    """
    if isinstance(out_size, Tensor):
        return (out_size - 1) * (dmax / 2)
    return dmax * (out_size[0] - 1) / 2, dmax * (out_size[1] - 1) / 2


def raster_ratio_to_window(ratio: float, out_size: tuple[int, int] | Tensor) -> tuple[float, float] | Tensor:
    """Convert the rasterization ratio r of the GSASR paper (Algorithm 1) to half-widths in pixels: r H and r W.

    Its window spans 2 r times the image's side: twice the official kernel's for dmax = r.
    out_size: (H, W), or (B, 2) with one size per image. Returns (half_y, half_x), or (B, 2) of them.
    """
    if isinstance(out_size, Tensor):
        return out_size * ratio
    return ratio * out_size[0], ratio * out_size[1]


def from_kernel_units(sigmas: Tensor, coords: Tensor, out_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Convert the official GSASR kernel's arguments to this rasterizer's; differentiable.

    sigmas: (..., N, 3) as sigma_x, sigma_y, rho; coords: (..., N, 2) as x, y; lengths in units where the centres of the
    first and the last pixel of an axis lie at -1 and 1.
    Returns mu (..., N, 2) and sigma (..., N, 2) in pixels as (y, x), and rho (..., N).
    """
    half = (_sizes_like(coords, out_size) - 1) / 2
    return (coords.flip(-1) + 1) * half, sigmas[..., :2].flip(-1) * half, sigmas[..., 2]


def _sizes_like(points: Tensor, out_size: tuple[int, int] | Tensor) -> Tensor:
    """The sizes as a tensor that broadcasts over (B, N, 2) points."""
    sizes = torch.as_tensor(out_size, device=points.device).to(points.dtype)
    return sizes[:, None] if sizes.ndim == 2 else sizes
