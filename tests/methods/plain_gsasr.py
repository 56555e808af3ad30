"""GSASR as described: full attention to copies of the scale, embeddings in every window, everything held at once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CASES = Path(__file__).parents[1] / "parity" / "gsasr"
WINDOW = 12
SHIFT = -6
CROSS_INDEX = torch.from_numpy(np.load(CASES / "edsr_x2.npz")["cross_attn_index"]).long()
SELF_INDEX = torch.tensor(
    [
        [23 * (qy - ky + 11) + (qx - kx + 11) for ky in range(12) for kx in range(12)]
        for qy in range(12)
        for qx in range(12)
    ]
)


def reference_shapes(case):
    return {key: tuple(shape) for key, shape in json.loads((CASES / f"{case}.json").read_text())["state_dict"].items()}


class Part:
    """Entries of a state dict under a prefix, by the layers' kinds."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def __getitem__(self, name):
        return Part(self.state, f"{self.prefix}{name}.")

    def get(self, name):
        return self.state[self.prefix + name]

    def count(self):
        return len({k[len(self.prefix) :].split(".")[0] for k in self.state if k.startswith(self.prefix)})

    def linear(self, x):
        return F.linear(x, self.get("weight"), self.get("bias"))

    def conv(self, x):
        return F.conv2d(x, self.get("weight"), self.get("bias"), padding=1)

    def norm(self, x):
        return F.layer_norm(x, x.shape[-1:], self.get("weight"), self.get("bias"))

    def mlp(self, x, *names):
        for name in names[:-1]:
            x = self[name].linear(x).relu()
        return self[names[-1]].linear(x)


def cut(x):
    """(B, h, w, C) to (B nw, 144, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW**2, c)


def join(x, h, w):
    x = x.reshape(-1, h // WINDOW, w // WINDOW, WINDOW, WINDOW, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, x.shape[-1])


def scale_attention(part, query, scale, heads):
    """torch's multi-head attention to 144 copies of the scale embedding."""
    module = torch.nn.MultiheadAttention(query.shape[-1], heads, batch_first=True, dtype=query.dtype)
    keys = scale[:, None].expand(-1, WINDOW**2, -1)
    names = dict(module.named_parameters())
    weights = {name: part.get(name) for name in names}
    return torch.func.functional_call(module, weights, (query, keys, keys), {"need_weights": False})[0]


def window_attention(part, queries, others, index, heads):
    def split(name, x):
        return part[name].linear(x).unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = split("qhead", queries), split("khead", others), split("vhead", others)
    bias = part.get("relative_position_bias_table")[index.flatten()].reshape(144, 144, heads).permute(2, 0, 1)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1)
    return part["proj"].linear((weights @ v).transpose(1, 2).flatten(2))


def cross_layer(part, x, position, scale, features, heads, shifted):
    x = x + scale_attention(part["gs_cross_attn_scale"], part["norm1"].norm(x) + position, scale, heads)
    x = x + part["mlp_crossattn_scale"].mlp(part["norm2"].norm(x), "fc1", "fc2")
    keys = cut(features.roll((SHIFT, SHIFT), (1, 2)) if shifted else features)
    queries = part["norm3"].norm(x) + position
    x = x + window_attention(part["window_cross_attn"], queries, keys, CROSS_INDEX, heads)
    return x + part["mlp_crossattn_feature"].mlp(part["norm4"].norm(x), "fc1", "fc2")


def self_layer(part, x, position, scale, heads, size, shifted):
    x = x + scale_attention(part["gs_cross_attn_scale"], part["norm3"].norm(x) + position, scale, heads)
    x = x + part["mlp_crossattn"].mlp(part["norm4"].norm(x), "fc1", "fc2")
    y = join(part["norm1"].norm(x), *size)
    y = cut(y.roll((SHIFT, SHIFT), (1, 2)) if shifted else y)
    y = join(window_attention(part["gs_self_attn"], y, y, SELF_INDEX, heads), *size)
    x = x + cut(y.roll((-SHIFT, -SHIFT), (1, 2)) if shifted else y)
    return x + part["mlp_selfattn"].mlp(part["norm2"].norm(x), "fc1", "fc2")


