"""GSASR's interpolating start: Gaussians that sum to the LR image enlarged, up to its borders.

The network has no connection past it: all that is seen of the image comes through every layer. What an early step of
Adam does to the brightness of the output is therefore decisive, as a loss of absolute differences learns little else
until it is right. Where the same output can be had from weights that react less to such steps, these are taken.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from bench.training.layers import (
    RGB,
    carry_colours,
    copy,
    ignore_means,
    linear_kernels,
    logit,
    preserve,
    silence,
    zero,
)
from methods.gsasr.heads import HEADS

GREY = 0.45
"""About the mean of images. Colours are carried less this, so that the zeros around an image are grey."""
ONE = RGB
"""The channel of tokens that carries a constant, in which zeros around the image show its borders."""
SIDES = 4
"""Channels after the last upsampling that mark Gaussians at the left, right, upper and lower border, from `ONE` on."""
OWN_TOKEN = 10.0
"""Bias of the cross-attention towards a token's own position: e^10 against 143 others, 99 % of the weight."""
SHARPNESS = 0.25
"""Of the first enlargement, about as much as the Gaussians blur: the start is at the level of bicubic interpolation."""
WIDTH = 0.65
"""The first sigma over the spacing of the Gaussians, whose sum then exceeds 1 by 0.1 % at their centres. At whole
scales all pixels may lie there, which training at others does not see: the ripple is then an error of brightness."""
BORDER_OPACITY, BORDER_SHIFT = 1.48, 0.23
"""Gaussians at a border make up for those missing beyond it: opacity times the former, moved outwards by the latter in
cells. Least squares: their sum at a border is then 0.88, not 0.5, and from half a cell on 0.96 to 1.05."""
DARKEST = 0.002
"""The first colour of Gaussians where the image is black."""
LOUDNESS = 6.0
"""Colours are carried this many times as large up to the heads, and what reads them divides by it: the same output, but
what a step of Adam, as large as the learning rate, adds to the weights that carry them counts a sixth."""
GEOMETRY = 0.5
"""Gain of the hidden layers of the heads but colour's: a sigma that wavers by 1 % moves brightness by 2 %."""


@torch.no_grad()
def interpolate_gsasr(model: Any) -> None:
    """Tokens receive the features of their own LR pixel, and of these their Gaussians the colour, spread out.

    All embeddings are zero and their norm scales by zero, so that nothing but the first attention adds to tokens. (The
    norm would make noise as strong as the features of the smallest embedding; random embeddings are a pattern of the
    window's size.)
    """
    carry_colours(model.encoder)
    first = model.encoder.conv_first
    first.bias[RGB:] -= GREY * first.weight[RGB:].sum((1, 2, 3))
    heads = {name: getattr(model, f"mlp_block_{name}") for name in HEADS}
    blocks = list(model.window_crossattn_blocks)
    for layers in (model.img_feat_proj, *(block.mlp for block in blocks), *heads.values()):
        preserve(layers)
    _project_features(model.img_feat_proj)
    model.gs_embedding.zero_()
    for block in blocks:
        for layer in block.blocks:
            for last in (
                layer.gs_cross_attn_scale.out_proj,
                layer.mlp_crossattn_scale.fc2,
                layer.window_cross_attn.proj,
                layer.mlp_crossattn_feature.fc2,
            ):
                zero(last)
    first_block, *others = blocks
    first_block.norm.weight.zero_()
    _look_at_own_token(first_block.blocks[0].window_cross_attn)
    for layer in first_block.mlp[::2]:
        copy(layer, count=RGB + 1)
    first_block.mlp[2].bias[:RGB] = -GREY
    for block in (*others, *model.gs_selfattn_blocks):
        zero(block.mlp[2])
    _enlarge(model.UPNet)
    spacing = model.step / math.prod(factor for _, factor in _stages(model.UPNet))
    _set_geometry(heads, spacing)
    _invert_sigmoid(heads["rgb"])
    _amplify_colours(model)


def _project_features(layers: nn.Sequential) -> None:
    """Colours of the LR image, a one, and random features without a common mean."""
    inner, last = (cast(nn.Conv2d, layers[i]) for i in (0, 2))
    ignore_means(last)
    copy(inner)
    copy(last)
    silence(last, ONE, 1)
    cast(torch.Tensor, last.bias)[ONE] = 1


def _look_at_own_token(attention: Any) -> None:
    """Attention that returns the value at the query's own position."""
    for layer in (attention.vhead, attention.proj):
        zero(layer)
        layer.weight.fill_diagonal_(1)
    zero(attention.qhead)
    attention.relative_position_bias_table[attention.relative_position_index[0, 0]] += OWN_TOKEN


