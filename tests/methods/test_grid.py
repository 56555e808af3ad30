"""Neighbours, weights and coordinates against hand-computed values and against grid_sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from methods.grid import Axis, areas, assemble, bilinear, cell_factor, centres, members, nearest, row_blocks, slots
from methods.padding import mirror_window

SIZES = [(7, 14), (6, 31), (11, 40), (1, 6), (8, 8), (5, 3), (23, 69)]


def test_members_by_hand():
    low, high = members(Axis(2, 4, 2))  # output pixels at -0.25, 0.25, 0.75 and 1.25 feature pixels
    assert low.pixel.tolist() == [0, 0, 0, 1]
    assert low.rel.tolist() == [-0.5, 0.5, 1.5, 0.5]
    assert high.pixel.tolist() == [0, 1, 1, 1]
    assert high.rel.tolist() == [-0.5, -1.5, -0.5, 0.5]
    assert low.weight.tolist()[1:3] == [0.75, 0.25]
    assert (low.weight + high.weight).tolist() == [1, 1, 1, 1]
    ((index, rel, weight),) = members(Axis(2, 4, 2), ensemble=False)
    assert index.tolist() == [0, 0, 1, 1]
    assert rel.tolist() == [-0.5, 0.5, -0.5, 0.5]
    assert weight.tolist() == [1, 1, 1, 1]


def test_members_look_into_the_padding():
    low, high = members(Axis(2, 4, 8))
    assert low.pixel.tolist() == [0, 0, 0, 1]
    assert high.pixel.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(("lr", "out"), SIZES)
def test_nearest_is_that_of_grid_sample(lr, out):
    coord = centres(out, out)
    grid = torch.stack([coord, torch.zeros_like(coord)], -1)[None, None]
    expected = F.grid_sample(torch.arange(lr).float()[None, None, None], grid, mode="nearest", align_corners=False)
    assert nearest(coord, lr).tolist() == expected.flatten().tolist()


@pytest.mark.parametrize(("lr", "out"), SIZES)
def test_slots_are_the_members(lr, out):
    for index, rel, member in zip(*slots(Axis(lr, out, lr)), members(Axis(lr, out, lr)), strict=True):
        on_centre = (member.rel % 2).abs() < 1e-6  # decided by the published rounding
        last = torch.arange(out) == out - 1 - (out // lr) // 2
        assert index[~(on_centre & last)].tolist() == member.pixel[~(on_centre & last)].tolist()
        torch.testing.assert_close(rel.double()[~last], member.rel[~last], rtol=0, atol=1e-5)


def test_areas_by_hand():
    rel_y, rel_x = torch.tensor([[0.5], [-1.5]]), torch.tensor([[1.0], [-1.0]])
    assert areas(rel_y, rel_x).flatten().tolist() == pytest.approx([0.375, 0.375, 0.125, 0.125])
    assert areas(torch.zeros(2, 1), rel_x).flatten().tolist() == [0.25] * 4


@pytest.mark.parametrize(("size", "out_size"), [((7, 6), (14, 31)), ((1, 8), (6, 8)), ((5, 5), (17, 9))])
def test_bilinear_within_padding(size, out_size):
    """Whole scales of a padded image: enlarge all of it, and crop."""
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    axes = tuple(Axis(lr, out, lr) for lr, out in zip(size, out_size, strict=True))
    general = tuple(Axis(lr, out, lr + 1) for lr, out in zip(size, out_size, strict=True))
    padded = F.pad(image, (0, 1, 0, 1), mode="replicate")
    torch.testing.assert_close(bilinear(padded, general), bilinear(image, axes), rtol=0, atol=1e-12)


def test_cell_factor():
    assert [cell_factor("clipped", s, 4.0) for s in (2, 4, 12)] == [1, 1, 3]
    assert cell_factor("true", 12, 4.0) == 1


def test_row_blocks_cover_all_rows():
    assert [(b.start, b.stop) for b in row_blocks((7, 10), 25)] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert len(list(row_blocks((3, 10), 1))) == 3


def test_mirror_window_by_hand():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert mirror_window(row, 4)[0, 0].tolist() == [[1, 2, 3, 3]] * 4
    assert mirror_window(row, 3)[0, 0, 0].tolist() == [1, 2, 3, 3, 2, 1]
    assert mirror_window(row, 8)[0, 0, 0].tolist() == [1, 2, 3, 3, 2, 1, 1, 2]


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_assemble_is_cat(dim):
    whole = torch.rand(5, 7, 6, requires_grad=True)
    found = assemble(iter(whole.split(2, dim)), whole.shape[dim], dim)
    torch.testing.assert_close(found, whole, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad((found**2).sum(), whole)
    torch.testing.assert_close(gradient, 2 * whole, rtol=0, atol=0)


@pytest.mark.parametrize(("blocks", "held"), [([], 0), ([torch.zeros(2)], 2)])
def test_assemble_refuses_gaps(blocks, held):
    with pytest.raises(ValueError, match=f"blocks of {held} in all, not 3"):
        assemble(blocks, 3)
