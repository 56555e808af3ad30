"""Initial weights for short trainings.

From the layers' default initialisation a network first spends thousands of steps learning that the output resembles
the input. `interpolate` writes that knowledge into a few weights, over the defaults of all others. Nothing is frozen;
training may undo it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from methods.base import SRMethod
from methods.encoders.edsr import EDSR
from methods.errors import UserError
from methods.gaussiansr import SPREAD
from methods.gsasr.heads import HEADS
from methods.names import resolve

RGB = range(3)
PASSES_GELU = 6.0
"""GELU is the identity within 1e-6 around it."""
WIDTH = 0.6
"""GSASR's first sigma over the spacing of the Gaussians, whose sum then ripples by 0.2 %."""
DARKEST = 0.005
"""The first colour of GSASR's Gaussians where the image is black."""
OWN_TOKEN = 10.0
"""Bias of GSASR's cross-attention towards a token's own position: e^10 against 143 others, 99 % of the weight."""


@torch.no_grad()
def interpolate(model: SRMethod) -> None:
    """Turn a fresh network into one whose output is about an interpolation of its input.

    Methods that add the image enlarged bilinearly start with nothing to add to it; of the others, whose decoders must
    make colours, channels of the encoder carry them there.

    Raises:
        UserError: there is no such start for this network.
    """
    starts: dict[str, Callable[[Any], None]] = {
        "MetaSR": _metasr,
        "LIIF": _liif,
        "LTE": _nothing_to_add,
        "SRNO": _nothing_to_add,
        "LINF": _nothing_to_add,
        "LMLTE": _nothing_to_add,
        "LMCiaoSR": _nothing_to_add,
        "CiaoSR": _nothing_to_add,
        "GaussianSR": _gaussiansr,
        "GSASR": _gsasr,
    }
    name = resolve(type(model).__name__, starts, "interpolating start")
    if not isinstance(model.encoder, EDSR):
        kind = type(model.encoder).__name__
        raise UserError(f'The interpolating start needs an EDSR encoder, not {kind}: set start = "default".')
    starts[name](model)


def _carry_colours(encoder: Any, first: int = 0) -> None:
    """Three channels of the encoder are the colours of the LR image: the head copies them, the tail adds nothing."""
    _copy(encoder.conv_first, to=first)
    _silence(encoder.conv_after_body, first)


def _nothing_to_add(model: Any) -> None:
    """The last layer gives zeros, as LINF's flow makes of zero shifts."""
    last = {"SRNO": "fc2", "LINF": "layers", "LMCiaoSR": "imnet_q", "CiaoSR": "imnet_q"}
    module = getattr(model, last.get(type(model).__name__, "imnet"))
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    _zero(layers[-1])
    if hasattr(model, "imnet_v"):  # CiaoSR's and LM-CiaoSR's factor of the features, nearly 0 otherwise
        model.imnet_v.layers[-1].bias.fill_(1)


def _metasr(model: Any) -> None:
    """All filters copy the LR pixel that an output pixel lies in."""
    _carry_colours(model.encoder)
    last = model.imnet.layers[-1]
    last.weight.zero_()
    last.bias.zero_()
    kernel = last.bias.view(model.channels, 3, 3, 3)
    for c in RGB:
        kernel[c, 1, 1, c] = 1


def _liif(model: Any) -> None:
    """Every query returns the colour of its LR pixel, so that the local ensemble interpolates between pixels.

    Colours are in [-1, 1]; between the first and the last layer 1 is added, which ReLU lets pass.
    """
    _carry_colours(model.encoder)
    first, *middle, last = (layer for layer in model.imnet.layers if isinstance(layer, nn.Linear))
    _silence(first)
    for c in RGB:
        first.weight[c, 9 * c + 4] = 1  # the centre of the unfolded 3x3 neighbourhood
        first.bias[c] = 1
    for layer in middle:
        _copy(layer)
    _copy(last)
    last.bias[:3] = -1


def _gaussiansr(model: Any) -> None:
    """Three of the channels that are enlarged bicubically are amplitudes of waves of frequency 0, and the colours.

    Between the waves and the output a number is added that GELU lets pass.
    """
    _carry_colours(model.encoder, SPREAD)
    _copy(model.coef, source=SPREAD)
    model.coef.bias[:3] = PASSES_GELU
    for parameter in model.freq.parameters():
        parameter[:6] = 0  # y and x of three waves
    model.phase.weight[:3] = 0
    *hidden, last = (layer for layer in model.dec.layers if isinstance(layer, nn.Linear))
    for layer in hidden:
        _copy(layer)
    _copy(last)
    last.bias[:3] = -PASSES_GELU


