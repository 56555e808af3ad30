"""The public operator: its contract and its checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.ops import draw
from kernels.prepare import MAX_SIDE


def rasterize(
    mu: Tensor,
    sigma: Tensor,
    rho: Tensor,
    color: Tensor,
    out_size: tuple[int, int] | Tensor,
    *,
    window: tuple[float, float] | Tensor | None = None,
    cutoff: float = 14.0,
    backend: str = "auto",
    capacity: int | None = None,
) -> Tensor:
    """Sum 2D Gaussians into images; differentiable once, deterministic.

    A pixel at distance (dy, dx) from the centre receives color * exp(-((a - rho b)^2 / (1 - rho^2) + b^2) / 2) with
    a = dx / sigma_x and b = dy / sigma_y (GSASR, arXiv 2501.06838, equations of the 2D Gaussian): a plain sum, without
    order, background, normalisation or clamp. A pair counts if the pixel lies in the Gaussian's cut-off box and window;
    both are constants for the gradient. Dropped pairs are below exp(-cutoff) * |color|.

    Args:
        mu: (B, N, 2) centres as (y, x) in output pixels; pixel i is centred at i. They may lie off the image.
        sigma: (B, N, 2) standard deviations as (y, x) in pixels, > 0.
        rho: (B, N) correlations in (-1, 1).
        color: (B, N, C) peak colors, opacity multiplied in, any sign.
        out_size: (H, W), or a (B, 2) integer tensor: images of several sizes on one canvas, zero outside each.
        window: largest |dy| and |dx| in pixels that count, inclusive: a pair, or (B, 2), one per image; None: no limit.
        cutoff: E >= 0: pixels beyond sqrt(2 E) standard deviations on either axis are dropped; inf: none.
        backend: "auto", or a name from `available_backends`; see `choose`.
        capacity: upper bound of list entries of the nvrtc backend, avoids its one host synchronisation so that the call
            can be captured in a CUDA graph; an image whose lists did not fit is filled with NaN. Other backends ignore
            it.

    Returns:
        (B, C, H, W), or (B, C, max H, max W). float32, computed in float32; float64 if any input is. A Gaussian with a
        parameter that is not finite or out of range touches no pixel and has zero gradients.

    Raises:
        TypeError: an input is not a floating-point tensor, or out_size not of integers.
        ValueError: shapes, devices, out_size, window, cutoff or capacity do not fit.
        BackendError: a ValueError; the backend does not exist, does not fit, or cannot run here.
        RuntimeError: gradients are differentiated again.
    """
    _check_tensors(mu, sigma, rho, color)
    canvas, sizes = _sizes(out_size, mu.shape[0])
    half_widths = _window(window, mu.shape[0])
    if not cutoff >= 0:
        raise ValueError(f"cutoff must be 0 or more, not {cutoff}.")
    if capacity is not None and not capacity >= 1:
        raise ValueError(f"capacity must be 1 or more, not {capacity}.")
    dtype = torch.float64 if torch.float64 in (mu.dtype, sigma.dtype, rho.dtype, color.dtype) else torch.float32
    inputs = (value.to(dtype) for value in (mu, sigma, rho, color))
    image: Tensor = draw(*inputs, canvas, sizes, half_widths, float(cutoff), backend, capacity)
    return image


def _check_tensors(mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor) -> None:
    named = {"mu": mu, "sigma": sigma, "rho": rho, "color": color}
    for name, value in named.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating-point tensor, not {kind}.")
    if mu.ndim != 3 or mu.shape[-1] != 2:
        raise ValueError(f"mu must have the shape (B, N, 2), not {tuple(mu.shape)}.")
    expected = {"sigma": tuple(mu.shape), "rho": tuple(mu.shape[:2]), "color": (*mu.shape[:2], *color.shape[2:3])}
    for name, shape in expected.items():
        if tuple(named[name].shape) != shape or (name == "color" and len(shape) != 3):
            wanted = "(B, N, C)" if name == "color" else str(shape)
            raise ValueError(f"{name} must have the shape {wanted} to fit mu, not {tuple(named[name].shape)}.")
    if not color.shape[-1]:
        raise ValueError("color must have at least one channel.")
    if len({value.device for value in named.values()}) > 1:
        raise ValueError(f"The inputs must be on one device, not {sorted({str(v.device) for v in named.values()})}.")


def _sizes(out_size: tuple[int, int] | Tensor, batch: int) -> tuple[list[int], list[int] | None]:
    """[H, W] of the canvas, and H, W of one image after the other if some do not fill it."""
    if _is_pair(out_size, int):
        sizes = [list(out_size)]
    else:
        values = torch.as_tensor(out_size)
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"out_size must hold integers, not {values.dtype}.")
        if tuple(values.shape) not in ((2,), (batch, 2)):
            raise ValueError(f"out_size must be (H, W) or of the shape ({batch}, 2), not {tuple(values.shape)}.")
        sizes = values.reshape(-1, 2).tolist()
    canvas = [max([size[axis] for size in sizes], default=1) for axis in (0, 1)]
    if any(side < 1 for size in sizes for side in size) or max(canvas) > MAX_SIDE:
        shown = sizes if len(sizes) > 1 else sizes[0]
        raise ValueError(f"Sides of out_size must lie between 1 and {MAX_SIDE}, not {shown}.")
    return canvas, None if all(size == canvas for size in sizes) else [side for size in sizes for side in size]


def _window(window: tuple[float, float] | Tensor | None, batch: int) -> list[float] | None:
    """The half-widths y, x, once or for one image after the other."""
    if window is None:
        return None
    if _is_pair(window, int | float):
        halves = [float(half) for half in window]
    else:
        values = torch.as_tensor(window, dtype=torch.float64)
        if tuple(values.shape) not in ((2,), (batch, 2)):
            shape = tuple(values.shape)
            raise ValueError(f"window must be (half_y, half_x) or of the shape ({batch}, 2), not {shape}.")
        halves = values.flatten().tolist()
    if not all(half >= 0 for half in halves):
        raise ValueError(f"window must not be negative or NaN: {halves}.")
    return halves


def _is_pair(value: object, kind: Any) -> bool:
    """Whether these are plain numbers, which torch.compile follows, other than tensors."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, kind) for part in value)
