"""Tiles against the whole image, for renderers whose whole answer is known."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from bench.cost.tiles import OVERLAP, super_resolve_tiles


def nearest(part, size):
    return interpolate(part, size=size, mode="nearest-exact")


def bicubic(part, size):
    return interpolate(part, size=size, mode="bicubic", align_corners=False)


@pytest.mark.parametrize("scale", [2, 3, 2.5, 1.6])
@pytest.mark.parametrize("tile", [5, 16, 100])
@pytest.mark.parametrize(("render", "reach"), [(nearest, 0), (bicubic, 1e-5)])
def test_tiles_make_the_whole(scale, tile, render, reach):
    lr = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    size = round(40 * scale), round(60 * scale)
    sr = super_resolve_tiles(render, lr, size, tile)
    assert sr.shape == (1, 3, *size)
    assert float((sr - render(lr, size)).abs().max()) <= reach


def test_no_part_is_larger_than_a_tile_and_its_margins():
    sides = []

    def watch(part, size):
        sides.append(tuple(part.shape[-2:]))
        return nearest(part, size)

    super_resolve_tiles(watch, torch.rand(1, 3, 90, 70), (360, 280), 32)
    assert len(sides) == 9
    assert max(max(side) for side in sides) == 32 + 2 * OVERLAP


def test_a_scale_without_shared_edges_shifts_by_less_than_a_pixel():
    ramp = torch.arange(97.0).view(1, 1, 1, 97).expand(1, 3, 97, 97)
    size = 349, 349  # 349/97 is in lowest terms, with 97 steps beyond the tile
    tiled, whole = (f(ramp) for f in (lambda x: super_resolve_tiles(bicubic, x, size, 16), lambda x: bicubic(x, size)))
    assert float((tiled - whole).abs().max()) < 0.5 * 97 / 349 * 1.5
