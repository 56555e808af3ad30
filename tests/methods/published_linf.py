"""LINF as published: float32 coordinates in [-1, 1], all waves of every query, the flow's matrices solved."""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from published_liif import NUDGE, grid, sample


def published(model, lr, out_size, cell_factor=1.0, latent=None, window=None, chunk=256):
    """The network of `model`, (B, 3, h, w) to (B, 3, H, W); latent: of all queries, (B, rows, columns, size)."""
    image = (lr - 0.5) / 0.5 if window is None else mirrored((lr - 0.5) / 0.5, window)
    coord = coordinates(lr, image, out_size)
    queries = coord if model.patch == 1 else tile_centres(coord, model.patch)
    features, cell, colors = model.encoder(image), 2 / torch.tensor(out_size) * cell_factor, []
    for rows in torch.arange(queries.shape[1]).split(chunk):
        affine = decode(model, features, queries[:, rows], cell)
        size = affine.shape[-1] // len(model.imnet.linears) // 2
        drawn = lr.new_zeros(*affine.shape[:-1], size) if latent is None else latent[:, rows].to(lr)
        colors.append(inverse(model.imnet, drawn, affine))
    residual = torch.cat(colors, 1).permute(0, 3, 1, 2)
    skip = enlarged(image, coord)
    if model.patch > 1:
        tiles, size = residual.shape[-2:], tuple(model.patch * n for n in residual.shape[-2:])
        assert tiles == queries.shape[1:]
        residual = F.fold(residual.flatten(2), size, model.patch, stride=model.patch)
        residual = residual[..., : out_size[0], : out_size[1]]
        skip = F.interpolate(image, out_size, mode="bilinear", align_corners=False)
    return 0.5 * (residual + skip) + 0.5


def log_density(model, lr, hr, cell_factor=1.0):
    """(B, H, W): of the residual at each pixel, or of the patch of it around each pixel."""
    image, out_size = (lr - 0.5) / 0.5, hr.shape[-2:]
    coord = coordinates(lr, image, out_size)
    residual = F.unfold((hr - 0.5) / 0.5 - enlarged(image, coord), model.patch, padding=model.patch // 2)
    affine = decode(model, model.encoder(image), coord, 2 / torch.tensor(out_size) * cell_factor)
    u, total = residual.transpose(1, 2).unflatten(1, out_size), 0
    for layer, (scale, shift) in zip(model.imnet.linears, layers(affine, u.shape[-1]), strict=True):
        u = F.linear(u, layer._weight, layer.bias) * scale + shift
        total = total + torch.slogdet(layer._weight)[1] + scale.log().sum(-1)
    u = F.linear(u, model.imnet.last._weight, model.imnet.last.bias)
    total = total + torch.slogdet(model.imnet.last._weight)[1]
    return total + (-0.5 * (u**2 + math.log(2 * math.pi))).sum(-1)


def decode(model, features, coord, cell):
    """The flow's parameters at queries (2, R, C): (B, R, C, F)."""
    coef, freq = model.coef(features), model.freq(features)
    size, points = torch.tensor(features.shape[-2:]), coord.flatten(1).T
    phase = model.phase((cell * size).to(features))[:, None]
    numbers = torch.arange(size.prod(), dtype=torch.float32).view(1, 1, *features.shape[-2:])
    waves, areas = [], []
    for shift in product((-1, 1), (-1, 1)):
        moved = torch.stack([points[:, k] + (shift[k] / features.shape[2 + k] + NUDGE) for k in range(2)], -1)
        index = sample(numbers, moved.clamp(-1 + NUDGE, 1 - NUDGE)).flatten().long()
        rel = (points - grid(features.shape[-2:], torch.float32).flatten(1).T[index]) * size
        by_y, by_x = freq.flatten(2)[:, :, index].chunk(2, 1)
        angle = math.pi * (by_y * rel[:, 0] + by_x * rel[:, 1] + phase)
        waves.append(coef.flatten(2)[:, :, index] * torch.cat([angle.cos(), angle.sin()], 1))
        areas.append(rel.prod(-1).abs() + 1e-9)
    weighted = [wave * (area / sum(areas)) for wave, area in zip(waves, reversed(areas), strict=True)]
    return model.layers(torch.cat(weighted, 1).unflatten(2, coord.shape[1:])).permute(0, 2, 3, 1)


def inverse(flow, latent, affine):
    u = solve(flow.last, latent)
    pairs = list(zip(flow.linears, layers(affine, latent.shape[-1]), strict=True))
    for layer, (scale, shift) in reversed(pairs):
        u = solve(layer, (u - shift) / scale)
    return u


def solve(layer, u):
    return torch.linalg.solve(layer._weight, (u - layer.bias).flatten(0, -2).T).T.view_as(u)


def layers(affine, size):
    """Scales and shifts of every layer."""
    parts = affine.split(size, -1)
    return [(torch.sigmoid(raw + 2) + 1e-4, shift) for raw, shift in zip(parts[::2], parts[1::2], strict=True)]


def coordinates(lr, image, out_size):
    """(2, H, W): the first of those of the whole padded image, whole scales only where it was padded."""
    padded = [n * big // small for n, big, small in zip(out_size, image.shape[-2:], lr.shape[-2:], strict=True)]
    return grid(padded, torch.float32)[:, : out_size[0], : out_size[1]]


def tile_centres(coord, patch):
    bottom, right = (patch - n % patch for n in coord.shape[1:])
    tiles = F.pad(coord, (0, right, 0, bottom)).unfold(1, patch, patch).unfold(2, patch, patch)
    return tiles[..., patch // 2, patch // 2]


def mirrored(image, window):
    height, width = ((n // window + 1) * window for n in image.shape[-2:])
    image = torch.cat([image, image.flip(2)], 2)[:, :, :height]
    return torch.cat([image, image.flip(3)], 3)[..., :width]


def enlarged(image, coord):
    xy = coord.permute(1, 2, 0).flip(-1).to(image).expand(len(image), -1, -1, -1)
    return F.grid_sample(image, xy, mode="bilinear", padding_mode="border", align_corners=False)
