"""From tokens to raw Gaussian parameters: UPNet and the five heads.

The official code holds the hidden layers of all Gaussians at once, 720 channels for each of 16 Gaussians per LR pixel.
Here the last convolution and the heads run over bands of rows, which changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from methods.encoders.edsr import conv3x3
from methods.grid import assemble

HEADS = {"sigma": 2, "rho": 1, "alpha": 1, "rgb": 3, "mean": 2}
"""Head name to number of parameters, in the order of the raw columns."""
BUDGET = 2**22
"""Floats of the heads' joint first layer to hold by default: 16 MiB stay near the caches."""
TRAINED = 512
"""Tokens at a time in training, whose hidden layers fit the cache of a CPU core."""
KEPT = 2**23
"""Units of the second layers, above which the backward pass computes the hidden layers again: these are 32 MiB."""


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


def predict(
    tokens: Tensor,
    up: nn.Sequential,
    heads: Sequence[nn.Sequential],
    chunk: int | None = None,
    *,
    reference_positions: bool = True,
) -> Tensor:
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
    raw = assemble(bands, height * shuffle.upscale_factor, dim=1)
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # 16 bits would misplace Gaussians by several pixels
    return (_place(raw) if reference_positions else raw).flatten(1, 2)


def _run_heads(x: Tensor, heads: Sequence[nn.Sequential]) -> Tensor:
    """(B, C, rows, columns) to (B, rows, columns, 9); the heads' first layers are one matrix product."""
    batch, channels, rows, columns = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(-1, channels)
    first, second, last = ([cast(nn.Linear, h[i]) for h in heads] for i in (0, 2, 4))
    joint = torch.cat([layer.weight for layer in first]), torch.cat([layer.bias for layer in first])
    if torch.is_grad_enabled():
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        layers = *joint, *_stacked(second), *_stacked(last)
        padded = _DifferentiableHeads.apply(tokens.to(kind), *(value.to(kind) for value in layers))
        raw = torch.cat([out[:, : layer.out_features] for out, layer in zip(padded, last, strict=True)], dim=-1)
    else:
        units = F.relu_(F.linear(tokens, *joint)).chunk(len(heads), dim=-1)
        raw = torch.cat([h[4](F.relu_(h[2](own))) for h, own in zip(heads, units, strict=True)], dim=-1)
    return raw.view(batch, rows, columns, -1)


def _stacked(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """One layer of all heads: weights (heads, out, in), biases (heads, 1, out), zeros where a head has fewer rows."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers]
    return pad_sequence(weights, batch_first=True), pad_sequence(biases, batch_first=True)[:, None]


def _hidden(tokens: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> list[Tensor]:
    """Units of the joint first layer (N, heads C), and of the second layers (heads, N, ratio C)."""
    units = F.relu_(F.linear(tokens, first, first_bias))
    return [units, F.relu_(torch.baddbmm(second_bias, _by_head(units, len(second)), second.mT))]


def _by_head(units: Tensor, heads: int) -> Tensor:
    """(N, heads C) to (heads, N, C)."""
    return units.view(len(units), heads, -1).transpose(0, 1)


class _DifferentiableHeads(torch.autograd.Function):
    """The heads, some tokens at a time, that keep small hidden layers for the backward pass and compute others again.

    Inputs: tokens (N, C); weight and bias of the joint first layer; those of the second and of the last layer, stacked.
    Output: (heads, N, most parameters).
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *layers: Tensor) -> Tensor:
        first, first_bias, second, second_bias, last, last_bias = layers
        out = tokens.new_empty(len(last), len(tokens), last.shape[1])
        kept = []
        for some, part in zip(tokens.split(TRAINED), out.split(TRAINED, dim=1), strict=True):
            hidden = _hidden(some, first, first_bias, second, second_bias)
            torch.baddbmm(last_bias, hidden[1], last.mT, out=part)
            if len(tokens) * second_bias.numel() <= KEPT:
                kept += hidden
        ctx.save_for_backward(tokens, *layers, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        tokens, first, first_bias, second, second_bias, last, _, *kept = ctx.saved_tensors
        of_tokens, of_first, of_first_bias, of_second, of_second_bias, of_last = (
            torch.zeros_like(x) for x in (tokens, first, first_bias, second, second_bias, last)
        )
        parts = zip(*(x.split(TRAINED, -2) for x in (tokens, grad, of_tokens)), strict=True)
        for i, (some, out, of_some) in enumerate(parts):
            units, inner = kept[2 * i : 2 * i + 2] or _hidden(some, first, first_bias, second, second_bias)
            own = _by_head(units, len(second))
            of_last.baddbmm_(out.mT, inner)
            of_inner = _through_relu(out @ last, inner)
            of_second.baddbmm_(of_inner.mT, own)
            of_second_bias += of_inner.sum(1, keepdim=True)
            of_units = _through_relu((of_inner @ second).transpose(0, 1).flatten(1), units)
            of_first.addmm_(of_units.t(), some)
            of_first_bias += of_units.sum(0)
            torch.mm(of_units, first, out=of_some)
        return of_tokens, of_first, of_first_bias, of_second, of_second_bias, of_last, grad.sum(1, keepdim=True)


def _through_relu(grad: Tensor, units: Tensor) -> Tensor:
    """The gradient before a ReLU, given that of its units, which is overwritten."""
    found: Tensor = torch.ops.aten.threshold_backward.grad_input(grad, units, 0, grad_input=grad)
    return found


def _place(raw: Tensor) -> Tensor:
    """Turn the last two columns of (B, rows, columns, 9), offsets x, y in Gaussian cells, into [0, 1] of the image."""
    rows, columns = raw.shape[1:3]
    y, x = (torch.arange(n, dtype=raw.dtype, device=raw.device) + 0.5 for n in (rows, columns))
    cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    means = (raw[..., -2:] + cells) / raw.new_tensor([columns, rows])
    return torch.cat([raw[..., :-2], means], dim=-1)