def _gsasr(model: Any) -> None:
    """Tokens receive the features of their own LR pixel, and of these their Gaussians the colour, spread out.

    All embeddings are zero, and nothing but the first attention adds to them. (Random embeddings would be a pattern of
    the window's size, much stronger than the features.) Gaussians are as wide as their spacing.
    """
    _carry_colours(model.encoder)
    heads = [getattr(model, f"mlp_block_{name}") for name in HEADS]
    blocks = list(model.window_crossattn_blocks)
    for layers in (model.img_feat_proj, *(block.mlp for block in blocks), *heads):
        _preserve(layers)
    for conv in model.UPNet[::2]:
        _preserve([conv])
    _copy(model.img_feat_proj[0])
    _copy(model.img_feat_proj[2])
    model.gs_embedding.zero_()
    for block in model.window_crossattn_blocks:
        for layer in block.blocks:
            for last in (
                layer.gs_cross_attn_scale.out_proj,
                layer.mlp_crossattn_scale.fc2,
                layer.window_cross_attn.proj,
                layer.mlp_crossattn_feature.fc2,
            ):
                _zero(last)
        _copy(block.mlp[0])
        _copy(block.mlp[2])
    attention = model.window_crossattn_blocks[0].blocks[0].window_cross_attn
    for layer in (attention.vhead, attention.proj):
        _zero(layer)
        layer.weight.fill_diagonal_(1)
    _zero(attention.qhead)
    attention.relative_position_bias_table[attention.relative_position_index[0, 0]] += OWN_TOKEN
    for block in model.gs_selfattn_blocks:
        _zero(block.mlp[2])
    for conv, shuffle in zip(model.UPNet[::2], model.UPNet[1::2], strict=True):
        _upsample(conv, shuffle.upscale_factor)
    _gaussian_heads(model)


def _gaussian_heads(model: Any) -> None:
    """Gaussians narrow enough to blur little, wide enough to leave no gaps, which sum to 1 where colours are 1."""
    spacing = model.step / math.prod(layer.upscale_factor for layer in model.UPNet[1::2])
    for name in ("sigma", "rho", "alpha", "mean"):
        _zero(getattr(model, f"mlp_block_{name}")[4])
    model.mlp_block_sigma[4].bias[:] = _logit(WIDTH * spacing)
    model.mlp_block_alpha[4].bias[:] = _logit(1 / (2 * math.pi * WIDTH**2))
    _invert_sigmoid(model.mlp_block_rgb)


def _invert_sigmoid(head: nn.Sequential) -> None:
    """Hidden units that bend at several levels make the logit of a colour, so that the sigmoid returns the colour."""
    first, second, last = (cast(nn.Linear, head[i]) for i in (0, 2, 4))
    _copy(first, gain=0.5)  # tokens hold injected + injected = 2 rgb
    count = min(12, second.out_features // 3)
    levels = torch.cat([torch.zeros(1), torch.linspace(-4, 4, count - 1).sigmoid()])
    values = levels.clamp(min=DARKEST).logit()
    slopes = values.diff() / levels.diff()
    bends = torch.cat([slopes[:1], slopes.diff()])
    _zero(last)
    last.bias[:] = values[0]
    for c in RGB:
        units = slice(c * (count - 1), (c + 1) * (count - 1))
        second.weight[units] = 0
        second.weight[units, c] = 1
        second.bias[units] = -levels[:-1]
        last.weight[c, units] = bends


def _copy(layer: nn.Linear | nn.Conv2d, gain: float = 1.0, *, source: int = 0, to: int = 0) -> None:
    """Three outputs, from `to` on, are three inputs, from `source` on (of a convolution: at its centre)."""
    _silence(layer, to)
    for c in RGB:
        layer.weight[(to + c, source + c, *(n // 2 for n in layer.weight.shape[2:]))] = gain


def _silence(layer: nn.Module, first: int = 0) -> None:
    """Three outputs are 0."""
    for parameter in layer.parameters():
        parameter[first : first + 3] = 0


def _preserve(layers: Iterable[nn.Module]) -> None:
    """Initial weights that keep the variance of what passes, where PyTorch's divide it by 3 to 6 per layer."""
    *inner, last = (layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d))
    for layer in inner:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    for layer in (*inner, last):
        nn.init.zeros_(cast(Tensor, layer.bias))


def _zero(layer: nn.Module) -> None:
    """All outputs are 0."""
    for parameter in layer.parameters():
        parameter.zero_()


def _upsample(conv: nn.Conv2d, factor: int) -> None:
    """Channels 0 to 2 after the pixel shuffle are enlarged linearly."""
    place = (torch.arange(factor) + 0.5) / factor - 0.5
    near = (1 - (place[:, None] - torch.arange(-1, 2)).abs()).clamp(min=0)
    kernels = torch.einsum("ay,bx->abyx", near, near).flatten(0, 1)
    count = factor**2
    for parameter in conv.parameters():
        parameter[: 3 * count] = 0
    for c in RGB:
        conv.weight[count * c : count * (c + 1), c] = kernels


def _logit(p: float) -> float:
    return math.log(p / (1 - p))
