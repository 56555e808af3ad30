"""LIIF as published: unfolded features, coordinates in [-1, 1], nearest sampling, the whole MLP per ensemble member."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

NUDGE = 1e-6


def published(model, lr, out_size, cell_factor=1.0, chunk=30_000):
    """The network of `model`, (B, 3, h, w) to (B, 3, H, W)."""
    features = model.encoder((lr - 0.5) / 0.5)
    if model.kernel == 3:
        features = F.unfold(features, 3, padding=1).unflatten(2, lr.shape[-2:])
    cell = 2 / torch.tensor(out_size) * cell_factor
    coords = grid(out_size, lr.dtype).flatten(1).T
    colors = [decode(model, features, part, cell) for part in coords.split(chunk)]
    return 0.5 * torch.cat(colors, 1).transpose(1, 2).unflatten(2, out_size) + 0.5


def decode(model, features, coord, cell):
    size = torch.tensor(features.shape[-2:])
    lr_coords = grid(features.shape[-2:], features.dtype)[None].expand(len(features), -1, -1, -1)
    directions = list(product((-1, 1), (-1, 1))) if model.local_ensemble else [(0, 0)]
    predictions, areas = [], []
    for direction in directions:
        nudge = NUDGE if model.local_ensemble else 0
        shifted = (coord + torch.tensor(direction) / size + nudge).clamp(-1 + NUDGE, 1 - NUDGE)
        rel = (coord - sample(lr_coords, shifted)) * size
        rel_cell = [(cell * size).to(rel).expand_as(rel)] if model.cell_decode else []
        predictions.append(model.imnet.layers(torch.cat([sample(features, shifted), rel, *rel_cell], -1)))
        areas.append(rel.prod(-1, keepdim=True).abs() + 1e-9)
    return sum(p * a for p, a in zip(predictions, reversed(areas), strict=True)) / sum(areas)


def grid(size, dtype):
    return torch.stack(torch.meshgrid(*(centres(n, dtype) for n in size), indexing="ij"))


def centres(n, dtype):
    radius = 1 / n
    return -1 + radius + 2 * radius * torch.arange(n, dtype=dtype)


def sample(image, coord):
    """Nearest pixels of (B, C, h, w) at coord (Q, 2) in (y, x) order: (B, Q, C)."""
    xy = coord.flip(-1)[None, None].expand(len(image), 1, -1, 2)
    return F.grid_sample(image, xy, mode="nearest", align_corners=False)[:, :, 0].transpose(1, 2)