def _enlarge(up: nn.Sequential) -> None:
    """Colours are enlarged linearly, the first time sharpened; the one at last turns into marks of the borders."""
    for number, (conv, factor) in enumerate(_stages(up)):
        preserve([conv])
        ignore_means(conv)
        kept = RGB + (SIDES if conv is up[-2] else 1)
        silence(conv, 0, kept * factor**2)
        kernels = conv.weight[: kept * factor**2].view(kept, factor**2, *conv.weight.shape[1:])
        for c in range(RGB):
            kernels[c, :, c] = linear_kernels(factor, 0.0 if number else SHARPNESS)
        if conv is up[-2]:
            _mark_borders(kernels[ONE:, :, ONE].unflatten(1, (factor, factor)))
        else:
            kernels[ONE, :, ONE, 1, 1] = 1


def _stages(up: nn.Sequential) -> list[tuple[nn.Conv2d, int]]:
    """The convolution of each upsampling, and its factor."""
    return [(cast(nn.Conv2d, up[i]), cast(nn.PixelShuffle, up[i + 1]).upscale_factor) for i in range(0, len(up), 2)]


def _mark_borders(kernels: torch.Tensor) -> None:
    """Half the difference to the neighbour beyond, of tokens that hold 2 inside: 1 at a border, 0 elsewhere.

    kernels: (side, row, column, 3, 3), row and column those of a Gaussian within its token.
    """
    left, right, upper, lower = kernels
    for own, (dy, dx) in ((left[:, 0], (1, 0)), (right[:, -1], (1, 2)), (upper[0], (0, 1)), (lower[-1], (2, 1))):
        own[:, 1, 1], own[:, dy, dx] = 0.5, -0.5


def _set_geometry(heads: dict[str, Any], spacing: float) -> None:
    """Gaussians narrow enough to blur little, wide enough to leave no gaps, which sum to 1 where colours are 1."""
    for name in HEADS.keys() - {"rgb"}:
        heads[name][2].weight.mul_(GEOMETRY)
        zero(heads[name][4])
    for name in ("alpha", "mean"):  # the first hidden units know the borders
        copy(heads[name][0], source=ONE, count=SIDES)
        copy(heads[name][2], count=SIDES)
    opacity = 1 / (2 * math.pi * WIDTH**2)
    heads["sigma"][4].bias[:] = logit(WIDTH * spacing)
    heads["alpha"][4].bias[:] = logit(opacity)
    heads["alpha"][4].weight[0, :SIDES] = logit(BORDER_OPACITY * opacity) - logit(opacity)
    x, y = heads["mean"][4].weight
    x[:2] = y[2:SIDES] = torch.tensor([-BORDER_SHIFT, BORDER_SHIFT])


def _invert_sigmoid(head: nn.Sequential) -> None:
    """Hidden units make the logit of a colour, piecewise linear, so that the sigmoid returns the colour.

    One unit is the middle piece; the others bend it towards dark, for darker colours only, and towards bright.
    """
    first, second, last = (cast(nn.Linear, head[i]) for i in (0, 2, 4))
    copy(first, gain=0.5)  # tokens hold twice what was injected
    cast(torch.Tensor, first.bias)[:RGB] = GREY
    bends = min(10, (second.out_features // RGB - 1) // 2 * 2)
    knots = torch.cat([torch.zeros(1), torch.linspace(-4, 4, bends).sigmoid(), torch.ones(1)])
    slopes = knots.clamp(DARKEST, 1 - DARKEST).logit().diff() / knots.diff()
    inner, middle = knots[1:-1], slopes[bends // 2]
    side = (inner - 0.5).sign()
    zero(last)
    cast(torch.Tensor, last.bias)[:] = -middle / 2
    for c in range(RGB):
        units = slice(c * (1 + bends), (c + 1) * (1 + bends))
        silence(second, units.start, 1 + bends)
        second.weight[units, c] = torch.cat([torch.ones(1), side])
        cast(torch.Tensor, second.bias)[units] = torch.cat([torch.zeros(1), -side * inner])
        last.weight[c, units] = torch.cat([middle[None], slopes.diff()])


def _amplify_colours(model: Any) -> None:
    """Multiply the colours by `LOUDNESS` where they enter; undo it where they reach a head or are but looked at."""
    encoder, block = model.encoder, model.window_crossattn_blocks[0]
    attentions = [layer.window_cross_attn for layer in block.blocks]
    carriers = [*model.img_feat_proj[::2], attentions[0].vhead, attentions[0].proj, *block.mlp[::2]]
    spectators = [residual.conv1 for residual in encoder.body] + [encoder.conv_after_body]
    spectators += [attention.khead for attention in attentions] + [attention.vhead for attention in attentions[1:]]
    heads = [model.get_submodule(f"mlp_block_{name}")[0] for name in HEADS]
    for layer in (*carriers, *spectators, *model.UPNet[::2], *heads):
        layer.weight[:, :RGB] /= LOUDNESS
    for layer, pixels in (
        (encoder.conv_first, 1),
        *((layer, 1) for layer in carriers),
        *((conv, factor**2) for conv, factor in _stages(model.UPNet)),
    ):
        for parameter in layer.parameters():
            parameter[: RGB * pixels] *= LOUDNESS
