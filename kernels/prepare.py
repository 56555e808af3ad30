"""Which pixels a Gaussian touches: decided here once, so that every backend sums the same pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_SIDE = 65535
"""Largest side of an image in pixels."""
FARTHEST = 1e16
"""Bound on distances in whitened units, so that their squares are finite in float32; sigma = 1e-8 pixels meets it."""

Pair = tuple[Tensor, Tensor]


def boxes(
    mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor, sizes: Tensor, window: Tensor | None, cutoff: float
) -> Tensor:
    """Intersect each Gaussian's cut-off box and window with its image.

    mu, sigma: (B, N, 2) in pixels; rho: (B, N); color: (B, N, C); sizes: (B, 2) as H, W; window: (1 or B, 2).
    Returns (2, 2, B, N) int32: [first, last] x [y, x], inclusive; (0, -1) on both axes where no pixel is touched.
    """
    # One axis at a time: arrays of (B, N) are several times faster here than reductions over pairs.
    centers, spreads = _axes(mu.detach()), _axes(sigma.detach())
    hit = _well_formed(centers, spreads, rho.detach(), color.detach().sum(-1))
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
    return box.to(torch.int32).view(2, 2, *hit.shape)


def _axes(pairs: Tensor) -> Pair:
    y, x = pairs.unbind(-1)
    return y, x


def _well_formed(mu: Pair, sigma: Pair, rho: Tensor, color: Tensor) -> Tensor:
    """(B, N) bool: all parameters are finite, sigma > 0, |rho| < 1, and distances in units of sigma cannot overflow."""
    spread, free = torch.minimum(*sigma), (1 - rho) * (1 + rho)
    farthest = (mu[0].abs() + mu[1].abs() + MAX_SIDE) / (spread * free.clamp(min=0).sqrt())
    finite = (sigma[0] + sigma[1] + color).isfinite() & (farthest < FARTHEST)
    return finite & (spread > 0) & (free > 0)
