"""EDSR-baseline without its upsampler (Lim et al., CVPRW 2017, arXiv 1707.02921)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 3x3 convolution, stride 1, zero padding 1, with bias."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))): no batch norm, residual scale 1, no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(self.relu(self.conv1(x)))
        return out


class EDSR(nn.Module):
    """(B, 3, h, w) to (B, channels, h, w) in the range that the method feeds; no mean shift here.

    global_skip: whether the head's output is added to the tail's. The LIIF family does; GSASR's official code computes
    the sum and then returns the tail alone, so its checkpoints belong to the network without it.
    """

    def __init__(self, blocks: int = 16, channels: int = 64, global_skip: bool = True) -> None:
        super().__init__()
        self.channels, self.global_skip = channels, global_skip
        self.conv_first = conv3x3(3, channels)
        self.body = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.conv_after_body = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        head = self.conv_first(x)
        tail: Tensor = self.conv_after_body(self.body(head))
        return tail + head if self.global_skip else tail

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename official keys: the LIIF family's (`head.0`, `body.i.body.{0,2}`, mean shifts) or BasicSR's (ours)."""
        ours = {}
        for key, value in state.items():
            if key.startswith(("sub_mean.", "add_mean.")):
                continue  # stored by the LIIF family, called by nobody
            key = re.sub(r"^head\.0\.", "conv_first.", key)
            key = re.sub(rf"^body\.{len(self.body)}\.", "conv_after_body.", key)
            key = re.sub(r"^(body\.\d+)\.body\.([02])\.", lambda m: f"{m[1]}.conv{1 + int(m[2]) // 2}.", key)
            ours[key] = value
        return ours

    def to_reference(
        self, state: Mapping[str, Tensor], style: Literal["liif", "mmediting"] = "liif"
    ) -> dict[str, Tensor]:
        """Our keys as official ones, those of the LIIF family, or of mmediting, BasicSR and GSASR."""
        if style == "mmediting":
            return dict(state)
        theirs = {}
        for key, value in state.items():
            key = re.sub(r"^conv_first\.", "head.0.", key)
            key = re.sub(r"^conv_after_body\.", f"body.{len(self.body)}.", key)
            key = re.sub(r"^(body\.\d+)\.conv([12])\.", lambda m: f"{m[1]}.body.{2 * int(m[2]) - 2}.", key)
            theirs[key] = value
        return theirs
