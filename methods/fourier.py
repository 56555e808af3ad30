"""Local Fourier features: amplitudes and frequencies of a feature pixel, evaluated at an offset from it (LTE).

coef * [cos(pi t), sin(pi t)] with t = freq_y rel_y + freq_x rel_x + phase (Lee and Jin, equation 5). Amplitudes hold
the cosines' before the sines', frequencies those along y before those along x: 2 K numbers each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

Along = tuple[Tensor, Tensor]
"""Of one neighbour along one axis: feature pixel and offset for every position, each (n,), on the CPU."""


class WaveMaps(NamedTuple):
    """What of LR images does not depend on the scale; sizes with the padding of window encoders."""

    size: tuple[int, int]
    """(h, w) of the LR image."""
    image: Tensor
    """The normalised image, (B, 3, h', w')."""
    coef: Tensor
    """Amplitudes, (B, h', w', 2 K)."""
    freq: Tensor
    """Frequencies, (B, h', w', 2 K)."""

    @property
    def map_size(self) -> tuple[int, int]:
        """(h', w')."""
        return self.coef.shape[1], self.coef.shape[2]


def waves(coef: Tensor, freq: Tensor, rel: Tensor, phase: Tensor) -> Tensor:
    """The features at N single queries, (N, 2 K) in the type of `coef`.

    coef, freq: (N, 2 K). rel: (y, x), (N, 2), at least float32, the type that angles are computed in. phase: (K,).
    """
    freq_y, freq_x = freq.chunk(2, dim=-1)
    angle = torch.addcmul(phase.to(rel), freq_y.to(rel), rel[:, :1]).addcmul_(freq_x.to(rel), rel[:, 1:]).mul_(math.pi)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(coef).mul_(coef)


class GridWaves:
    """The features of one image at all output pixels, a few rows at a time.

    The angle of a query is one that its row and column of feature pixels determine plus one that its column and row do,
    so that sines and cosines are needed per (output row, feature column) and (feature row, output column) only; a query
    takes a complex product.
    """

    def __init__(
        self,
        coef: Tensor,
        freq: Tensor,
        y: Sequence[Along],
        x: Sequence[Along],
        phase: Tensor,
        shares: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """coef, freq: (h, w, 2 K). y, x: the neighbours along each axis. phase: (K,), at least float32.

        shares: factors that the features get, per neighbour and position along y and along x, (neighbours, n) each.
        """
        self.coef, self.freq, self.phase, self.y = coef, freq, phase, y
        self.freq_y, self.freq_x = freq.to(phase).chunk(2, dim=-1)
        self.x = [(pixel.to(coef.device), rel.to(phase)) for pixel, rel in x]
        ones = [torch.ones(len(along), len(along[0][0])) for along in (y, x)]
        self.share_y, self.share_x = (share.to(phase) for share in shares or ones)
        self._columns: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, rows: slice, neighbour: tuple[int, int]) -> Tensor:
        """At all pixels of some output rows, seen from one neighbour (number along y, along x): (rows, W, 2 K)."""
        pixels, rel = (values[rows] for values in self.y[neighbour[0]])
        share = self.share_y[neighbour[0], rows]
        parts = [self._run(row, rel[found], share[found], neighbour[1]) for row, found in runs(pixels)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, row: int, rel_y: Tensor, share: Tensor, number: int) -> Tensor:
        """At output rows with offsets `rel_y` (n,) from one row of feature pixels."""
        angle = torch.addcmul(self.phase, self.freq_y[row], rel_y.to(self.phase)[:, None, None]).mul_(math.pi)
        cos, sin = ((value * share[:, None, None]).to(self.coef) for value in (angle.cos(), angle.sin()))
        even, odd = self._column(row, number)
        pixel = self.x[number][0]
        # cos(a + b) = cos a cos b - sin a sin b, sin(a + b) = sin a cos b + cos a sin b; b's factors hold amplitudes.
        first, second = torch.cat([cos, sin], -1), torch.cat([-sin, cos], -1)
        return first.index_select(1, pixel).mul_(even).addcmul_(second.index_select(1, pixel), odd)

    def _column(self, row: int, number: int) -> tuple[Tensor, Tensor]:
        """Amplitudes times cosine and times sine of the horizontal angle, (W, 2 K) each, for one row of pixels."""
        if (row, number) not in self._columns:
            self._columns = {key: value for key, value in self._columns.items() if key[0] >= row - 1}
            pixel, rel_x = self.x[number]
            angle = (self.freq_x[row].index_select(0, pixel) * rel_x[:, None]).mul_(math.pi)
            coef = self.coef[row].index_select(0, pixel) * self.share_x[number, :, None].to(self.coef)
            self._columns[row, number] = coef * _twice(angle.cos(), coef), coef * _twice(angle.sin(), coef)
        return self._columns[row, number]


def _twice(value: Tensor, like: Tensor) -> Tensor:
    return torch.cat([value, value], -1).to(like)


def runs(pixels: Tensor) -> Iterator[tuple[int, slice]]:
    """Runs of equal values: the value, and where."""
    start = 0
    for value, group in groupby(pixels.tolist()):
        stop = start + len(list(group))
        yield value, slice(start, stop)
        start = stop


def halves(interleaved: Tensor) -> Tensor:
    """Reorder the first axis from (y, x, y, x, ...) to all y, then all x."""
    return torch.cat([interleaved[0::2], interleaved[1::2]])
