"""The tiled PyTorch backend: any device, a few large tensor operations, with its own backward pass.

Gaussians are grouped by the tile that holds the first corner of their box. A tile's group is rendered into a patch that
reaches far enough beyond the tile for every box of the group, and the patches, which overlap, are added up. So each
Gaussian is evaluated once, its gradient needs no accumulation, and nothing depends on the order of atomic additions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import fold

from kernels.plan import Chunk, Group, plan_groups
from kernels.prepare import boxes
from kernels.scene import Gradients, Scene

_FAR = 1e18
"""Stands for u outside the box: far above `prepare.FARTHEST`, and its square is still finite in float32."""
_UNIT = math.sqrt(math.log2(math.e) / 2)
"""Scales whitened coordinates so that the weight exp(-(u^2 + v^2) / 2) becomes 2^-(u^2 + v^2)."""


def render(scene: Scene) -> Tensor:
    """Compute what `reference.render` computes, touching only pixels near each Gaussian's box. Returns (B, C, H, W)."""
    image = scene.color.new_zeros(*scene.color.shape[::2], *scene.canvas)
    for group in _groups(scene):
        _add_group(image, group)
    return image


def gradients(scene: Scene, grad_image: Tensor) -> Gradients:
    """Gradients of `render` by mu, sigma, rho and color, given the upstream gradient (B, C, H, W)."""
    rho = scene.rho
    # The last column takes what the padding of the lists yields.
    sums = grad_image.new_zeros(5 + grad_image.shape[1], rho.numel() + 1)
    for group in _groups(scene):
        _gather_group(sums, grad_image, group)
    sums = sums[:, :-1].reshape(len(sums), *rho.shape)
    return *_finish(sums[:5], scene.sigma, rho), sums[5:].permute(1, 2, 0).contiguous()


def _groups(scene: Scene) -> Iterator[Group]:
    shape = _whiten(scene.sigma, scene.rho)
    parameters = torch.stack([*shape, *scene.mu.unbind(-1), *scene.color.unbind(-1)]).flatten(1)
    return plan_groups(parameters, boxes(scene), scene.canvas)


def _whiten(sigma: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients a, b, d, each (B, N), of u = a dx + b dy and v = d dy; the weight is 2^-(u^2 + v^2)."""
    q = _UNIT * ((1 - rho) * (1 + rho)).rsqrt()
    sigma_y, sigma_x = sigma.unbind(-1)
    return q / sigma_x, -rho * q / sigma_y, _UNIT / sigma_y


def _coordinates(chunk: Chunk, patch: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Whitened coordinates u (Py, Px, M) and v (Py, M) of M = n K Gaussians over their patches, in units of `_UNIT`.

    Gaussians come last, so that every operation runs over long rows.
    """
    y0, x0, y1, x1, a, b, d, mu_y, mu_x = chunk.records[:9]
    y, x = (torch.arange(side, dtype=a.dtype, device=a.device)[:, None] for side in patch)
    dy = y - mu_y
    row = torch.add(b * dy, _outside(y, y0, y1), alpha=_FAR)
    column = torch.add(a * (x - mu_x), _outside(x, x0, x1), alpha=_FAR)
    return row[:, None] + column, d * dy


def _outside(pixel: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """1 beyond the box's edges, 0 within; cheaper than comparisons, which are not vectorised."""
    return torch.maximum(first - pixel, pixel - last).clamp_(0, 1)


def _weights(u: Tensor, v: Tensor, out: Tensor | None = None) -> Tensor:
    """The weights 2^-(u^2 + v^2) as (Py, Px, M); `out` may be u.

    Not exp: in PyTorch's CPU version numbers that underflow take fifty times longer.
    """
    return torch.addcmul((v * v).neg_()[:, None], u, u, value=-1, out=out).exp2_()


def _add_group(image: Tensor, group: Group) -> None:
    """Render a group's patches and add them to image (B, C, H, W)."""
    patches = image.new_zeros(math.prod(group.grid), image.shape[1] * math.prod(group.patch))
    for chunk in group.chunks:
        u, v = _coordinates(chunk, group.patch)
        w = _weights(u, v, out=u)
        patches.index_add_(0, chunk.cells, torch.bmm(_colors(chunk), _by_cell(w, chunk)).flatten(1))
    for target, own in zip(group.window(image), patches.view(group.grid[0], -1, patches.shape[1]), strict=True):
        added = fold(own.mT.contiguous(), group.canvas, group.patch, stride=group.tile)
        target += added[:, : target.shape[1], : target.shape[2]]


def _gather_group(sums: Tensor, grad_image: Tensor, group: Group) -> None:
    """Sum, for each of a group's Gaussians, what the backward pass needs over the pixels of its patch.

    sums: (5 + C, M + 1). With t = w * (upstream gradient . color) its rows receive the sums of t u, t v, t u u, t u v,
    t v v, and of w * upstream gradient.
    """
    source = group.window(grad_image)
    padded = source.new_zeros(*source.shape[:2], *group.canvas)
    padded[..., : source.shape[2], : source.shape[3]] = source
    patches = padded.unfold(2, group.patch[0], group.tile).unfold(3, group.patch[1], group.tile)
    for chunk in group.chunks:
        u, v = _coordinates(chunk, group.patch)
        w = _weights(u, v)
        image, row, column = torch.unravel_index(chunk.cells, group.grid)
        upstream = patches[image, :, row, column].flatten(2)  # (n, C, P)
        pairs = _by_cell(w, chunk)
        grad_color = torch.bmm(upstream, pairs.mT).transpose(0, 1).flatten(1)
        pairs.mul_(torch.bmm(_colors(chunk).mT, upstream))
        sums.index_copy_(1, chunk.members, torch.cat([_moments(w, u, v), grad_color]))


def _colors(chunk: Chunk) -> Tensor:
    """View a chunk's colors as (n, C, K)."""
    colors = chunk.records[9:]
    return colors.view(len(colors), *chunk.shape).transpose(0, 1)


def _by_cell(w: Tensor, chunk: Chunk) -> Tensor:
    """View weights (Py, Px, n * K) as (n, K, P)."""
    return w.view(-1, *chunk.shape).permute(1, 2, 0)


def _moments(t: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(5, M) sums over the patch of t u, t v, t u u, t u v, t v v. t is overwritten.

    Of the whitened u and v, not of dx and dy: those cancel when |rho| is near 1.
    """
    t_v = t.sum(1) * v
    t_u = t.mul_(u).sum(1)
    t_uu = t.mul_(u).sum((0, 1))
    return torch.stack([t_u.sum(0), t_v.sum(0), t_uu, (t_u * v).sum(0), (t_v * v).sum(0)])


def _finish(moments: Tensor, sigma: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of mu (B, N, 2), sigma (B, N, 2) and rho (B, N) from the moments (5, B, N)."""
    t_u, t_v = moments[:2] / _UNIT
    t_uu, t_uv, t_vv = moments[2:] / _UNIT**2
    q = ((1 - rho) * (1 + rho)).rsqrt()
    mu = torch.stack([t_v - rho * q * t_u, q * t_u], -1) / sigma
    spread = torch.stack([t_vv - rho * q * t_uv, t_uu + rho * q * t_uv], -1) / sigma
    # Gaussians that touch no pixel have no sums, and possibly parameters that are not finite.
    dead = (moments == 0).all(0)
    skew = (q * t_uv - rho * q * q * t_uu).masked_fill(dead, 0)
    return mu.masked_fill(dead[..., None], 0), spread.masked_fill(dead[..., None], 0), skew
