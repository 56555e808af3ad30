"""Where output pixels lie on an LR image, along one axis at a time: neighbours, offsets, weights, cells.

[-1, 1] spans the outer edges of an image in the literature; here positions are counted in LR pixels wherever float32 is
not part of the definition. All functions return CPU tensors that depend on sizes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.errors import UserError

CellRule = Literal["true", "clipped"]
NUDGE = 1e-6
"""By which the published code moves coordinates, to settle ties and to stay inside the image."""


@dataclass(frozen=True)
class Axis:
    """One axis of a rendering."""

    lr: int
    """Pixels of the LR image."""
    out: int
    """Pixels of the output; `out / lr` is the scale."""
    feat: int
    """Pixels of the feature map: `lr`, and more where the image was padded for a window encoder."""

    @property
    def rel_cell(self) -> float:
        """Size of an output pixel in half LR pixels, 2 / scale: a cell of 2 / out times the map's size."""
        return 2 * self.lr / self.out


class Member(NamedTuple):
    """One of the neighbours that a query looks at, along one axis, for all queries: each (out,)."""

    pixel: Tensor
    """Index of the feature pixel, int64."""
    rel: Tensor
    """Query minus centre of that pixel, in half LR pixels; float64, or float32 where that is part of the definition."""
    weight: Tensor
    """Share of this member in the local ensemble, of the same type; all members' shares sum to 1."""


def members(axis: Axis, ensemble: bool = True) -> list[Member]:
    """The two LR pixels on either side of each output pixel (LIIF's local ensemble), or the nearest one.

    Output pixel i is at p = (i + 1/2) lr / out - 1/2; as 2 out p is an integer, nothing here needs the published shifts
    by 1e-6. Outside the outermost centres both members are the same pixel and agree, so any weights of sum 1 do.
    """
    unit = 2 * axis.out
    position = (2 * torch.arange(axis.out) + 1) * axis.lr - axis.out
    low = (position if ensemble else position + axis.out).div(unit, rounding_mode="floor")
    high = (position - unit * low).double() / unit
    found = [(low, 1 - high), (low + 1, high)] if ensemble else [(low, torch.ones_like(high))]
    clamped = [(index.clamp(0, axis.feat - 1), weight) for index, weight in found]
    return [Member(index, (position - unit * index).double() / axis.out, weight) for index, weight in clamped]


def centres(count: float, number: int) -> Tensor:
    """Float32 centres in [-1, 1] of the first `number` of `count` pixels, rounded as the published code rounds."""
    radius = 1 / count
    return (-1 + radius) + (2 * radius) * torch.arange(number, dtype=torch.float32)


def nearest(coord: Tensor, count: int) -> Tensor:
    """Index of the nearest of `count` pixels to float32 coordinates, as `grid_sample` finds it: ties to even."""
    return (((coord + 1) * count - 1) / 2).round().long()


class Slots(NamedTuple):
    """LIIF's two neighbours of each position along an axis, in published float32 arithmetic: (2, n) each.

    For methods whose neighbours enter by slot, where the rounding of a query on an LR centre decides what it sees.
    """

    pixel: Tensor
    """Index of the feature pixel for the shifts (-, +), int64."""
    rel: Tensor
    """Query minus centre of that pixel, in half LR pixels, float32."""

    @property
    def share(self) -> Tensor:
        """Shares (2, n) of which ensemble weights are products, but for `degenerate` positions."""
        size = self.rel.abs().clamp(min=1e-9)
        return size.flip(0) / size.sum(0)

    @property
    def degenerate(self) -> list[int]:
        """Positions on the centre of the last pixel at odd whole scales: both offsets are 0 up to rounding.

        There the published weights, `areas`, are not a product over axes.
        """
        return torch.nonzero(self.rel.abs().sum(0) < 0.01).flatten().tolist()


def slots(axis: Axis, coord: Tensor | None = None) -> Slots:
    """The neighbours of float32 coordinates in [-1, 1] of the padded map; by default those of all output pixels."""
    coord = coordinates(axis) if coord is None else coord
    lr_coord = centres(axis.feat, axis.feat)
    moved = [(coord + (shift / axis.feat + NUDGE)).clamp(-1 + NUDGE, 1 - NUDGE) for shift in (-1, 1)]
    pixel = torch.stack([nearest(along, axis.feat) for along in moved])
    return Slots(pixel, (coord - lr_coord[pixel]) * axis.feat)


def coordinates(axis: Axis) -> Tensor:
    """Float32 centres of the output pixels in [-1, 1], which spans the padded map."""
    return centres(axis.out * axis.feat / axis.lr, axis.out)


def areas(rel_y: Tensor, rel_x: Tensor) -> Tensor:
    """Ensemble weights as published, from the rel values of the two shifts: (2, n) and (2, m) to (4, n, m).

    Members are in the order (-,-), (-,+), (+,-), (+,+), rows first. Each gets the area of the diagonally opposite one,
    |rel_y rel_x| + 1e-9, over the sum of the four.
    """
    area = (rel_y[:, None, :, None] * rel_x[None, :, None, :]).abs() + 1e-9
    opposite = area.flip(0, 1).flatten(0, 1)
    return opposite / opposite.sum(0)


def cell_factor(rule: str, scale: float, largest: float) -> float:
    """What the cell is multiplied by: 1, or if "clipped", beyond `largest`, what keeps it as it is there."""
    return max(scale / largest, 1.0) if rule == "clipped" else 1.0


def check_cell(rule: str, title: str) -> None:
    """Refuse what is no `CellRule`.

    Raises:
        UserError: it is none.
    """
    if rule not in ("true", "clipped"):
        raise UserError(f'{title} has no cell {rule!r}: choose "true" or "clipped".')


def bilinear(image: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Sample (B, C, h, w) bilinearly at all output pixels, edge pixels repeated beyond the border: (B, C, H, W)."""
    if all(axis.lr == axis.feat for axis in axes):
        return F.interpolate(image, (axes[0].out, axes[1].out), mode="bilinear", align_corners=False)
    rows, columns = (
        [(index.to(image.device), weight.to(image)) for index, _, weight in members(axis)] for axis in axes
    )
    mixed = sum((image[:, :, index] * weight[:, None] for index, weight in rows), start=image.new_zeros(()))
    return sum((mixed[..., index] * weight for index, weight in columns), start=image.new_zeros(()))


def row_blocks(out_size: tuple[int, int], chunk: int) -> Iterator[slice]:
    """Cut H rows of W queries into blocks of about `chunk` queries; of one row at least."""
    step = max(1, chunk // out_size[1])
    return (slice(start, min(start + step, out_size[0])) for start in range(0, out_size[0], step))


def assemble(blocks: Iterable[Tensor], length: int, dim: int = 0) -> Tensor:
    """`torch.cat(blocks, dim)` of blocks as they are made, `length` along dim in all.

    A list would keep the small blocks alive among the large tensors that each of them frees, and the heap of a CPU
    would grow to several times what is alive.

    Raises:
        ValueError: the blocks' lengths do not add up.
    """
    whole, start = None, 0
    for block in blocks:
        if whole is None:
            whole = block.new_empty(*block.shape[: dim % block.ndim], length, *block.shape[dim % block.ndim + 1 :])
        whole.narrow(dim, start, block.shape[dim]).copy_(block)
        start += block.shape[dim]
    if whole is None or start != length:
        raise ValueError(f"blocks of {start} in all, not {length}")
    return whole
