"""From raw Gaussian parameters to the image: activations, units, rendering window, rasterisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from kernels import dmax_to_window, from_unit, raster_ratio_to_window, rasterize
from methods.errors import UserError

_CHOICES = {"dmax_mode": ("fix", "dynamic"), "canvas": ("floor", "ceil")}


@dataclass(frozen=True)
class Rendering:
    """How far each Gaussian is drawn, and on which canvas. Nothing here belongs to the weights.

    The window cuts a Gaussian off at a distance per axis, in one of three readings:

    dmax: the official code's half-width, where the image spans [-1, 1] from the first to the last pixel's centre: a box
        of dmax of the side; inf: no window. `dmax_mode="dynamic"` takes (dmax + 2) / the canvas's shorter side instead.
    raster_ratio: the paper's r as Algorithm 1 counts it, half-widths of r times the sides: a box of 2 r of the side.
        Replaces dmax. (The paper's complexity, r^2 of the image per Gaussian, would be dmax = r.)
    lr_window: half-width in LR pixels, so that the cut does not depend on the size of the image. Replaces dmax.

    canvas: how the scale times the padded LR size is rounded, "floor" (official inference) or "ceil" (official
        validation). They differ for fractional scales only.
    cutoff: E, drops what is below exp(-E) of a Gaussian's peak; inf: only the window cuts.
    """

    dmax: float = 0.1
    dmax_mode: str = "fix"
    raster_ratio: float | None = None
    lr_window: float | None = None
    canvas: str = "floor"
    cutoff: float = 14.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"GSASR's {name} is {' or '.join(choices)}, not {getattr(self, name)!r}.")
        for name in ("dmax", "raster_ratio", "lr_window", "cutoff"):
            value = getattr(self, name)
            optional = name in ("raster_ratio", "lr_window")
            if not (optional and value is None) and not (isinstance(value, int | float) and value > 0):
                raise UserError(f"GSASR's {name} is a number above 0, or inf, not {value!r}.")
        if self.raster_ratio is not None and self.lr_window is not None:
            raise UserError("GSASR has one rendering window: give raster_ratio or lr_window, not both.")

    def canvas_size(self, padded: tuple[int, int], out_size: tuple[int, int], scale: float) -> tuple[int, int]:
        """(H, W) of the padded image after scaling, at least out_size."""
        rounded = math.floor if self.canvas == "floor" else math.ceil
        return max(rounded(padded[0] * scale), out_size[0]), max(rounded(padded[1] * scale), out_size[1])

    def window(self, canvas: tuple[int, int], scale: float) -> tuple[float, float] | None:
        """Half-widths (y, x) in output pixels, inclusive; None: no window."""
        if self.lr_window is not None:
            return self.lr_window * scale, self.lr_window * scale
        if self.raster_ratio is not None:
            return cast(tuple[float, float], raster_ratio_to_window(self.raster_ratio, canvas))
        dmax = self.dmax if self.dmax_mode == "fix" else (self.dmax + 2) / min(canvas)
        return None if math.isinf(dmax) else cast(tuple[float, float], dmax_to_window(dmax, canvas))


@dataclass(frozen=True)
class Gaussians:
    """Gaussians in output pixels, the first pixel's centre at 0; (y, x) order; float32 or better."""

    mu: Tensor
    """(B, N, 2)"""
    sigma: Tensor
    """(B, N, 2), > 0"""
    rho: Tensor
    """(B, N) in (-1, 1)"""
    color: Tensor
    """(B, N, 3), peak RGB times opacity"""


def activate(raw: Tensor, canvas: tuple[int, int] | Tensor, scale: float | Tensor, step: float) -> Gaussians:
    """Activate the network's (B, N, 9) and convert them to pixels.

    raw: sigma_y, sigma_x, rho, opacity, R, G, B, all before activation, mean x and y in [0, 1] of the canvas.
    canvas: (H, W), or (B, 2). scale: one, or (B, 1, 1). step: a sigma of 1 is 1 / step LR pixels. Centres follow the
    canvas, sigmas the nominal scale: the official way.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    sigma, rho, opacity, rgb, mean = torch.split(raw, [2, 1, 1, 3, 2], dim=-1)
    return Gaussians(
        mu=from_unit(mean.flip(-1), canvas),
        sigma=(0.99999 * sigma.sigmoid() + 1e-6) * (scale / step),
        rho=0.999999 * rho.squeeze(-1).tanh(),
        color=rgb.sigmoid() * opacity.sigmoid(),
    )


def render(
    raw: Tensor, out_size: tuple[int, int], padded: tuple[int, int], scale: float, step: float, how: Rendering
) -> Tensor:
    """Draw raw Gaussians (B, N, 9) of an LR image padded to (h, w); returns the top left out_size, (B, 3, H, W)."""
    canvas = how.canvas_size(padded, out_size, scale)
    g = activate(raw, canvas, scale, step)
    # Pixels do not know of each other: drawing the part that is kept equals drawing the canvas and cropping.
    return rasterize(g.mu, g.sigma, g.rho, g.color, out_size, window=how.window(canvas, scale), cutoff=how.cutoff)


def render_each(
    raw: Tensor,
    out_sizes: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    scales: Sequence[float],
    step: float,
    how: Rendering,
) -> Tensor:
    """Draw every image of a batch at its own size and scale, in one call of the rasterizer.

    As `render`; returns (B, 3, max H, max W), zero beyond each image.
    """
    pairs = list(zip(out_sizes, scales, strict=True))
    canvases = [how.canvas_size(padded, out_size, scale) for out_size, scale in pairs]
    factors = torch.tensor(scales, dtype=torch.promote_types(raw.dtype, torch.float32), device=raw.device)
    g = activate(raw, torch.tensor(canvases, device=raw.device), factors[:, None, None], step)
    windows = [how.window(canvas, scale) for canvas, scale in zip(canvases, scales, strict=True)]
    window = None if None in windows else torch.tensor(windows, dtype=torch.float64)
    return rasterize(g.mu, g.sigma, g.rho, g.color, torch.tensor(out_sizes), window=window, cutoff=how.cutoff)
