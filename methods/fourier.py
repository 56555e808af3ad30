"""Local Fourier features: amplitudes and frequencies of a feature pixel, evaluated at an offset from it (LTE)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(coef: Tensor, freq: Tensor, rel: Tensor, phase: Tensor) -> Tensor:
    """coef * [cos(pi t), sin(pi t)] with t = freq_y rel_y + freq_x rel_x + phase (Lee and Jin, equation 5).

    Per query: amplitudes (N, 2 K), cosines' then sines'; frequencies (N, 2 K), those along y, then those along x;
    offsets (y, x) (N, 2), at least float32, the type that angles are computed in. phase: (K,). Returns (N, 2 K) in the
    type of `coef`.
    """
    freq_y, freq_x = freq.chunk(2, dim=-1)
    angle = torch.addcmul(phase.to(rel), freq_y.to(rel), rel[:, :1]).addcmul_(freq_x.to(rel), rel[:, 1:]).mul_(math.pi)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(coef).mul_(coef)


def halves(interleaved: Tensor) -> Tensor:
    """Reorder the first axis from (y, x, y, x, ...) to all y, then all x."""
    return torch.cat([interleaved[0::2], interleaved[1::2]])
