"""How the tiled backend divides its work: groups of Gaussians with boxes of similar size, cut into chunks of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

PAIRS = 2**18
"""Gaussian-pixel pairs held at a time: enough to hide the cost of calls, few enough for the cache."""
PATCH_VALUES = 2**22
"""Patch values held at a time, which bounds the memory for large outputs (16 MiB)."""
_CLASS_RATIO = 1.5
"""Boxes whose longer sides differ by less share a group: fewer wasted pixels against shorter lists per tile."""
_SMALLEST_CLASS = 1 / 4
"""Share of the Gaussians below which a class is not worth its own patches."""
_TILE_RATIO = 1 / 3
"""Side of a tile over that of the largest box: fewer wasted pixels against shorter lists (15 in GSASR)."""


class Chunk(NamedTuple):
    """Lists of n cells, padded to K Gaussians each."""

    cells: Tensor
    """(n,) flat indices into the group's grid, without repeats."""
    members: Tensor
    """(n * K,) Gaussians, M for padding."""
    records: Tensor
    """(9 + C, n * K): the box y0, x0, y1, x1, the coefficients a, b, d, the centre mu_y, mu_x, the color.

    Box and centre count from the tile's corner. The box of padding is empty.
    """
    shape: tuple[int, int]
    """(n, K)."""


