"""CiaoSR and its non-local attention as published: every pair, every patch, all layers per query."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from published_liif import NUDGE, grid, sample


def attention(module, x):
    """`CrossScaleAttention` of one image (1, C, h, w), with the matrix of all pairs and all 6x6 patches laid out."""
    height, width = x.shape[-2:]
    pad = [0, width % 2, 0, height % 2]
    x = F.pad(x, pad, mode="reflect")
    queries = F.unfold(module.conv_match_1(x), 3, padding=1)
    keys = F.unfold(module.conv_match_2(F.interpolate(x, scale_factor=0.5, mode="bilinear")), 3, padding=1)
    keys = keys / torch.maximum(keys.norm(dim=1, keepdim=True), module.escape_NaN.to(keys))
    share = torch.softmax(module.softmax_scale * queries.transpose(1, 2) @ keys, dim=2)
    values = F.unfold(module.conv_assembly(x), 6, stride=2, padding=2)
    size = [2 * n for n in x.shape[-2:]]
    laid = F.fold(values @ share.transpose(1, 2), size, 6, stride=2, padding=2)
    return module.down(laid)[..., :height, :width] / 6


def published(model, lr, out_size):
    image = lr - lr.new_tensor([0.4488, 0.4371, 0.4040])[:, None, None]
    features = model.encoder(image)
    size = torch.tensor(lr.shape[-2:])
    local = F.unfold(features, 3, padding=1).unflatten(2, lr.shape[-2:])
    others = torch.cat([attention(model.cs_attn, one) for one in features.split(1)])
    value_map = torch.cat([local, others], 1)
    lr_coords = grid(lr.shape[-2:], lr.dtype)[None].expand(len(lr), -1, -1, -1)
    coord = grid(out_size, lr.dtype).flatten(1).T
    cell = 2 / torch.tensor(out_size)
    query, scores, values = sample(local, coord), [], []
    for direction in product((-1, 1), (-1, 1)):
        shift = torch.tensor(direction) * (1 - cell) / (size - 1)
        moved = (coord + shift + NUDGE).clamp(-1 + NUDGE, 1 - NUDGE)
        rel = (coord - sample(lr_coords, moved)) * size
        place = torch.cat([rel, (cell * size).to(rel).expand_as(rel)], -1)
        key, value = sample(local, moved), sample(value_map, moved)
        key = key * model.imnet_k.layers(torch.cat([key, place], -1))
        values.append(value * model.imnet_v.layers(torch.cat([value, place], -1)))
        scores.append((query * key).sum(-1))
    share = torch.softmax(torch.stack(scores), 0)
    colors = model.imnet_q.layers(sum(value * weight[..., None] for value, weight in zip(values, share, strict=True)))
    skip = F.interpolate(lr, out_size, mode="bilinear", align_corners=False)
    return colors.transpose(1, 2).unflatten(2, out_size) + skip
