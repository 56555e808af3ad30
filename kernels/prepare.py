"""Which pixels a Gaussian touches: decided here once, so that every backend sums the same pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.scene import Scene

MAX_SIDE = 65535
"""Largest side of an image in pixels."""
FARTHEST = 1e16
"""Bound on distances in whitened units, so that their squares are finite in float32; sigma = 1e-8 pixels meets it."""

Pair = tuple[Tensor, Tensor]


def boxes(scene: Scene) -> Tensor:
    """Intersect each Gaussian's cut-off box and window with its image.

    Returns (2, 2, B, N) int32: [first, last] x [y, x], inclusive; (0, -1) on both axes where no pixel is touched.
    """
    # One axis at a time: arrays of (B, N) are several times faster here than reductions over pairs.
    centers, spreads = _axes(scene.mu), _axes(scene.sigma)
    hit = _well_formed(centers, spreads, scene.rho, scene.color.sum(-1))
    edges = []
    for axis, (center, spread) in enumerate(zip(centers, spreads, strict=True)):
        unlimited = scene.cutoff == math.inf
        reach = torch.full_like(spread, math.inf) if unlimited else spread * math.sqrt(2 * scene.cutoff)
        if scene.window:
            reach = reach.clamp(max=_per_image(scene.window, axis, reach))
        first = torch.ceil(center - reach).clamp_(min=0)
        last = torch.floor(center + reach).clamp_(max=_per_image(scene.sizes or (scene.canvas,), axis, reach) - 1)
        hit &= first <= last
        edges.append((first, last))
    (y0, y1), (x0, x1) = edges
    box = torch.stack([torch.where(hit, edge, empty) for edge, empty in ((y0, 0), (x0, 0), (y1, -1), (x1, -1))])
    return box.to(torch.int32).view(2, 2, *hit.shape)


def _per_image(pairs: Sequence[tuple[float, float]], axis: int, like: Tensor) -> Any:
    """One axis of the pairs as a limit for `like` (B, N): a number if all images share it, else (B, 1)."""
    if len(set(pairs)) == 1:
        return min(pairs[0][axis], torch.finfo(like.dtype).max)  # PyTorch refuses larger numbers, save inf
    return torch.tensor([pair[axis] for pair in pairs], dtype=like.dtype, device=like.device)[:, None]


def _axes(pairs: Tensor) -> Pair:
    y, x = pairs.unbind(-1)
    return y, x


def _well_formed(mu: Pair, sigma: Pair, rho: Tensor, color: Tensor) -> Tensor:
    """(B, N) bool: all parameters are finite, sigma > 0, |rho| < 1, and distances in units of sigma cannot overflow."""
    spread, free = torch.minimum(*sigma), (1 - rho) * (1 + rho)
    farthest = (mu[0].abs() + mu[1].abs() + MAX_SIDE) / (spread * free.clamp(min=0).sqrt())
    finite = (sigma[0] + sigma[1] + color).isfinite() & (farthest < FARTHEST)
    return finite & (spread > 0) & (free > 0)
