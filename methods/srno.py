"""SRNO: the super-resolution neural operator (Wei and Zhang, CVPR 2023, arXiv 2303.02584).

Every output pixel takes the features of its four LR neighbours side by side; two layers of linear (Galerkin) attention
over all pixels of the image follow, then an MLP, and the image enlarged bilinearly is added.

Between the LR features and the first nonlinearity everything is linear once the attention matrices are known, and these
are sums over pixels. So the image is streamed three times: for the matrix of the first attention, for that of the
second, for the colours. Each pass interpolates from the LR grid what it needs (`_Whole`), nothing is kept per pixel,
and the result is that of the whole image at once, whatever the chunk. Layers are folded into one another in float64.

Quirks of the official code that are kept: neighbours enter by slot, which makes the output jump where slots swap, on
the centres of LR pixels; the float32 rounding of the published coordinates decides what queries exactly on a centre
see, so coordinates are float32 in every precision; on the centre of the last LR row or column the ensemble weights
depend on that rounding too; the norm of keys and values divides by n - 1 and adds its epsilon to the deviation; beyond
×4 the cell is that of ×4, judged by the vertical scale alone (`cell`). The official code can cut an image into chunks
with an attention of their own; its published numbers do not, and neither does this. Only the enlarged image is sampled
at exact positions instead of the rounded ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.errors import UserError
from methods.grid import Axis, CellRule, Slots, areas, assemble, bilinear, cell_factor, check_cell, slots
from methods.implicit import ImplicitMethod, axes
from methods.parts import part

CHUNK = 2048
"""Queries at a time."""
EPSILON = 1e-5
"""Added to the deviation of keys and values."""


class Encoded(NamedTuple):
    """What of an LR image does not depend on the scale; sizes with the padding of window encoders."""

    size: tuple[int, int]
    """(h, w) of the LR image."""
    image: Tensor
    """The normalised image, (B, 3, h', w')."""
    features: Tensor
    """(B, h', w', C)."""


class Affine(NamedTuple):
    """x to weight x + bias, in float64."""

    weight: Tensor
    bias: Tensor

    def __matmul__(self, inner: Affine) -> Affine:
        """This after another."""
        return Affine(self.weight @ inner.weight, self.weight @ inner.bias + self.bias)

    def plus(self, bias: Tensor) -> Affine:
        """This with something added to its result."""
        return Affine(self.weight, self.bias + bias)


def affine(conv: nn.Conv2d) -> Affine:
    """A 1x1 convolution."""
    return Affine(conv.weight.flatten(1).double(), cast(Tensor, conv.bias).double())


class HeadNorm(nn.Module):
    """Gain and offset of a norm over the channels of each head."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, channels))
        self.bias = nn.Parameter(torch.zeros(heads, 1, channels))


class Galerkin(nn.Module):
    """Parameters of one attention layer: x + o_proj2(GELU(o_proj1(x + attention(x)))), all 1x1 convolutions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Conv2d(width, 3 * width, 1)
        self.o_proj1 = nn.Conv2d(width, width, 1)
        self.o_proj2 = nn.Conv2d(width, width, 1)
        self.kln = HeadNorm(heads, width // heads)
        self.vln = HeadNorm(heads, width // heads)

    def queries(self) -> Affine:
        """x to all heads' queries."""
        return self._projection(slice(0, 1))

    def keys_values(self) -> Affine:
        """x to all heads' keys, then values, less their mean over the channels of a head: width rows each."""
        projection = self._projection(slice(1, 3))
        shape = (2, self.heads, -1)
        weight, bias = (value.unflatten(0, shape) for value in projection)
        return Affine(
            (weight - weight.mean(2, keepdim=True)).flatten(0, 2), (bias - bias.mean(2, keepdim=True)).flatten()
        )

    def _projection(self, which: slice) -> Affine:
        # Rows are interleaved: per head its queries, its keys, its values.
        shape = (self.heads, 3, -1)
        weight, bias = (
            value.unflatten(0, shape)[:, which].transpose(0, 1).flatten(0, 2) for value in affine(self.qkv_proj)
        )
        return Affine(weight, bias)

    def first_half(self, attention: Tensor) -> Affine:
        """x to what enters the GELU, given the matrices k^T v / N of all heads (heads, d, d)."""
        query, project = self.queries(), affine(self.o_proj1)
        weight, bias = (value.unflatten(0, (self.heads, -1)) for value in query)
        mixed = torch.einsum("ade,adi->aei", attention, weight).flatten(0, 1)
        shift = torch.einsum("ade,ad->ae", attention, bias).flatten()
        eye = torch.eye(len(mixed), dtype=mixed.dtype, device=mixed.device)
        return Affine(project.weight @ (eye + mixed), project.weight @ shift + project.bias)


