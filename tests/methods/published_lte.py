"""Meta-SR and LTE as published: queries in [-1, 1], nearest sampling, everything per query."""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from published_liif import NUDGE, grid, sample


def metasr(model, lr, out_size):
    features = model.encoder((lr - 0.5) / 0.5)
    unfolded = F.unfold(features, 3, padding=1).unflatten(2, lr.shape[-2:])
    size, out = torch.tensor(lr.shape[-2:]), torch.tensor(out_size)
    corners = (grid(lr.shape[-2:], lr.dtype) - (1 / size)[:, None, None])[None].expand(len(lr), -1, -1, -1)
    corner = grid(out_size, lr.dtype).flatten(1).T - 1 / out
    nudged = (corner + NUDGE).clamp(-1 + NUDGE, 1 - NUDGE)
    fraction = (corner - sample(corners, nudged)) * size / 2
    ratio = torch.full_like(fraction[..., :1], float(size[0] / out[0]))
    weights = model.imnet.layers(torch.cat([fraction, ratio], -1)).unflatten(-1, (-1, 3))
    colors = torch.einsum("bqn,bqnc->bcq", sample(unfolded, nudged), weights)
    return 0.5 * colors.unflatten(2, out_size) + 0.5


def lte(model, lr, out_size, cell_factor=1.0):
    image = (lr - 0.5) / 0.5
    features = model.encoder(image)
    coef, freq = model.coef(features), model.freq(features)
    size = torch.tensor(lr.shape[-2:])
    lr_coords = grid(lr.shape[-2:], lr.dtype)[None].expand(len(lr), -1, -1, -1)
    coord = grid(out_size, lr.dtype).flatten(1).T
    phase = model.phase((2 / torch.tensor(out_size) * cell_factor * size).to(lr))
    predictions, areas = [], []
    for direction in product((-1, 1), (-1, 1)):
        shifted = (coord + torch.tensor(direction) / size + NUDGE).clamp(-1 + NUDGE, 1 - NUDGE)
        rel = (coord - sample(lr_coords, shifted)) * size
        angle = math.pi * ((sample(freq, shifted).unflatten(-1, (-1, 2)) * rel[:, :, None]).sum(-1) + phase)
        waves = torch.cat([angle.cos(), angle.sin()], -1) * sample(coef, shifted)
        predictions.append(model.imnet.layers(waves))
        areas.append(rel.prod(-1, keepdim=True).abs() + 1e-9)
    colors = sum(p * a for p, a in zip(predictions, reversed(areas), strict=True)) / sum(areas)
    skip = F.interpolate(image, out_size, mode="bilinear", align_corners=False)
    return 0.5 * (colors.transpose(1, 2).unflatten(2, out_size) + skip) + 0.5
