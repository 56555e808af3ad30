"""SRNO as published: float32 coordinates in [-1, 1], all layers at all queries, attention over them at once."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from published_liif import NUDGE, grid, sample


def published(model, lr, out_size, cell_factor=1.0, index=None):
    """The network of `model`, (B, 3, h, w) to (B, 3, H, W), or (B, 3, Q) of the queries with flat indices (Q,)."""
    image, coord = (lr - 0.5) / 0.5, grid(out_size, torch.float32)
    coord = coord if index is None else coord.flatten(1)[:, index][:, None]
    x = model.conv00(gathered(model.encoder(image), coord, 2 / torch.tensor(out_size) * cell_factor))
    for layer in (model.conv0, model.conv1):
        x = attended(layer, x)
    xy = coord.permute(1, 2, 0).flip(-1).to(lr).expand(len(lr), -1, -1, -1)
    skip = F.grid_sample(image, xy, mode="bilinear", padding_mode="border", align_corners=False)
    out = 0.5 * (model.fc2(F.gelu(model.fc1(x))) + skip) + 0.5
    return out if index is None else out[:, :, 0]


def gathered(features, coord, cell):
    """Offsets, weighted features and cell of queries (2, H, W): (B, 8 + 4 C + 2, H, W)."""
    size, points = torch.tensor(features.shape[-2:]), coord.flatten(1).T
    numbers = torch.arange(size.prod(), dtype=torch.float32).view(1, 1, *features.shape[-2:])
    rels, found, areas = [], [], []
    for shift in product((-1, 1), (-1, 1)):
        moved = torch.stack([points[:, k] + (shift[k] / features.shape[2 + k] + NUDGE) for k in range(2)], -1)
        pixel = sample(numbers, moved.clamp(-1 + NUDGE, 1 - NUDGE)).flatten().long()
        rel = (points - grid(features.shape[-2:], torch.float32).flatten(1).T[pixel]) * size
        rels.append(rel.T.to(features).expand(len(features), -1, -1))
        found.append(features.flatten(2)[:, :, pixel])
        areas.append(rel.prod(-1).abs() + 1e-9)
    weighted = [part * (area / sum(areas)) for part, area in zip(found, reversed(areas), strict=True)]
    cells = (cell * size).to(features)[None, :, None].expand(len(features), -1, len(points))
    return torch.cat([*rels, *weighted, cells], 1).unflatten(2, coord.shape[1:])


def attended(layer, x):
    """One Galerkin attention layer, (B, width, H, W)."""
    qkv = layer.qkv_proj(x).flatten(2).unflatten(1, (layer.heads, -1)).transpose(2, 3)
    query, key, value = qkv.chunk(3, -1)  # (B, heads, H W, channels of a head)
    mean = normed(layer.kln, key).transpose(2, 3) @ normed(layer.vln, value) / key.shape[2]
    found = (query @ mean).transpose(2, 3).flatten(1, 2).view_as(x)
    return layer.o_proj2(F.gelu(layer.o_proj1(found + x))) + x


def normed(norm, x):
    return norm.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) + norm.bias
