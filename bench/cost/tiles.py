"""Super-resolution by tiles, for images that no chunk size makes small enough: the encoder sees a part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

OVERLAP = 16
"""LR pixels that a tile sees beyond the part it renders; receptive fields reach further, so seams remain possible."""


def super_resolve_tiles(
    render: Callable[[Tensor, tuple[int, int]], Tensor], lr: Tensor, out_size: tuple[int, int], tile: int
) -> Tensor:
    """Render (B, 3, h, w) at (H, W) pixels from tiles of at most `tile` + 2 `OVERLAP` LR pixels a side.

    render: (LR part, its output size) to SR part. Tiles begin where LR and SR pixels share an edge; where the scale has
    no such places within a tile, at the nearest pixel, which shifts the tile by up to half an SR pixel.
    """
    sr: Tensor | None = None
    factors = [Fraction(out, size).limit_denominator(1000) for out, size in zip(out_size, lr.shape[-2:], strict=True)]
    for top, bottom in _spans(lr.shape[-2], tile, factors[0]):
        for left, right in _spans(lr.shape[-1], tile, factors[1]):
            box = (top, bottom, left, right)
            outer = (
                max(0, top - _margin(tile, factors[0])),
                min(lr.shape[-2], bottom + _margin(tile, factors[0])),
                max(0, left - _margin(tile, factors[1])),
                min(lr.shape[-1], right + _margin(tile, factors[1])),
            )
            y0, y1, x0, x1 = (round(edge * factors[index // 2]) for index, edge in enumerate(outer))
            part = render(lr[..., outer[0] : outer[1], outer[2] : outer[3]], (y1 - y0, x1 - x0))
            if sr is None:
                sr = part.new_empty(*part.shape[:-2], *out_size)
            t, b, le, r = (round(edge * factors[index // 2]) for index, edge in enumerate(box))
            sr[..., t:b, le:r] = part[..., t - y0 : b - y0, le - x0 : r - x0]
    assert sr is not None
    return sr


def _step(tile: int, factor: Fraction) -> int:
    """LR pixels between shared edges, 1 where a tile holds no two of them."""
    return factor.denominator if factor.denominator <= tile else 1


def _margin(tile: int, factor: Fraction) -> int:
    """The overlap on each side of a tile, a whole number of steps."""
    step = _step(tile, factor)
    return -(-OVERLAP // step) * step


def _spans(size: int, tile: int, factor: Fraction) -> Iterator[tuple[int, int]]:
    """Where tiles begin and end along an axis."""
    step = _step(tile, factor)
    width = max(step, tile // step * step)
    for start in range(0, size, width):
        yield start, min(size, start + width)
