"""The public operator: checks, choice of backend, dispatch."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.prepare import MAX_SIDE, boxes
from kernels.reference import rasterize_dense
from kernels.tiled import rasterize_tiled

BACKEND_VARIABLE = "ASRBENCH_RASTERIZER"
"""Environment variable that replaces `backend="auto"`."""

_BACKENDS = {"torch": rasterize_tiled, "reference": rasterize_dense}
_TITLES = {
    "torch": "tiled PyTorch, any device, forward and backward",
    "reference": "dense PyTorch, the specification, small images only",
}
_log = logging.getLogger(__name__)
_announced: set[Choice] = set()


class Choice(NamedTuple):
    """A backend and why it was taken."""

    name: str
    reason: str


def available_backends() -> dict[str, str]:
    """The backends that can run here, each with a line on what it is, fastest first."""
    return dict(_TITLES)


def choose(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, backend: str = "auto") -> Choice:
    """Say which backend `rasterize` takes for inputs of this device and dtype.

    Raises:
        ValueError: the backend, or the one that ASRBENCH_RASTERIZER names, does not exist.
    """
    if backend != "auto":
        return Choice(_known(backend, "backend"), "asked for by the caller")
    forced = os.environ.get(BACKEND_VARIABLE, "auto")
    if forced not in ("", "auto"):
        return Choice(_known(forced, BACKEND_VARIABLE), f"forced by {BACKEND_VARIABLE}")
    if dtype == torch.float64:
        return Choice("reference", "float64 inputs ask for the specification")
    return Choice("torch", f"serves every device, here {torch.device(device).type}")


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

    Returns:
        (B, C, H, W), or (B, C, max H, max W). float32, computed in float32; float64 if any input is. A Gaussian with a
        parameter that is not finite or out of range touches no pixel and has zero gradients.

    Raises:
        TypeError: an input is not a floating-point tensor, or out_size not of integers.
        ValueError: shapes, devices, out_size, window, cutoff or backend do not fit.
    """
    _check_tensors(mu, sigma, rho, color)
    sizes, canvas = _sizes(out_size, mu)
    if not cutoff >= 0:
        raise ValueError(f"cutoff must be 0 or more, not {cutoff}.")
    dtype = torch.float64 if torch.float64 in (mu.dtype, sigma.dtype, rho.dtype, color.dtype) else torch.float32
    limit = _window(window, mu, dtype)
    choice = choose(mu.device, dtype, backend)
    _announce(choice)
    mu, sigma, rho, color = (value.to(dtype) for value in (mu, sigma, rho, color))
    # Positions and exponents need the full precision that autocast would take away.
    with torch.autocast(mu.device.type, enabled=False):
        box = boxes(mu, sigma, rho, color, sizes, limit, cutoff)
        return _BACKENDS[choice.name](mu, sigma, rho, color, box, canvas)


def _known(name: str, source: str) -> str:
    if name not in _BACKENDS:
        raise ValueError(f"{source} names the rasterizer {name!r}; there are auto, {', '.join(_BACKENDS)}.")
    return name


def _announce(choice: Choice) -> None:
    if choice not in _announced:
        _announced.add(choice)
        _log.info("rasterizer: %s (%s)", *choice)


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


def _sizes(out_size: tuple[int, int] | Tensor, mu: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, 2) sizes of the images and (H, W) of the canvas that holds them."""
    sizes = torch.as_tensor(out_size)
    if sizes.is_floating_point() or sizes.is_complex() or sizes.dtype == torch.bool:
        raise TypeError(f"out_size must hold integers, not {sizes.dtype}.")
    if tuple(sizes.shape) not in ((2,), (mu.shape[0], 2)):
        raise ValueError(f"out_size must be (H, W) or of the shape ({mu.shape[0]}, 2), not {tuple(sizes.shape)}.")
    height, width = (int(side) for side in sizes.reshape(-1, 2).amax(0)) if sizes.numel() else (1, 1)
    if sizes.numel() and (int(sizes.min()) < 1 or max(height, width) > MAX_SIDE):
        raise ValueError(f"Sides of out_size must lie between 1 and {MAX_SIDE}, not {sizes.tolist()}.")
    return sizes.to(mu.device).expand(mu.shape[0], 2), (height, width)


def _window(window: tuple[float, float] | Tensor | None, mu: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The half-widths as (1 or B, 2)."""
    if window is None:
        return None
    limit = torch.as_tensor(window, dtype=torch.float64)
    if tuple(limit.shape) not in ((2,), (mu.shape[0], 2)):
        shape = tuple(limit.shape)
        raise ValueError(f"window must be (half_y, half_x) or of the shape ({mu.shape[0]}, 2), not {shape}.")
    if not bool((limit >= 0).all()):
        raise ValueError(f"window must not be negative or NaN: {limit.tolist()}.")
    return limit.reshape(-1, 2).to(dtype).to(mu.device)