@dataclass(frozen=True)
class Group:
    """Gaussians of one size class on a band of tile rows, or on several whole images."""

    images: slice
    top: int
    """First pixel row of the band."""
    tile: int
    """Side of a tile in pixels."""
    patch: tuple[int, int]
    """(Py, Px): pixels from a tile's corner that its Gaussians may touch."""
    grid: tuple[int, int, int]
    """(images, tile rows, tile columns)."""
    chunks: list[Chunk]

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) that all patches of an image cover together."""
        rows, columns = ((n - 1) * self.tile + side for n, side in zip(self.grid[1:], self.patch, strict=True))
        return rows, columns

    def window(self, image: Tensor) -> Tensor:
        """View the part of (B, C, H, W) under the canvas; the canvas may reach beyond it, where weights are 0."""
        height, width = self.canvas
        return image[self.images, :, self.top : self.top + height, :width]


def plan_groups(parameters: Tensor, box: Tensor, canvas: tuple[int, int]) -> Iterator[Group]:
    """Sort M = B * N Gaussians into groups.

    parameters: (5 + C, M) a, b, d, mu_y, mu_x, color; box: (2, 2, B, N) from `boxes`; canvas: (H, W).
    """
    images, boxes = (box.shape[2], *canvas), box.flatten(2).flatten(0, 1)
    table = pad(torch.cat([boxes.to(parameters.dtype), parameters]), (0, 1))
    table[:2, -1] = 1  # the first corner of the padding's box, beyond its last
    table = table.mT.contiguous()  # picking rows is several times faster than picking columns
    longer, order = (boxes[2:] - boxes[:2] + 1).amax(0).to(_short(max(canvas))).sort(stable=True)
    for part in _classes(longer):
        yield from _class_groups(order[part], table, boxes.index_select(1, order[part]), images)


def _classes(longer: Tensor) -> Iterator[slice]:
    """Cut sorted sides, leaving out 0, where they grow by _CLASS_RATIO; small classes join the next larger one."""
    if not longer.numel():
        return
    steps = math.ceil(math.log(max(2, int(longer[-1])), _CLASS_RATIO))
    limits = torch.tensor([0, *(_CLASS_RATIO**k for k in range(1, steps + 1))], device=longer.device)
    first, *stops = torch.searchsorted(longer.to(limits), limits, right=True).tolist()
    smallest = (longer.numel() - first) * _SMALLEST_CLASS
    for stop in stops:
        if stop > first and (stop - first >= smallest or stop == stops[-1]):
            yield slice(first, stop)
            first = stop


def _class_groups(members: Tensor, table: Tensor, boxes: Tensor, images: tuple[int, int, int]) -> Iterator[Group]:
    """Cut one size class into groups whose patches fit PATCH_VALUES.

    members: (m,); table: (M + 1, 9 + C) the records of all Gaussians and of padding; boxes: (4, m).
    """
    height, width = ((boxes[2:] - boxes[:2]).amax(1) + 1).tolist()
    tile = math.ceil(max(height, width) * _TILE_RATIO)
    patch = (min(tile + height - 1, images[1]), min(tile + width - 1, images[2]))
    batch, rows, columns = images[0], -(-images[1] // tile), -(-images[2] // tile)
    position = boxes[:2].div(tile, rounding_mode="trunc")
    image = members.div((len(table) - 1) // batch, rounding_mode="trunc")
    cell = (image * rows + position[0]) * columns + position[1]
    cell, order = cell.to(_short(batch * rows * columns)).sort(stable=True)
    members = members[order]
    counts = torch.bincount(cell, minlength=batch * rows * columns)
    ends = [0, *counts.cumsum(0).tolist()]
    band = max(1, PATCH_VALUES // (math.prod(patch) * (table.shape[1] - 9) * columns))
    for first, n_images, top, n_rows in _bands(batch, rows, band):
        start = (first * rows + top) * columns
        stop = start + n_images * n_rows * columns
        own = members[ends[start] : ends[stop]]
        chunks = _chunks(counts[start:stop], own, table, tile, max(1, PAIRS // math.prod(patch)))
        yield Group(slice(first, first + n_images), top * tile, tile, patch, (n_images, n_rows, columns), chunks)


def _short(largest: int) -> torch.dtype:
    """The shortest integer type for sorting, whose time is proportional to the length."""
    return torch.int16 if largest < 2**15 else torch.int32


def _bands(batch: int, rows: int, band: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first image, images, first tile row, tile rows) with at most `band` >= 1 tile rows together."""
    together = max(1, band // rows)
    for first in range(0, batch, together):
        for top in range(0, rows, band):
            yield first, min(together, batch - first), top, min(band, rows - top)


def _chunks(counts: Tensor, members: Tensor, table: Tensor, tile: int, budget: int) -> list[Chunk]:
    """Cut lists into chunks of about `budget` entries. counts: (cells,); members: (m,) in the order of their cells."""
    cells, starts, lengths = _split(counts, budget)
    shapes = _shapes(lengths.tolist(), budget)
    sizes = [n * k for n, k in shapes]
    padded = torch.tensor([k for n, k in shapes for _ in range(n)], dtype=torch.int64, device=counts.device)
    step = torch.arange(sum(sizes), device=counts.device) - (padded.cumsum(0) - padded).repeat_interleave(padded)
    entries = starts.repeat_interleave(padded) + step
    entries.masked_fill_(step >= lengths.repeat_interleave(padded), members.numel())
    members = pad(members, (0, 1), value=len(table) - 1).index_select(0, entries)
    records = table.index_select(0, members).mT.contiguous()
    corner = (records[:2] / tile).floor() * tile
    for rows in (records[:2], records[2:4], records[7:9]):
        rows -= corner
    own = torch.split(cells, [n for n, _ in shapes]), torch.split(members, sizes), torch.split(records, sizes, 1)
    return [Chunk(*part) for part in zip(*own, shapes, strict=True)]


def _shapes(lengths: list[int], budget: int) -> list[tuple[int, int]]:
    """The (n, K) of each chunk for lists in descending order of length, which keeps the padding small."""
    shapes, at = [], 0
    while at < len(lengths):
        n = min(max(1, budget // lengths[at]), len(lengths) - at)
        shapes.append((n, lengths[at]))
        at += n
    return shapes


def _split(counts: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of at most `longest` entries, longest first: their cells, first entries and lengths.

    Where a cell has several lists all but its last are full, so no chunk holds two lists of one cell.
    """
    lists = -(-counts // longest)
    cells = torch.arange(counts.numel(), device=counts.device).repeat_interleave(lists)
    step = torch.arange(cells.numel(), device=counts.device) - (lists.cumsum(0) - lists)[cells]
    starts = (counts.cumsum(0) - counts)[cells] + step * longest
    lengths = (counts[cells] - step * longest).clamp(max=longest)
    lengths, order = lengths.sort(descending=True, stable=True)
    return cells[order], starts[order], lengths
