"""SRNO: the super-resolution neural operator (Wei and Zhang, CVPR 2023, arXiv 2303.02584).

Every output pixel takes the features of its four LR neighbours side by side; two layers of linear (Galerkin) attention
over all pixels of the image follow, then an MLP, and the image enlarged bilinearly is added.

Between the LR features and the first nonlinearity everything is linear once the attention matrices are known, and these
are sums over pixels. So the image is streamed three times: for the matrix of the first attention, for that of the
second, for the colours. Each pass interpolates from the LR grid what it needs (`_Stream`), nothing is kept per pixel,
and the result is that of the whole image at once, whatever the chunk.

Quirks of the official code that are kept: neighbours enter by slot, which makes the output jump where slots swap, on
the centres of LR pixels; the float32 rounding of the published coordinates decides what queries exactly on a centre
see, so coordinates are float32 in every precision; on the centre of the last LR row or column the ensemble weights
depend on that rounding too; the norm of keys and values divides by n - 1 and adds its epsilon to the deviation; beyond
×4 the cell is that of ×4, judged by the vertical scale alone (`cell`). The official code can cut an image into chunks
with an attention of their own; its published numbers do not, and neither does this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.errors import UserError
from methods.grid import Axis, CellRule, areas, bilinear, cell_factor, check_cell, row_blocks, slots
from methods.implicit import ImplicitMethod, axes
from methods.parts import part

CHUNK = 4096
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
        factor = cell_factor(self.cell, scale[0], self.scale_max)
        images = [self._image(features, grid, factor, chunk or CHUNK) for features in feat.features]
        colors = torch.stack(images).permute(0, 3, 1, 2)
        return self.denormalise(colors + bilinear(feat.image, grid))

    def _image(self, features: Tensor, grid: tuple[Axis, Axis], factor: float, chunk: int) -> Tensor:
        """Colours (H, W, 3) of one image, normalised, without the enlarged image. features: (h, w, C)."""
        place = _Place(features, grid, factor, list(row_blocks((grid[0].out, grid[1].out), chunk)))
        lift, (out0, out1), fc1 = (
            affine(self.conv00),
            map(affine, (self.conv0.o_proj2, self.conv1.o_proj2)),
            affine(self.fc1),
        )
        kv0, kv1 = self.conv0.keys_values(), self.conv1.keys_values()

        with part("attention 1"):
            moments = _Moments(self.conv0, place.queries)
            stream = _Stream(place, [kv0 @ lift])
            for rows in place.blocks:
                moments.add(stream(rows)[0])
            half0 = self.conv0.first_half(moments.attention())

        with part("attention 2"):
            moments = _Moments(self.conv1, place.queries)
            stream = _Stream(place, [half0 @ lift, kv1 @ lift])
            update = (kv1.after(out0)).to(features)
            for rows in place.blocks:
                before, direct = stream(rows)
                moments.add(direct.add_(F.linear(F.gelu(before), *update)))
            half1 = self.conv1.first_half(moments.attention())

        with part("decoder"):
            both = Affine(torch.cat([half1.weight, fc1.weight]), torch.cat([half1.bias, fc1.bias]))
            stream = _Stream(place, [half0 @ lift, both @ lift])
            update, output = both.after(out0).to(features), fc1.after(out1).to(features)
            colors = []
            for rows in place.blocks:
                before, direct = stream(rows)
                before, residual = direct.add_(F.linear(F.gelu(before), *update)).chunk(2, dim=-1)
                hidden = F.gelu(residual + F.linear(F.gelu(before), *output))
                colors.append(F.linear(hidden, self.fc2.weight.flatten(1), self.fc2.bias))
        return torch.cat(colors)


class Affine(NamedTuple):
    """x to weight x + bias, in float64, in which layers are folded into one another."""

    weight: Tensor
    bias: Tensor

    def __matmul__(self, inner: Affine) -> Affine:
        """This after another."""
        return Affine(self.weight @ inner.weight, self.weight @ inner.bias + self.bias)

    def after(self, inner: Affine) -> Affine:
        """What another's output changes when it is added to this one's input; the bias is not added again."""
        return Affine(self.weight @ inner.weight, self.weight @ inner.bias)

    def to(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias in the type of `like`."""
        return self.weight.to(like), self.bias.to(like)


def affine(conv: nn.Conv2d) -> Affine:
    """A 1x1 convolution."""
    return Affine(conv.weight.flatten(1).double(), cast(Tensor, conv.bias).double())