def plain_gaussians(state, encoded, scale, heads):
    """Raw Gaussians (B, 16 h w, 9) from the encoder's features (B, C, h, w)."""
    part = Part(state)
    batch, _, h, w = encoded.shape
    windows = (h // WINDOW) * (w // WINDOW)
    inverse = torch.full((batch, 1), 1 / scale, dtype=encoded.dtype)
    embedding = part["scale_mlp"].mlp(inverse, "0", "2").repeat_interleave(windows, 0)
    features = part["img_feat_proj"]["2"].conv(part["img_feat_proj"]["0"].conv(encoded).relu()).permute(0, 2, 3, 1)
    x = part.get("gs_embedding").repeat(batch * windows, 1, 1)
    position = part.get("pos_embedding").repeat(batch * windows, 1, 1)
    for b in range(part["window_crossattn_blocks"].count()):
        block = part["window_crossattn_blocks"][b]
        y = block["norm"].norm(x)
        for i in range(block["blocks"].count()):
            y = cross_layer(block["blocks"][i], y, position, embedding, features, heads, i % 2 == 1)
        x = x + block["mlp"].mlp(y, "0", "2")
    residual = x
    for b in range(part["gs_selfattn_blocks"].count()):
        block = part["gs_selfattn_blocks"][b]
        y = block["norm"].norm(x)
        for i in range(block["blocks"].count()):
            y = self_layer(block["blocks"][i], y, position, embedding, heads, (h, w), i % 2 == 1)
        x = x + block["mlp"].mlp(y, "0", "2")
    image = join(x + residual, h, w).permute(0, 3, 1, 2)
    for name in ("0", "2"):
        image = F.pixel_shuffle(part["UPNet"][name].conv(image), 2)
    tokens = image.permute(0, 2, 3, 1).flatten(1, 2)
    raw = {n: part[f"mlp_block_{n}"].mlp(tokens, "0", "2", "4") for n in ("sigma", "rho", "alpha", "rgb", "mean")}
    cells = [[(j + 0.5) / (4 * w), (i + 0.5) / (4 * h)] for i in range(4 * h) for j in range(4 * w)]
    raw["mean"] = raw["mean"] / torch.tensor([4 * w, 4 * h]) + torch.tensor(cells, dtype=encoded.dtype)
    return torch.cat(list(raw.values()), -1)


def plain_render(raw, canvas, scale, dmax):
    """The official drawing, in units where the first and the last pixel centre are -1 and 1, on the whole canvas."""
    height, width = canvas
    step = 1.2 / scale
    sigma_x = (0.99999 * raw[..., 1].sigmoid() + 1e-6) * 2 / (step * (width - 1))
    sigma_y = (0.99999 * raw[..., 0].sigmoid() + 1e-6) * 2 / (step * (height - 1))
    rho = 0.999999 * raw[..., 2].tanh()
    color = raw[..., 4:7].sigmoid() * raw[..., 3:4].sigmoid()
    x = (2 * raw[..., 7] - 1 / width) * width / (width - 1) - 1
    y = (2 * raw[..., 8] - 1 / height) * height / (height - 1) - 1
    grid_x = 2 * torch.arange(width, dtype=raw.dtype) / (width - 1) - 1
    grid_y = 2 * torch.arange(height, dtype=raw.dtype) / (height - 1) - 1
    dx, dy = (grid_x - x[..., None])[..., None, :], (grid_y - y[..., None])[..., None]
    sx, sy, r = sigma_x[..., None, None], sigma_y[..., None, None], rho[..., None, None]
    weight = torch.exp(-(dx**2 / sx**2 - 2 * r * dx * dy / (sx * sy) + dy**2 / sy**2) / (2 * (1 - r**2)))
    weight = weight * ((dx.abs() <= dmax) & (dy.abs() <= dmax))
    return torch.einsum("bnhw,bnc->bchw", weight, color)
