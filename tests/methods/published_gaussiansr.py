"""GaussianSR as published: everything but encoder and MLP anew for each chunk of queries, patches by unfolding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from published_liif import grid, sample

PATCH, KERNEL, SPREAD = 7, 5, 8


def published(model, lr, out_size, scale, shares=None, chunk=30_000):
    """The network of `model`, (B, 3, h, w) to (B, 3, H, W); shares: of the kernels, (B, points, h, w)."""
    features = model.encoder((lr - 0.5) / 0.5)
    shares = chosen(model, features) if shares is None else shares
    coords = grid(out_size, torch.float32).flatten(1).T
    colors = [query(model, features, shares, part, out_size, scale) for part in coords.split(chunk)]
    return 0.5 * torch.cat(colors, 1).transpose(1, 2).unflatten(2, out_size) + 0.5


def logits(model, features):
    """(B h w, points)"""
    return model.segmentation_head(features).permute(0, 2, 3, 1).flatten(0, 2)


def chosen(model, features):
    """The likeliest kernel, without noise; the gradient is that of the softmax."""
    soft = logits(model, features).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), soft.shape[-1])
    return as_maps(hard - soft.detach() + soft, features)


def drawn(model, features, hard=True):
    """By Gumbel-softmax: when testing one kernel, when training a mixture."""
    return as_maps(F.gumbel_softmax(logits(model, features), tau=1, hard=hard), features)


def as_maps(shares, features):
    return shares.view(len(features), *features.shape[-2:], -1).permute(0, 3, 1, 2)


def query(model, features, shares, coord, out_size, scale):
    """Colours (B, Q, 3) at the float32 coordinates (Q, 2)."""
    size = features.shape[-2:]
    textured = torch.cat([splat(model, features[:, :SPREAD], shares, out_size, scale), others(features, out_size)], 1)
    nearest = pixel(out_size, coord)
    coef, freq = (conv(textured).flatten(2)[..., nearest].transpose(1, 2) for conv in (model.coef, model.freq))
    centre = grid(size, torch.float32).flatten(1).T[pixel(size, coord)]
    rel = ((coord - centre) * torch.tensor(size)).to(features)
    cell = 2 / torch.tensor(out_size).to(features) * torch.tensor(size)
    angle = (freq.unflatten(-1, (-1, 2)) * rel[:, None]).sum(-1) + model.phase(cell)
    return model.dec.layers(coef * torch.cat([(math.pi * angle).cos(), (math.pi * angle).sin()], -1))


def pixel(size, coord):
    numbers = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
    return sample(numbers, coord).flatten().long()


def others(features, out_size):
    return resized(features[:, SPREAD:], out_size)


def resized(image, size):
    return F.interpolate(image, size=tuple(size), mode="bicubic", align_corners=False)


def splat(model, features, shares, out_size, scale):
    """The first channels through the kernels, (B, 8, h, w) to (B, 8, H, W)."""
    count = [math.ceil(n / PATCH) for n in features.shape[-2:]]
    features, shares = (cut(resized(image, (PATCH * count[0], PATCH * count[1]))) for image in (features, shares))
    bank = torch.stack([model.sigma_x, model.sigma_y, model.opacity[:, 0], model.rho[:, 0]])
    sigma_x, sigma_y, opacity, rho = torch.einsum("kp,npyx->kyx", bank, shares).flatten(1) / len(shares)
    side = round(PATCH * scale)
    kernels = placed(gaussian(sigma_x, sigma_y, rho), side, len(features))
    colors = features.flatten(2).transpose(1, 2) * opacity[:, None]
    patches = (colors[..., None, None] * kernels).sum(1).clamp(0, 1)
    batch = len(patches) // (count[0] * count[1])
    folded = patches.view(batch, count[0] * count[1], -1).transpose(1, 2)
    folded = F.fold(folded, (side * count[0], side * count[1]), side, stride=side)
    return resized(folded, out_size)


def cut(image):
    """(B, C, 7 n, 7 m) to (B n m, C, 7, 7)"""
    return F.unfold(image, PATCH, stride=PATCH).transpose(1, 2).unflatten(2, (-1, PATCH, PATCH)).flatten(0, 1)


def gaussian(sigma_x, sigma_y, rho):
    """(49,) each, to (49, 5, 5) with maximum 1"""
    mixed = rho * sigma_x * sigma_y
    covariance = torch.stack([sigma_x**2 + 1e-5, mixed, mixed, sigma_y**2 + 1e-5], -1).unflatten(-1, (2, 2))
    u = torch.linspace(-5, 5, KERNEL).to(rho)
    at = torch.stack(torch.meshgrid(u, u, indexing="ij"), -1)
    power = torch.einsum("yxi,nij,yxj->nyx", at, -0.5 * torch.inverse(covariance), at)
    kernel = power.exp() / (2 * math.pi * torch.det(covariance).sqrt()[:, None, None])
    return kernel / kernel.amax((1, 2), keepdim=True)


def placed(kernels, side, patches):
    """Where they belong in each patch, each channel its own copy: (patches, 49, 8, side, side)."""
    before = (side - KERNEL) // 2
    after = side - KERNEL - before
    kernels = F.pad(kernels, (before, after, before, after))[:, None].expand(-1, SPREAD, -1, -1)
    place = torch.arange(PATCH**2)
    theta = torch.eye(2, 3).repeat(PATCH**2, 1, 1).to(kernels)
    theta[:, 0, 2], theta[:, 1, 2] = 1 - 2 * (place % PATCH) / PATCH, 1 - 2 * (place // PATCH) / PATCH
    size = (patches * PATCH**2, SPREAD, side, side)
    where = F.affine_grid(theta.repeat(patches, 1, 1), size, align_corners=True)
    moved = F.grid_sample(kernels.repeat(patches, 1, 1, 1), where, align_corners=True)
    return moved.unflatten(0, (patches, PATCH**2))
