"""The specification: every Gaussian against every pixel, in plain PyTorch, any dtype; differentiated automatically."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.prepare import boxes
from kernels.scene import Gradients, Scene

PAIRS = 2**22
"""Gaussian-pixel pairs held at a time, about ten arrays of them for the gradients."""


def render(scene: Scene) -> Tensor:
    """Draw the scene in time proportional to B * N * H * W. Returns (B, C, H, W)."""
    box, image = boxes(scene), scene.color.new_zeros(*scene.color.shape[::2], *scene.canvas)
    for part in _parts(scene):
        image += _dense(box[..., part], scene.canvas, *_gaussians(scene, part))
    return image


def gradients(scene: Scene, grad_image: Tensor) -> Gradients:
    """Differentiate `render` by mu, sigma, rho and color, given the upstream gradient (B, C, H, W)."""
    found = []
    # PyTorch runs the insides of operators with differentiation off; this turns it on whatever the surroundings.
    with torch.inference_mode(False), torch.enable_grad():
        box = boxes(scene)
        for part in _parts(scene):
            leaves = [value.clone().requires_grad_() for value in _gaussians(scene, part)]
            image = _dense(box[..., part], scene.canvas, *leaves)
            found.append(torch.autograd.grad(image, leaves, grad_image))
    mu, sigma, rho, color = (torch.cat(values, 1) for values in zip(*found, strict=True))
    return mu, sigma, rho, color


def _parts(scene: Scene) -> Iterator[slice]:
    """Cut the Gaussians where their pairs would exceed PAIRS; at least one part, if empty."""
    batch, count = scene.rho.shape
    step = max(1, PAIRS // max(1, batch * scene.canvas[0] * scene.canvas[1]))
    for start in range(0, max(1, count), step):
        yield slice(start, start + step)


def _gaussians(scene: Scene, part: slice) -> Gradients:
    return scene.mu[:, part], scene.sigma[:, part], scene.rho[:, part], scene.color[:, part]


def _dense(box: Tensor, canvas: tuple[int, int], mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor) -> Tensor:
    """Sum color * exp(-((a - rho b)^2 / ((1 - rho)(1 + rho)) + b^2) / 2) with a = dx / sigma_x, b = dy / sigma_y.

    box: (2, 2, B, N) from `boxes`.
    """
    (y0, x0), (y1, x1) = box[..., None]
    hit = (y0 <= y1)[..., 0]
    mu, sigma = (torch.where(hit[..., None], value, 1.0) for value in (mu, sigma))
    rho, color = torch.where(hit, rho, 0.0), torch.where(hit[..., None], color, 0.0)
    y, x = (torch.arange(side, device=mu.device) for side in canvas)
    row, column = (y0 <= y) & (y <= y1), (x0 <= x) & (x <= x1)  # (B, N, H), (B, N, W)
    b = torch.where(row, (y - mu[..., :1]) / sigma[..., :1], 0.0)[..., :, None]
    a = torch.where(column, (x - mu[..., 1:]) / sigma[..., 1:], 0.0)[..., None, :]
    rho = rho[..., None, None]
    weight = torch.exp(-((a - rho * b) ** 2 / ((1 - rho) * (1 + rho)) + b**2) / 2)
    inside = row[..., :, None] & column[..., None, :]
    return torch.einsum("bnhw,bnc->bchw", torch.where(inside, weight, 0.0), color)