class SRNO(ImplicitMethod):
    """SRNO on any encoder; the defaults are the published model.

    width: of the operator. blocks: heads of its attention. cell: `"clipped"`, an output pixel's size, beyond
    `scale_max` that of `scale_max`, as SRNO evaluates, or `"true"`, its size at every scale.
    """

    options = frozenset({"cell", "scale_max"})

    def __init__(
        self,
        encoder: nn.Module,
        *,
        width: int = 256,
        blocks: int = 16,
        cell: CellRule = "clipped",
        scale_max: float = 4.0,
    ) -> None:
        super().__init__(encoder)
        check_cell(cell, "SRNO")
        if blocks < 1 or width % blocks or width == blocks:
            raise UserError(f"SRNO cannot split a width of {width} into {blocks} heads: choose a multiple of it.")
        self.cell, self.scale_max = cell, scale_max
        self.conv00 = nn.Conv2d(4 * self.channels + 10, width, 1)
        self.conv0, self.conv1 = Galerkin(width, blocks), Galerkin(width, blocks)
        self.fc1, self.fc2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, 3, 1)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {name: config[name] for name in ("width", "blocks") if name in config}

    def encode(self, lr: Tensor) -> Encoded:
        image = self.normalise(lr)
        return Encoded((lr.shape[-2], lr.shape[-1]), image, self.features(image).permute(0, 2, 3, 1).contiguous())

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        grid = axes(feat.size, (feat.features.shape[1], feat.features.shape[2]), out_size)
        y, x = (slots(axis) for axis in grid)
        lift = self._lift(grid, scale)
        images = [self._colors(_Whole(features, y, x, chunk or CHUNK), lift) for features in feat.features]
        colors = torch.stack(images).transpose(1, 2).unflatten(2, out_size)
        return self.denormalise(colors + bilinear(feat.image, grid))

    def render_at(self, feat: Encoded, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        """As in SRNO's training, the attention is over these pixels alone: `render`'s colours where these are all."""
        grid = axes(feat.size, (feat.features.shape[1], feat.features.shape[2]), out_size)
        y, x = (Slots(*(value.to(index.device) for value in slots(axis))) for axis in grid)
        lift = self._lift(grid, scale)
        rows, columns = index.div(out_size[1], rounding_mode="floor"), index % out_size[1]
        chosen = [
            _Chosen(features, at(y, row), at(x, column))
            for features, row, column in zip(feat.features, rows, columns, strict=True)
        ]
        colors = torch.stack([self._colors(queries, lift) for queries in chosen]).transpose(1, 2)
        skip = bilinear(feat.image, grid).flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
        return self.denormalise(colors + skip)

    def _lift(self, grid: Sequence[Axis], scale: tuple[float, float]) -> Affine:
        """`conv00`, from offsets and weighted features; the cell is the same everywhere."""
        lift, factor = affine(self.conv00), cell_factor(self.cell, scale[0], self.scale_max)
        local, cell = lift.weight.split([lift.weight.shape[1] - 2, 2], dim=1)
        return Affine(local, lift.bias + cell @ cell.new_tensor([axis.rel_cell * factor for axis in grid]))

    def _colors(self, queries: _Queries, lift: Affine) -> Tensor:
        """Colours (N, 3) of all queries of one image, normalised, without the enlarged image."""
        layers, fc1 = (self.conv0, self.conv1), affine(self.fc1)
        kv0, kv1 = (layer.keys_values() for layer in layers)
        out0, out1 = (affine(layer.o_proj2) for layer in layers)
        lift1, lift2 = lift.plus(out0.bias), lift.plus(out0.bias + out1.bias)

        with part("attention 1"):
            moments = _Moments(self.conv0)
            for (kv,) in queries.values([kv0 @ lift]):
                moments.add(kv)
            half0 = self.conv0.first_half(moments.attention())

        with part("attention 2"):
            moments, update = _Moments(self.conv1), queries.update(kv1, out0)
            for before, kv in queries.values([half0 @ lift, kv1 @ lift1]):
                moments.add(kv.addmm_(F.gelu(before), update))
            half1 = self.conv1.first_half(moments.attention())

        with part("decoder"):
            update, output = queries.update(half1, out0), queries.update(fc1, out0)
            output1 = queries.update(fc1, out1)

            def colors() -> Iterator[Tensor]:
                for before0, before1, hidden in queries.values([half0 @ lift, half1 @ lift1, fc1 @ lift2]):
                    x = F.gelu(before0)
                    hidden.addmm_(x, output).addmm_(F.gelu(before1.addmm_(x, update)), output1)
                    yield F.linear(F.gelu(hidden), self.fc2.weight.flatten(1), self.fc2.bias)

            return assemble(colors(), moments.queries)


class _Moments:
    """Sums over all queries from which the attention matrices follow."""

    def __init__(self, layer: Galerkin) -> None:
        self.layer, self.queries = layer, 0
        self.sums: tuple[Tensor, ...] = ()

    def add(self, keys_values: Tensor) -> None:
        """Add queries; their keys and values less their means, (n, 2 width)."""
        heads = keys_values.unflatten(1, (2 * self.layer.heads, -1))
        deviation = torch.linalg.vector_norm(heads, dim=2, keepdim=True) * (heads.shape[2] - 1) ** -0.5
        normed = heads / (deviation + EPSILON)
        key, value = normed.chunk(2, dim=1)
        found = torch.bmm(key.permute(1, 2, 0), value.transpose(0, 1)).double(), normed.sum(0).double()
        self.sums = tuple(old + new for old, new in zip(self.sums, found, strict=True)) if self.sums else found
        self.queries += len(keys_values)

    def attention(self) -> Tensor:
        """k^T v / N of all heads, after gain and offset of the norms: (heads, d, d), float64."""
        product, key, value = (total / self.queries for total in (self.sums[0], *self.sums[1].chunk(2)))
        (gain_k, offset_k), (gain_v, offset_v) = (
            (norm.weight[:, 0].double(), norm.bias[:, 0].double()) for norm in (self.layer.kln, self.layer.vln)
        )
        key, value = gain_k * key, gain_v * value
        product = product * gain_k[:, :, None] * gain_v[:, None]
        return product + key[:, :, None] * offset_v[:, None] + offset_k[:, :, None] * (value + offset_v)[:, None]


class _Queries(ABC):
    """Queries of one image with features (h, w, C), and affine maps of what `conv00` gets there, less the cell."""

    def __init__(self, features: Tensor, y: Slots, x: Slots) -> None:
        self.features, self.y, self.x = features, y, x

    @abstractmethod
    def values(self, maps: Sequence[Affine]) -> Iterator[list[Tensor]]:
        """The maps' values, (n, width) each, a number of queries at a time."""

    def update(self, outer: Affine, inner: Affine) -> Tensor:
        """From `inner`'s input, what its output adds to `outer`'s when added to its input, but for biases: (n, m)."""
        return (outer.weight @ inner.weight).T.to(self.features)


class _Chosen(_Queries):
    """Any queries, at y[:, i], x[:, i], all at a time."""

    def values(self, maps: Sequence[Affine]) -> Iterator[list[Tensor]]:
        """Computed as published, with weights of any form."""
        rel = (along.rel[:, :, None] for along in (self.y, self.x))
        weights = torch.vmap(areas, 1, 1)(*rel)[..., 0].to(self.features)  # (4, n, 1)
        pixels = product(self.y.pixel.to(self.features.device), self.x.pixel.to(self.features.device))
        gathered = [self.features[pixel] * weight for pixel, weight in zip(pixels, weights, strict=True)]
        offsets = torch.stack([rel for both in product(self.y.rel, self.x.rel) for rel in both], -1)
        inputs = torch.cat([offsets.to(self.features), *gathered], -1)
        yield [F.linear(inputs, found.weight.to(inputs), found.bias.to(inputs)) for found in maps]


class _Whole(_Queries):
    """All queries, some rows at a time."""

    def __init__(self, features: Tensor, y: Slots, x: Slots, chunk: int) -> None:
        super().__init__(features, y, x)
        self.share = y.share[1, :, None, None].to(features)
        self.bands = _bands(y.pixel.T.tolist(), max(1, chunk // x.pixel.shape[1]))
        self.degenerate = torch.zeros(y.pixel.shape[1], x.pixel.shape[1], dtype=torch.bool)
        self.degenerate[y.degenerate] = True
        self.degenerate[:, x.degenerate] = True

    def values(self, maps: Sequence[Affine]) -> Iterator[list[Tensor]]:
        """A map commutes with the sum over neighbours: it is applied on the LR grid, then interpolated along x and y.

        That takes weights that are products over axes; queries whose are not are computed as published.
        """
        spread = [_Spread(found, self) for found in maps]
        for blocks in self.bands:
            ends = [found.ends(slice(blocks[0].start, blocks[-1].stop)) for found in spread]
            for rows in blocks:
                values = [
                    torch.lerp(above, below, self.share[rows]).add_(found.by_row[rows, None])
                    for found, (above, below) in zip(spread, ends, strict=True)
                ]
                self._correct(values, rows, maps)
                yield [value.flatten(0, 1) for value in values]

    def _correct(self, values: Sequence[Tensor], rows: slice, maps: Sequence[Affine]) -> None:
        row, column = self.degenerate[rows].nonzero(as_tuple=True)
        if len(row):
            chosen = _Chosen(self.features, at(self.y, rows.start + row), at(self.x, column))
            for value, found in zip(values, next(chosen.values(maps)), strict=True):
                value[row.to(value.device), column.to(value.device)] = found.to(value)


class _Spread:
    """One affine map's values along x."""

    def __init__(self, found: Affine, queries: _Whole) -> None:
        features, y, x = queries.features, queries.y, queries.x
        offsets, neighbours = found.weight.split([8, found.weight.shape[1] - 8], dim=1)
        by_y, by_x = offsets.unflatten(1, (2, 2, 2)).unbind(3)
        self.by_row = (y.rel.T.to(by_y) @ by_y.sum(2).T).to(features)  # (H, R)
        self.by_column = (x.rel.T.to(by_x) @ by_x.sum(1).T + found.bias).to(features)  # (W, R)
        self.neighbours = neighbours.unflatten(1, (2, 2, -1)).permute(1, 2, 3, 0).to(features)  # (2, 2, C, R)
        self.features, self.share = features, x.share[..., None].to(features)
        self.rows, self.columns = y.pixel, x.pixel.to(features.device)

    def ends(self, rows: slice) -> tuple[Tensor, Tensor]:
        """For some output rows, what the neighbours above and those below contribute: (rows or 1, W, R) each.

        One row where all have the same; with what all rows share.
        """
        return self._along_x(0, rows), self._along_x(1, rows)

    def _along_x(self, shift: int, rows: slice) -> Tensor:
        pixels, place = (index.to(self.columns) for index in self.rows[shift, rows].unique(return_inverse=True))
        features = self.features.index_select(0, pixels)
        left, right = ((features @ matrix).to(self.by_column) for matrix in self.neighbours[shift])
        mixed = torch.addcmul(self.by_column, left.index_select(1, self.columns[0]), self.share[0])
        mixed = mixed.addcmul_(right.index_select(1, self.columns[1]), self.share[1])
        return mixed if len(pixels) == 1 else mixed.index_select(0, place)


def _bands(neighbours: Sequence[Sequence[int]], largest: int) -> list[list[slice]]:
    """Cut output rows, given the LR rows above and below each, into blocks of at most `largest`.

    The blocks of a band are cut from rows with the same neighbours; or it is one block with those of several such runs.
    """
    bands: list[list[int]] = []
    for _, group in groupby(range(len(neighbours)), key=neighbours.__getitem__):
        run = list(group)
        if bands and len(bands[-1]) + len(run) <= largest:
            bands[-1] += run
        else:
            bands.append(run)
    return [_blocks(rows, largest) for rows in bands]


def _blocks(rows: Sequence[int], largest: int) -> list[slice]:
    """Cut rows evenly."""
    step = -(-len(rows) // -(-len(rows) // largest))
    return [slice(row, min(row + step, rows[-1] + 1)) for row in rows[::step]]


def at(along: Slots, index: Tensor) -> Slots:
    """The neighbours of some positions along an axis."""
    return Slots(along.pixel[:, index], along.rel[:, index])
