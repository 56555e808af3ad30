"""From tokens to raw Gaussian parameters: UPNet and the five heads.

The official code holds the hidden layers of all Gaussians at once, 720 channels for each of 16 Gaussians per LR pixel.
Here the last convolution and the heads run over bands of rows, which changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from methods.encoders.edsr import conv3x3
from methods.grid import assemble

HEADS = {"sigma": 2, "rho": 1, "alpha": 1, "rgb": 3, "mean": 2}
"""Head name to number of parameters, in the order of the raw columns."""
BUDGET = 2**22
"""Floats of the heads' joint first layer to hold by default: 16 MiB stay near the caches."""
TRAINED = 512
"""Tokens at a time in training, whose hidden layers fit the cache of a CPU core."""


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
    first, *others = ([cast(nn.Linear, h[i]) for h in heads] for i in (0, 2, 4))
    joint = torch.cat([layer.weight for layer in first]), torch.cat([layer.bias for layer in first])
    layers = [*joint, *(value for pair in zip(*others, strict=True) for layer in pair for value in layer.parameters())]
    if torch.is_grad_enabled():
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        raw: Tensor = _DifferentiableHeads.apply(tokens.to(kind), *(value.to(kind) for value in layers))
    else:
        raw = torch.cat([out for _, _, out in _hidden(tokens, layers)], dim=-1)
    return raw.view(batch, rows, columns, -1)


def _hidden(tokens: Tensor, layers: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each head, the units of both hidden layers and the result, for tokens (N, C)."""
    heads = [layers[start : start + 4] for start in range(2, len(layers), 4)]
    first = F.relu_(F.linear(tokens, *layers[:2]))
    for own, (weight, bias, last_weight, last_bias) in zip(first.chunk(len(heads), dim=-1), heads, strict=True):
        second = F.relu_(F.linear(own, weight, bias))
        yield own, second, F.linear(second, last_weight, last_bias)


class _DifferentiableHeads(torch.autograd.Function):
    """The heads without keeping hidden layers for the backward pass, which computes them again, some tokens at a time.

    Inputs: tokens (N, C); weight and bias of the joint first layer; those of the second and of the last layer, head by
    head.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, *layers: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, *layers)
        parts = (torch.cat([out for _, _, out in _hidden(some, layers)], -1) for some in tokens.split(TRAINED))
        return assemble(parts, len(tokens))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        tokens, *layers = ctx.saved_tensors
        grads = [torch.zeros_like(layer) for layer in layers]
        grad_tokens = torch.empty_like(tokens)
        widths = [len(layer) for layer in layers[5::4]]
        for start in range(0, len(tokens), TRAINED):
            rows = slice(start, start + TRAINED)
            first = tokens.new_empty(len(tokens[rows]), len(layers[0]))
            outputs = grad[rows].split(widths, dim=-1)
            parts = first.chunk(len(widths), dim=-1)
            for i, ((own, second, _), out, part) in enumerate(
                zip(_hidden(tokens[rows], layers), outputs, parts, strict=True)
            ):
                weight, _, last, _ = layers[2 + 4 * i : 6 + 4 * i]
                of_weight, of_bias, of_last, of_last_bias = grads[2 + 4 * i : 6 + 4 * i]
                of_last.addmm_(out.t(), second)
                of_last_bias += out.sum(0)
                inner = _through_relu(out @ last, second)
                of_weight.addmm_(inner.t(), own)
                of_bias += inner.sum(0)
                part.copy_(_through_relu(inner @ weight, own))
            grads[0].addmm_(first.t(), tokens[rows])
            grads[1] += first.sum(0)
            torch.mm(first, layers[0], out=grad_tokens[rows])
        return grad_tokens, *grads


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
