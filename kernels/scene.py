"""What a backend is asked to draw."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of mu, sigma, rho and color, with their shapes."""


@dataclass(frozen=True)
class Scene:
    """B images of N Gaussians each; checked, so that backends need not.

    The tensors are detached and contiguous, of one device and of one type, float32 or float64. What describes images is
    plain data: reading a tensor would wait for its device, writing one would forbid a CUDA graph.
    """

    mu: Tensor
    """(B, N, 2): y, x in pixels."""
    sigma: Tensor
    """(B, N, 2): y, x in pixels."""
    rho: Tensor
    """(B, N)"""
    color: Tensor
    """(B, N, C)"""
    canvas: tuple[int, int]
    """(H, W) of the result, 1 to `prepare.MAX_SIDE`."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """(H, W) of each image, zero beyond it; None: all fill the canvas."""
    window: tuple[tuple[float, float], ...] | None = None
    """Half-widths (y, x) in pixels, inclusive: one pair for all images or one for each; None: no limit."""
    cutoff: float = 14.0
    """Pixels beyond sqrt(2 cutoff) standard deviations on either axis are dropped; may be inf."""
    capacity: int | None = None
    """See `rasterize`."""
