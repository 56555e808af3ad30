"""Which pixels a Gaussian touches: decided here once, so that every backend sums the same pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_SIDE = 65535
"""Largest side of an image in pixels."""


def boxes(
    mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor, sizes: Tensor, window: Tensor | None, cutoff: float
) -> Tensor:
    """Intersect each Gaussian's cut-off box and window with its image.

    mu, sigma: (B, N, 2) in pixels; rho: (B, N); color: (B, N, C); sizes: (B, 2) as H, W; window: (1 or B, 2) half-widths.
    Returns (2, 2, B, N) int32: [first, last] x [y, x], inclusive; (0, -1) on both axes where no pixel is touched, which
    includes Gaussians with a parameter that is not finite, sigma <= 0 or |rho| >= 1.
    """
    # One axis at a time: arrays of (B, N) are several times faster here than reductions over pairs.
    centers, spreads = mu.detach().unbind(-1), sigma.detach().unbind(-1)
    hit = _well_formed(*centers, *spreads, rho.detach(), color.detach().sum(-1))
    edges = []
    for axis, (center, spread) in enumerate(zip(centers, spreads, strict=True)):
        reach = spread * math.sqrt(2 * cutoff) if cutoff < math.inf else torch.full_like(spread, math.inf)
        if window is not None:
            reach = torch.minimum(reach, window[:, axis, None].to(reach))
        first = torch.ceil(center - reach).clamp_(min=0)
        last = torch.minimum(torch.floor(center + reach), sizes[:, axis, None].to(reach) - 1)
        hit &= first <= last
        edges.append((first, last))
    (y0, y1), (x0, x1) = edges
    box = torch.stack([torch.where(hit, edge, empty) for edge, empty in ((y0, 0), (x0, 0), (y1, -1), (x1, -1))])
    return box.to(torch.int32).unflatten(0, (2, 2))


def _well_formed(mu_y: Tensor, mu_x: Tensor, sigma_y: Tensor, sigma_x: Tensor, rho: Tensor, color: Tensor) -> Tensor:
    """(B, N) bool. Too small a sigma counts as malformed: it could only meet a pixel exactly, and distances overflow."""
    spread = torch.minimum(sigma_y, sigma_x)
    free = (1 - rho) * (1 + rho)
    steepest = MAX_SIDE / (spread * free.clamp(min=0).sqrt())
    finite = (mu_y + mu_x + sigma_y + sigma_x + steepest + color).isfinite()
    return finite & (spread > 0) & (free > 0)
