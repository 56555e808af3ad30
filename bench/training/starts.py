"""Initial weights for short trainings.

From the layers' default initialisation a network first spends thousands of steps learning that the output resembles
the input. `interpolate` writes that knowledge into a few weights, over the defaults of all others: channels 0 to 2
carry the colours of the LR image from the encoder's head to the output. Nothing is frozen; training may undo it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from methods.base import SRMethod
from methods.names import resolve

RGB = range(3)
SIGMA = 0.3
"""GSASR's first sigma, in its units of 1 / 1.2 LR pixel: the spacing of the Gaussians."""
OWN_TOKEN = 8.0
"""Bias of GSASR's cross-attention towards a token's own position: e^8 against 143 others, 95 % of the weight."""


@torch.no_grad()
def interpolate(model: SRMethod) -> None:
    """Turn a fresh network into one whose output is about a linear interpolation of its input.

    Raises:
        UserError: there is no such start for this network.
    """
    starts: dict[str, Callable[[Any], None]] = {"LIIF": _liif, "GSASR": _gsasr}
    name = resolve(type(model).__name__, starts, "interpolating start")
    _encoder(model.encoder)
    starts[name](model)


def _encoder(encoder: Any) -> None:
    """The head copies the input, the tail adds nothing to it."""
    _copy(encoder.conv_first)
    _silence(encoder.conv_after_body)


def _liif(model: Any) -> None:
    """Every query returns the colour of its LR pixel, so that the local ensemble interpolates between pixels.

    Colours are in [-1, 1]; between the first and the last layer 1 is added, which ReLU lets pass.
    """
    first, *middle, last = (layer for layer in model.imnet.layers if isinstance(layer, nn.Linear))
    _silence(first)
    for c in RGB:
        first.weight[c, 9 * c + 4] = 1  # the centre of the unfolded 3x3 neighbourhood
        first.bias[c] = 1
    for layer in middle:
        _copy(layer)
    _copy(last)
    last.bias[:3] = -1


def _gsasr(model: Any) -> None:
    """Tokens receive the colour of their own LR pixel, which their Gaussians, as wide as their spacing, spread out."""
    _copy(model.img_feat_proj[0])
    _copy(model.img_feat_proj[2])
    model.gs_embedding[:, :3] = 0
    for block in model.window_crossattn_blocks:
        _silence(block.norm)
        _silence_residuals(block.blocks)
        _copy(block.mlp[0])
        _copy(block.mlp[2])
    attention = model.window_crossattn_blocks[0].blocks[0].window_cross_attn
    _copy(attention.vhead)
    _copy(attention.proj)
    attention.relative_position_bias_table[attention.relative_position_index[0, 0]] += OWN_TOKEN
    for block in model.gs_selfattn_blocks:
        _silence(block.mlp[2])
    for conv in (layer for layer in model.UPNet if isinstance(layer, nn.Conv2d)):
        _upsample(conv)
    _gaussian_heads(model)


def _gaussian_heads(model: Any) -> None:
    opacity = 1 / (16 * 2 * math.pi * (SIGMA / model.step) ** 2)
    head = model.mlp_block_rgb
    _copy(head[0])
    _copy(head[2])
    # Tokens hold injected + injected = 2 rgb; sigmoid(4 rgb - 2) is nearly straight.
    _copy(head[4], gain=2)
    head[4].bias[:] = -2
    model.mlp_block_sigma[4].bias[:] = _logit(SIGMA)
    model.mlp_block_alpha[4].bias[:] = _logit(opacity)


def _copy(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Outputs 0 to 2 are inputs 0 to 2 (of a convolution: at its centre)."""
    _silence(layer)
    for c in RGB:
        layer.weight[(c, c, *(n // 2 for n in layer.weight.shape[2:]))] = gain


def _silence(layer: nn.Module) -> None:
    """Outputs 0 to 2 are 0."""
    for parameter in layer.parameters():
        parameter[:3] = 0


def _silence_residuals(layers: Iterable[Any]) -> None:
    """No branch of these cross-attention layers adds to channels 0 to 2."""
    for layer in layers:
        _silence(layer.gs_cross_attn_scale.out_proj)
        _silence(layer.mlp_crossattn_scale.fc2)
        _silence(layer.window_cross_attn.proj)
        _silence(layer.mlp_crossattn_feature.fc2)


def _upsample(conv: nn.Conv2d) -> None:
    """Channels 0 to 2 after the pixel shuffle by 2 are upsampled linearly."""
    near = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
    kernels = torch.einsum("ay,bx->abyx", near, near).flatten(0, 1)
    for parameter in conv.parameters():
        parameter[:12] = 0
    for c in RGB:
        conv.weight[4 * c : 4 * c + 4, c] = kernels


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
