"""The specification: every Gaussian against every pixel, in plain differentiable PyTorch, any dtype."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = 2**24
"""Gaussian-pixel pairs held at a time where no gradient needs them all."""


def rasterize_dense(
    mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor, box: Tensor, canvas: tuple[int, int]
) -> Tensor:
    """Sum color * exp(-((a - rho b)^2 / ((1 - rho)(1 + rho)) + b^2) / 2) with a = dx / sigma_x, b = dy / sigma_y.

    The arguments are those of `rasterize`; box: (2, 2, B, N) from `boxes`. Takes time, and with gradients memory, for
    B * N * H * W pairs. Returns (B, C, H, W).
    """
    step = max(1, PAIRS // max(1, mu.shape[0] * canvas[0] * canvas[1]))
    image = color.new_zeros(color.shape[0], color.shape[2], *canvas)
    for start in range(0, max(1, mu.shape[1]), step):  # at least once, for the gradients of nothing
        part = slice(start, start + step)
        image = image + _dense(mu[:, part], sigma[:, part], rho[:, part], color[:, part], box[..., part], canvas)
    return image


def _dense(mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor, box: Tensor, canvas: tuple[int, int]) -> Tensor:
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
