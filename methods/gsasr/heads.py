"""From tokens to raw Gaussian parameters: UPNet and the five heads.

The official code holds the hidden layers of all Gaussians at once, 720 channels for each of 16 Gaussians per LR pixel.
Here the last convolution and the heads run over bands of rows, which changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.encoders.edsr import conv3x3
from methods.grid import assemble

HEADS = {"sigma": 2, "rho": 1, "alpha": 1, "rgb": 3, "mean": 2}
"""Head name to number of parameters, in the order of the raw columns."""
BUDGET = 2**22
"""Floats of the heads' joint first layer to hold by default: 16 MiB stay near the caches, good for training too."""


def up_net(channels: int, factors: Sequence[int]) -> nn.Sequential:
    """Per factor one 3x3 convolution and a pixel shuffle, without activations: (B, C, h, w) to (B, C, f h, f w)."""
    layers: list[nn.Module] = []
    for factor in factors:
        layers += [conv3x3(channels, channels * factor**2), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers)


def head(channels: int, ratio: int, parameters: int) -> nn.Sequential:
    """The perceptron that predicts one kind of parameter; the middle layer is `ratio` times as wide as the tokens."""
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, ratio * channels),
        nn.ReLU(inplace=True),
        nn.Linear(ratio * channels, parameters),
    )


def predict(tokens: Tensor, up: nn.Sequential, heads: Sequence[nn.Sequential], chunk: int | None = None) -> Tensor:
    """Raw parameters (B, rows columns, 9) of the Gaussians that `up` makes of tokens (B, C, h, w), row-major.

    In float32 at least. chunk: how many Gaussians to hold hidden layers for; None: as many as `BUDGET` allows.
    """
    for layer in up[:-2]:
        tokens = layer(tokens)
    conv, shuffle = cast(nn.Conv2d, up[-2]), cast(nn.PixelShuffle, up[-1])
    batch, channels, height, width = tokens.shape
    chunk = chunk or BUDGET // (len(heads) * channels)
    rows = max(1, chunk // (batch * width * shuffle.upscale_factor**2))
    padded = F.pad(tokens, (1, 1, 1, 1))
    bands = (
        _run_heads(shuffle(F.conv2d(padded[:, :, top : top + rows + 2], conv.weight, conv.bias)), heads)
        for top in range(0, height, rows)
    )
    return _place(assemble(bands, height * shuffle.upscale_factor, dim=1)).flatten(1, 2)


def _run_heads(x: Tensor, heads: Sequence[nn.Sequential]) -> Tensor:
    """(B, C, rows, columns) to (B, rows, columns, 9); the heads' first layers are one matrix product."""
    batch, channels, rows, columns = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(-1, channels)
    first = [cast(nn.Linear, h[0]) for h in heads]
    weight, bias = torch.cat([layer.weight for layer in first]), torch.cat([layer.bias for layer in first])
    hidden = F.relu_(F.linear(tokens, weight, bias)).chunk(len(heads), dim=-1)
    raw = torch.cat([h[2:](part) for h, part in zip(heads, hidden, strict=True)], dim=-1)
    return raw.view(batch, rows, columns, -1)


def _place(raw: Tensor) -> Tensor:
    """Turn the last two columns of (B, rows, columns, 9), offsets x, y in Gaussian cells, into [0, 1] of the image.

    In float32 at least: 16 bits would misplace Gaussians by several pixels.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    rows, columns = raw.shape[1:3]
    y, x = (torch.arange(n, dtype=raw.dtype, device=raw.device) + 0.5 for n in (rows, columns))
    cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    means = (raw[..., -2:] + cells) / raw.new_tensor([columns, rows])
    return torch.cat([raw[..., :-2], means], dim=-1)
