"""RDN, configuration B, without its upsampler (Zhang et al., CVPR 2018, arXiv 1802.08797).

Attributes bear the paper's names, which are also the keys of the official checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.encoders.edsr import conv3x3


class DenseLayer(nn.Module):
    """x and, as new channels behind it, ReLU(conv(x))."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv3x3(channels, growth), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], dim=1)


class DenseBlock(nn.Module):
    """Residual dense block: dense layers, fused by a 1x1 convolution (LFF, local feature fusion), plus the input."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))
        self.LFF = nn.Conv2d(channels + layers * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.LFF(self.convs(x))
        return out


class RDN(nn.Module):
    """(B, 3, h, w) to (B, channels, h, w) in the range that the method feeds."""

    def __init__(self, blocks: int = 16, layers: int = 8, growth: int = 64, channels: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.SFENet1 = conv3x3(3, channels)
        self.SFENet2 = conv3x3(channels, channels)
        self.RDBs = nn.ModuleList(DenseBlock(channels, growth, layers) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * channels, channels, 1), conv3x3(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)
        x = self.SFENet2(shallow)
        # The first fusion is a sum over blocks, so the 1024-channel concatenation of their outputs is never needed.
        fusion = cast(nn.Conv2d, self.GFF[0])
        fused = cast(Tensor, fusion.bias)[:, None, None]
        for block, weight in zip(self.RDBs, fusion.weight.chunk(len(self.RDBs), dim=1), strict=True):
            x = block(x)
            fused = fused + F.conv2d(x, weight)
        out: Tensor = self.GFF[1](fused) + shallow
        return out

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official keys are ours (LIIF's, LTE's and GSASR's agree), or mmediting's."""
        return {_from_mmediting(key): value for key, value in state.items()}

    def to_reference(
        self, state: Mapping[str, Tensor], style: Literal["liif", "mmediting"] = "liif"
    ) -> dict[str, Tensor]:
        """Our keys as official ones."""
        if style == "liif":
            return dict(state)
        return {_to_mmediting(key): value for key, value in state.items()}


def _from_mmediting(key: str) -> str:
    key = re.sub(r"^sfe([12])\.", r"SFENet\1.", key)
    key = re.sub(r"^rdbs\.(\d+)\.layers\.(\d+)\.conv\.", r"RDBs.\1.convs.\2.conv.0.", key)
    key = re.sub(r"^rdbs\.(\d+)\.lff\.", r"RDBs.\1.LFF.", key)
    return re.sub(r"^gff\.", "GFF.", key)


def _to_mmediting(key: str) -> str:
    key = re.sub(r"^SFENet([12])\.", r"sfe\1.", key)
    key = re.sub(r"^RDBs\.(\d+)\.convs\.(\d+)\.conv\.0\.", r"rdbs.\1.layers.\2.conv.", key)
    key = re.sub(r"^RDBs\.(\d+)\.LFF\.", r"rdbs.\1.lff.", key)
    return re.sub(r"^GFF\.", "gff.", key)
