"""Weights set by hand, for starts that already interpolate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

RGB = 3
"""Colours, the first channels of what carries them."""


def carry_colours(encoder: Any, first: int = 0) -> None:
    """Three channels of the encoder are the colours of the LR image: the head copies them, the tail adds nothing."""
    copy(encoder.conv_first, to=first)
    silence(encoder.conv_after_body, first)


def copy(layer: nn.Linear | nn.Conv2d, gain: float = 1.0, *, source: int = 0, to: int = 0, count: int = RGB) -> None:
    """`count` outputs, from `to` on, are inputs, from `source` on (of a convolution: at its centre)."""
    silence(layer, to, count)
    for c in range(count):
        layer.weight[(to + c, source + c, *(n // 2 for n in layer.weight.shape[2:]))] = gain


def silence(layer: nn.Module, first: int = 0, count: int = RGB) -> None:
    """`count` outputs are 0."""
    for parameter in layer.parameters():
        parameter[first : first + count] = 0


def zero(layer: nn.Module) -> None:
    """All outputs are 0."""
    for parameter in layer.parameters():
        parameter.zero_()


def preserve(layers: Iterable[nn.Module]) -> None:
    """Initial weights that keep the variance of what passes, where PyTorch's divide it by 3 to 6 per layer."""
    *inner, last = (layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d))
    for layer in inner:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    for layer in (*inner, last):
        nn.init.zeros_(cast(Tensor, layer.bias))


def ignore_means(layer: nn.Linear | nn.Conv2d) -> None:
    """Outputs do not see what all inputs have in common, as ReLU's outputs have a positive mean."""
    layer.weight -= layer.weight.flatten(1).mean(1).view(-1, *[1] * (layer.weight.ndim - 1))


def linear_kernels(factor: int, sharpness: float = 0.0) -> Tensor:
    """3x3 kernels (factor^2, 3, 3) of a linear enlargement, one per pixel of what a pixel becomes, row-major.

    sharpness: how much of each axis's second difference to take away, against a blur that follows.
    """
    place = (torch.arange(factor) + 0.5) / factor - 0.5
    near = (1 - (place[:, None] - torch.arange(-1, 2)).abs()).clamp(min=0)
    near = near + sharpness * torch.tensor([-1, 2, -1])
    return torch.einsum("ay,bx->abyx", near, near).flatten(0, 1)


def logit(p: float) -> float:
    """What the sigmoid makes p of."""
    return math.log(p / (1 - p))
