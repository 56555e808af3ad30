"""Bicubic upsampling: the yardstick, and the interface at its smallest."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.base import SRMethod
from methods.resampling import taps


class Bicubic(SRMethod):
    """Cubic convolution (Keys, IEEE TASSP 1981) as in BasicSR's `imresize`: mirrored borders, height first."""

    def encode(self, lr: Tensor) -> Tensor:
        return lr

    def render(
        self, feat: Tensor, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        rows = resample(feat.transpose(2, 3), out_size[0], scale[0]).transpose(2, 3)
        return resample(rows, out_size[1], scale[1])


def resample(x: Tensor, out_size: int, factor: float) -> Tensor:
    """Resample the last axis to `out_size` samples, `factor` of them per input sample."""
    taps_of = taps(x.shape[-1], out_size, factor, float32_positions=x.dtype != torch.float64)
    index, weight = (torch.from_numpy(array).to(x.device) for array in taps_of)
    pairs = zip(index.T, weight.to(x.dtype).T, strict=True)
    return sum((x[..., i] * w for i, w in pairs), start=x.new_zeros(()))
