"""Taps of MATLAB-style bicubic resampling along one axis: which input samples make an output sample, with what weights.

Everything that resizes by "bicubic" in the field's sense (LR making, the bicubic yardstick) is one sparse operator per
axis; the numpy and the torch code both build it from the two arrays that `taps` returns.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Border = Literal["symmetric", "edge"]
FloatArray = npt.NDArray[np.floating[Any]]
IndexArray = npt.NDArray[np.int64]


def taps(
    in_size: int, out_size: int, factor: float, border: Border = "symmetric", float32_positions: bool = False
) -> tuple[IndexArray, FloatArray]:
    """Return (index, weight), both (out_size, k): output i is `sum(weight[i] * signal[index[i]])`.

    Output i (counted from 0) lies at input position (i + 1/2) / factor - 1/2; when shrinking, the kernel is stretched
    by 1 / factor against aliasing. Weights of each output sum to 1. Any size from one sample works.

    Args:
        in_size: samples of the input.
        out_size: samples of the output; conventionally ceil(in_size * factor), fewer cut the result.
        factor: output samples per input sample, as given rather than recomputed from the sizes.
        border: what lies beyond the ends: `"symmetric"`, the mirrored signal with the end sample repeated (BasicSR),
            or `"edge"`, the end sample (MATLAB).
        float32_positions: compute in float32 as BasicSR does, which moves positions by up to 1e-4 of a sample;
            otherwise in float64. The weights have that type.
    """
    real = np.float32 if float32_positions else np.float64
    shrink = min(factor, 1.0)
    width = 4.0 / shrink
    # Positions are counted from 1, as in MATLAB: in float32 the result depends on the origin.
    number: FloatArray = np.arange(1, out_size + 1).astype(real)
    centre = number / factor + 0.5 * (1 - 1 / factor)
    first = np.floor(centre - width / 2)
    index = first[:, None] + np.arange(ceil(width) + 2).astype(real)
    weight = shrink * cubic((centre[:, None] - index) * shrink)
    weight /= weight.sum(axis=1, keepdims=True)
    used = np.any(weight != 0, axis=0)
    return _fold(index[:, used].astype(np.int64) - 1, in_size, border), weight[:, used]


def cubic(distance: FloatArray) -> FloatArray:
    """Cubic convolution kernel with a = -1/2 at distances in samples (Keys, IEEE TASSP 1981, equation 15)."""
    x = np.abs(distance)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0)).astype(x.dtype)


def _fold(index: IndexArray, size: int, border: Border) -> IndexArray:
    """Bring positions beyond [0, size) back inside; mirroring repeats as often as it must."""
    if border == "edge":
        return np.clip(index, 0, size - 1)
    index = index % (2 * size)
    return np.minimum(index, 2 * size - 1 - index)
