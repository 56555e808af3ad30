"""Encoders without upsampling: (B, 3, h, w) to feature channels at the same resolution."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from methods.registry import encoder_spec

if TYPE_CHECKING:
    from torch import nn


def build_encoder(name: str, **hparams: Any) -> nn.Module:
    """Build the encoder called `name` with fresh weights; `hparams` override its registered ones.

    The module has `channels` (feature channels out) `from_reference` (official key names to
    its own) and `to_reference` (back).
    """
    spec = encoder_spec(name)
    module, _, attribute = spec.target.partition(":")
    encoder: nn.Module = getattr(import_module(module), attribute)(**{**spec.hparams, **hparams})
    return encoder