class _Moments:
    """Sums over all queries from which the attention matrices follow."""

    def __init__(self, layer: Galerkin, queries: int) -> None:
        self.layer, self.queries = layer, queries
        self.sums: list[Tensor] = []

    def add(self, keys_values: Tensor) -> None:
        """Add queries; their keys and values less their means, (rows, W, 2 width)."""
        heads = keys_values.flatten(0, 1).unflatten(1, (2 * self.layer.heads, -1))
        width = heads.shape[2]
        scale = torch.linalg.vector_norm(heads, dim=2, keepdim=True).mul_((width - 1) ** -0.5).add_(EPSILON)
        key, value = (heads / scale).to(scale).chunk(2, dim=1)
        sums = torch.bmm(key.permute(1, 2, 0), value.transpose(0, 1)), key.sum(0), value.sum(0)
        found = [total.double() for total in sums]
        self.sums = [old + new for old, new in zip(self.sums, found, strict=True)] if self.sums else found

    def attention(self) -> Tensor:
        """k^T v / N of all heads, after gain and offset of the norms: (heads, d, d), float64."""
        product, key, value = (total / self.queries for total in self.sums)
        (gain_k, offset_k), (gain_v, offset_v) = (
            (norm.weight[:, 0].double(), norm.bias[:, 0].double()) for norm in (self.layer.kln, self.layer.vln)
        )
        key, value = gain_k * key, gain_v * value
        product = product * gain_k[:, :, None] * gain_v[:, None]
        return product + key[:, :, None] * offset_v[:, None] + offset_k[:, :, None] * (value + offset_v)[:, None]


class _Place:
    """Where one image's queries are."""

    def __init__(self, features: Tensor, grid: Sequence[Axis], factor: float, blocks: list[slice]) -> None:
        self.features, self.blocks = features, blocks
        self.queries = grid[0].out * grid[1].out
        self.cell = [axis.rel_cell * factor for axis in grid]
        self.y, self.x = (slots(axis) for axis in grid)


class _Stream:
    """Affine maps of what `conv00` gets, at all queries, a few rows at a time.

    Such a map commutes with the sum over neighbours, so it is applied to features of the LR grid, then interpolated
    along x once per LR row, and along y.
    """

    def __init__(self, place: _Place, maps: Sequence[Affine]) -> None:
        self.place, self.widths = place, [len(found.bias) for found in maps]
        weight, bias = torch.cat([found.weight for found in maps]), torch.cat([found.bias for found in maps])
        features, device = place.features, place.features.device
        offsets, neighbours, cell = weight.split([8, weight.shape[1] - 10, 2], dim=1)
        constant = bias + cell @ cell.new_tensor(place.cell)
        self.weight, self.constant = weight[:, :-2].to(features), constant.to(features)
        self.neighbours = neighbours.unflatten(1, (2, 2, -1)).permute(1, 3, 2, 0).flatten(2).to(features)  # (2, C, 2 R)
        by_y, by_x = offsets.unflatten(1, (2, 2, 2)).unbind(3)
        self.by_row = (place.y.rel.T.to(by_y) @ by_y.sum(2).T).to(features)  # (H, R)
        self.by_column = (place.x.rel.T.to(by_x) @ by_x.sum(1).T + constant).to(features)  # (W, R)
        self.share_y = place.y.share[1].to(features)
        self.share_x = place.x.share[:, :, None].to(features)
        self.columns = place.x.pixel.to(device)
        self.rows: dict[tuple[int, int], Tensor] = {}

    def __call__(self, rows: slice) -> tuple[Tensor, ...]:
        """The maps' values at some output rows, (rows, W, width) each."""
        above, below = (pixel[rows].tolist() for pixel in self.place.y.pixel)
        values = [
            torch.lerp(self._row(0, top), self._row(1, bottom), self.share_y[row])
            for row, top, bottom in zip(range(rows.start, rows.stop), above, below, strict=True)
        ]
        found = torch.stack(values).add_(self.by_row[rows, None])
        every = slice(0, found.shape[1])
        for row in self.place.y.degenerate:
            if rows.start <= row < rows.stop:
                found[row - rows.start] = self._plain(slice(row, row + 1), every)[0]
        for column in self.place.x.degenerate:
            found[:, column] = self._plain(rows, slice(column, column + 1))[:, 0]
        parts: tuple[Tensor, ...] = found.split(self.widths, dim=-1)
        return parts

    def _row(self, shift: int, row: int) -> Tensor:
        """One LR row as neighbour above (0) or below (1), interpolated along x, with all that rows share: (W, R)."""
        if (shift, row) not in self.rows:
            self.rows = {key: value for key, value in self.rows.items() if key[1] >= row - 1}
            left, right = (self.place.features[row] @ self.neighbours[shift]).chunk(2, dim=-1)
            mixed = torch.addcmul(
                self.by_column, left.to(self.by_column).index_select(0, self.columns[0]), self.share_x[0]
            )
            self.rows[shift, row] = mixed.addcmul_(right.to(mixed).index_select(0, self.columns[1]), self.share_x[1])
        return self.rows[shift, row]

    def _plain(self, rows: slice, columns: slice) -> Tensor:
        """The values at some queries as published, with weights of any form."""
        place, like = self.place, self.place.features
        rel_y, rel_x = place.y.rel[:, rows], place.x.rel[:, columns]
        weights = areas(rel_y, rel_x).to(like)[..., None]
        pixels = product(place.y.pixel[:, rows].to(like.device), place.x.pixel[:, columns].to(like.device))
        gathered = [like[y][:, x] * weight for (y, x), weight in zip(pixels, weights, strict=True)]
        shape = (rel_y.shape[1], rel_x.shape[1])
        offsets = [rel.expand(shape) for y in rel_y[:, :, None] for x in rel_x[:, None] for rel in (y, x)]
        inputs = torch.cat([torch.stack(offsets, -1).to(like), *gathered], -1)
        return F.linear(inputs, self.weight, self.constant)
