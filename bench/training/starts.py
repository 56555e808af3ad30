"""Initial weights for short trainings.

From the layers' default initialisation a network first spends thousands of steps learning that the output resembles
the input. `interpolate` writes that knowledge into a few weights, over the defaults of all others. Nothing is frozen;
training may undo it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.training.gsasr_start import interpolate_gsasr
from bench.training.layers import RGB, carry_colours, copy, silence, zero
from methods.base import SRMethod
from methods.encoders.edsr import EDSR
from methods.errors import UserError
from methods.gaussiansr import SPREAD
from methods.names import resolve

PASSES_GELU = 6.0
"""GELU is the identity within 1e-6 around it."""


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
        "GSASR": interpolate_gsasr,
    }
    name = resolve(type(model).__name__, starts, "interpolating start")
    if not isinstance(model.encoder, EDSR):
        kind = type(model.encoder).__name__
        raise UserError(f'The interpolating start needs an EDSR encoder, not {kind}: set start = "default".')
    starts[name](model)


def _nothing_to_add(model: Any) -> None:
    """The last layer gives zeros, as LINF's flow makes of zero shifts."""
    last = {"SRNO": "fc2", "LINF": "layers", "LMCiaoSR": "imnet_q", "CiaoSR": "imnet_q"}
    module = getattr(model, last.get(type(model).__name__, "imnet"))
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    zero(layers[-1])
    if hasattr(model, "imnet_v"):  # CiaoSR's and LM-CiaoSR's factor of the features, nearly 0 otherwise
        model.imnet_v.layers[-1].bias.fill_(1)


def _metasr(model: Any) -> None:
    """All filters copy the LR pixel that an output pixel lies in."""
    carry_colours(model.encoder)
    last = model.imnet.layers[-1]
    last.weight.zero_()
    last.bias.zero_()
    kernel = last.bias.view(model.channels, 3, 3, 3)
    for c in range(RGB):
        kernel[c, 1, 1, c] = 1


def _liif(model: Any) -> None:
    """Every query returns the colour of its LR pixel, so that the local ensemble interpolates between pixels.

    Colours are in [-1, 1]; between the first and the last layer 1 is added, which ReLU lets pass.
    """
    carry_colours(model.encoder)
    first, *middle, last = (layer for layer in model.imnet.layers if isinstance(layer, nn.Linear))
    silence(first)
    for c in range(RGB):
        first.weight[c, 9 * c + 4] = 1  # the centre of the unfolded 3x3 neighbourhood
        first.bias[c] = 1
    for layer in middle:
        copy(layer)
    copy(last)
    last.bias[:RGB] = -1


def _gaussiansr(model: Any) -> None:
    """Three of the channels that are enlarged bicubically are amplitudes of waves of frequency 0, and the colours.

    Between the waves and the output a number is added that GELU lets pass.
    """
    carry_colours(model.encoder, SPREAD)
    copy(model.coef, source=SPREAD)
    model.coef.bias[:RGB] = PASSES_GELU
    for parameter in model.freq.parameters():
        parameter[:6] = 0  # y and x of three waves
    model.phase.weight[:RGB] = 0
    *hidden, last = (layer for layer in model.dec.layers if isinstance(layer, nn.Linear))
    for layer in hidden:
        copy(layer)
    copy(last)
    last.bias[:RGB] = -PASSES_GELU
