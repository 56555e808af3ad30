"""CiaoSR: continuous implicit attention-in-attention (Cao et al., CVPR 2023, arXiv 2212.04362).

A query looks at four LR pixels around it. Two MLPs make a key and a value of each, from its 3x3 features, the offset
and the cell; the query, the 3x3 features of the nearest pixel, weighs them by a softmax; a third MLP decodes the
mixture. Values also hold non-local features, found by comparing patches across scales in the whole image.

Exact rearrangements: the attention runs once per image; the first layers of the key and value MLPs act on LR pixels;
the last layer of the key MLP, which only meets the query in a scalar product, is applied to the products of an LR
pixel's query with its nine neighbours' features instead of to every query's hidden units.

Quirks of the official code that are kept: the four pixels lie (1 - cell) / (h - 1) away, in coordinates from -1 to 1,
which is half a pixel at ×2 only, so that beyond ×2 a query near a pixel's centre may skip that pixel; one LR row or
column, where the official code divides by zero, counts as no shift. Nearest pixels are found in float32. The cell is
never clipped. Up to ×4 the official evaluation cuts images into overlapping square tiles of 192 LR pixels (`tile`),
which changes the output everywhere, as the attention and the shift depend on the tile; the published numbers fit whole
images, the default here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.crossscale import CrossScaleAttention
from methods.errors import UserError
from methods.fourier import runs
from methods.grid import NUDGE, Axis, assemble, bilinear, centres, nearest
from methods.implicit import ENCODER, ImplicitMethod, axes
from methods.mlp import MLP
from methods.parts import part

CHUNK = 4096
"""Queries at a time."""
MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K, which the network is fed without."""
PREFIX = "generator."
"""Of official keys, in most files."""


class Encoded(NamedTuple):
    """What of LR images, or of tiles of one size, does not depend on the scale."""

    image: Tensor
    """The image less the mean, (B, 3, h, w)."""
    features: Tensor
    """(B, C, h, w)."""
    nonlocal_features: Tensor
    """(B, C, h, w)."""
    corners: list[tuple[int, int]]
    """Upper left corners of tiles; empty for whole images. With tiles, B counts images within tiles."""
    size: tuple[int, int]
    """(h, w) of the LR image."""


class Shifts(NamedTuple):
    """Along one axis, for every output pixel."""

    near: Tensor
    """Nearest LR pixel, (out,)."""
    pixel: Tensor
    """LR pixel of the neighbours below and above, (2, out)."""
    rel: Tensor
    """Offset from its centre in half LR pixels, float32 (2, out)."""


class CiaoSR(ImplicitMethod):
    """CiaoSR on any encoder; the default is the published model.

    hidden: widths of the three MLPs. tile, tile_overlap: side of the square tiles in LR pixels, 0 for whole images, and
    how far they overlap; tiles need a whole scale.
    """

    options = frozenset({"tile", "tile_overlap"})
    encoder_hparams: ClassVar[Mapping[str, Mapping[str, Any]]] = {"swinir": {"channels": None}}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: Sequence[int] = (256, 256, 256, 256),
        tile: int = 0,
        tile_overlap: int = 32,
    ) -> None:
        super().__init__(encoder)
        if tile < 0 or tile_overlap < 0 or 0 < tile <= tile_overlap:
            raise UserError(
                f"CiaoSR has no tiles of {tile} pixels that overlap by {tile_overlap}: choose less overlap."
            )
        self.tile, self.tile_overlap = tile, tile_overlap
        key = 9 * self.channels
        value = key + self.channels
        self.cs_attn = CrossScaleAttention(self.channels)
        self.imnet_q = MLP(value, *hidden, 3)
        self.imnet_k = MLP(key + 4, *hidden, key)
        self.imnet_v = MLP(value + 4, *hidden, value)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        hidden = config.get("imnet_q", (256, 256, 256, 256))
        if isinstance(hidden, Mapping):
            hidden = hidden["args"]["hidden_list"]
        found = {name: config[name] for name in ("tile", "tile_overlap") if config.get(name)}
        return {"hidden": tuple(hidden), **found}

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read the official layout, with `generator.` or without, or that of the LIIF family."""
        state = {key.removeprefix(PREFIX): value for key, value in state.items()}
        own = ("imnet_", "cs_attn.", ENCODER)
        return super().from_reference({k if k.startswith(own) else ENCODER + k: v for k, v in state.items()})

    def to_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoder = {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}
        decoder = {key: value for key, value in state.items() if not key.startswith(ENCODER)}
        found = cast(Any, self.encoder).to_reference(encoder, style="mmediting") | decoder
        return {PREFIX + key: value for key, value in found.items()}

    def normalise(self, lr: Tensor) -> Tensor:
        return lr - self._mean(lr)

    def denormalise(self, y: Tensor) -> Tensor:
        return y + self._mean(y)

    @staticmethod
    def _mean(like: Tensor) -> Tensor:
        return like.new_tensor(MEAN)[:, None, None]

    def features(self, x: Tensor) -> Tensor:
        # Window encoders pad by themselves here, and what belongs to the padding is cut off.
        return super().features(x)[..., : x.shape[-2], : x.shape[-1]]

    def encode(self, lr: Tensor) -> Encoded:
        image = self.normalise(lr)
        size = (lr.shape[-2], lr.shape[-1])
        corners: list[tuple[int, int]] = []
        if self.tile:
            side = min(self.tile, *size)
            step = side - self.tile_overlap if side > self.tile_overlap else max(1, side // 2)
            along = [[*range(0, length - side, step), length - side] for length in size]
            corners = list(product(*along))
            image = torch.cat([image[..., y : y + side, x : x + side] for y, x in corners])
        features = torch.cat([self.features(part_of) for part_of in image.split(len(lr))])
        return Encoded(image, features, self.cs_attn(features), corners, size)

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        if feat.corners:
            return self._tiles(feat, out_size, chunk or CHUNK)
        return self._whole(feat, out_size, chunk or CHUNK)

    def _tiles(self, feat: Encoded, out_size: tuple[int, int], chunk: int) -> Tensor:
        """Every tile as an image of its own, overlaps averaged."""
        ratios = {out / size for out, size in zip(out_size, feat.size, strict=True)}
        factor = round(min(ratios))
        if ratios != {factor}:
            asked = " x ".join(f"{out / size:g}" for out, size in zip(out_size, feat.size, strict=True))
            raise UserError(
                f"CiaoSR cuts tiles at one whole scale only, not at {asked}: set tile to 0 or change the scale."
            )
        side = feat.image.shape[-1] * factor
        batch = len(feat.image) // len(feat.corners)
        tiles = self._whole(feat, (side, side), chunk).split(batch)
        total, count = tiles[0].new_zeros(batch, 3, *out_size), tiles[0].new_zeros(out_size)
        for (y, x), tile in zip(feat.corners, tiles, strict=True):
            place = slice(y * factor, y * factor + side), slice(x * factor, x * factor + side)
            total[:, :, place[0], place[1]] += tile
            count[place] += 1
        mean: Tensor = total / count
        return mean

    def _whole(self, feat: Encoded, out_size: tuple[int, int], chunk: int) -> Tensor:
        size = (feat.image.shape[-2], feat.image.shape[-1])
        grid = axes(size, size, out_size)
        images = [
            assemble(_Decoder(self, *maps, grid).rows(chunk), out_size[0])
            for maps in zip(feat.features, feat.nonlocal_features, strict=True)
        ]
        colors = torch.stack(images).permute(0, 3, 1, 2)
        out: Tensor = self.denormalise(colors + bilinear(feat.image, grid))
        return out

    def render_at(self, feat: Encoded, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        size = (feat.image.shape[-2], feat.image.shape[-1])
        if feat.corners:
            raise UserError("CiaoSR renders single pixels of whole images only: set tile to 0.")
        grid = axes(size, size, out_size)
        images = [
            _Decoder(self, features, other, grid).points(queries)
            for features, other, queries in zip(feat.features, feat.nonlocal_features, index, strict=True)
        ]
        skip = bilinear(feat.image, grid).flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
        colors = torch.stack(images).transpose(1, 2) + skip
        return self.denormalise(colors[..., None])[..., 0]

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        feat = self.encode(lr)
        return {"out": self.render(feat, out_size, scale), "nonlocal": feat.nonlocal_features}


def shifts(axis: Axis) -> Shifts:
    """The neighbours along one axis, in the float32 arithmetic of the official code."""
    coord, lr_coord = centres(axis.out, axis.out), centres(axis.feat, axis.feat)
    radius = (1 - 2 / axis.out) / (axis.feat - 1) if axis.feat > 1 else 0.0
    moved = [(coord + (sign * radius + NUDGE)).clamp(-1 + NUDGE, 1 - NUDGE) for sign in (-1, 1)]
    pixel = torch.stack([nearest(along, axis.feat) for along in moved])
    return Shifts(nearest(coord, axis.feat), pixel, (coord - lr_coord[pixel]) * axis.feat)


class _Decoder:
    """The decoder for one image: colours of output rows, normalised, without the enlarged image."""

    def __init__(self, model: CiaoSR, features: Tensor, other: Tensor, grid: tuple[Axis, Axis]) -> None:
        """features, other: local and non-local, (C, h, w)."""
        self.model, self.grid = model, grid
        self.y, self.x = (shifts(axis) for axis in grid)
        self.columns = [pixel.to(features.device) for pixel in self.x.pixel]
        self.near = self.x.near.to(features.device)
        self.features = F.pad(features, (0, 0, 1, 1))
        self.other = other.permute(1, 2, 0)
        cell = [axis.rel_cell for axis in grid]
        self.key_map, self.key_offset = _first_layer(model.imnet_k, features, None, cell)
        self.value_map, self.value_offset = _first_layer(model.imnet_v, features, other, cell)
        self._unfolded: dict[int, Tensor] = {}

    def rows(self, chunk: int) -> Iterator[Tensor]:
        """Blocks (rows, W, 3), each of rows whose nearest row of LR pixels is the same."""
        step = max(1, chunk // self.grid[1].out)
        for near, found in runs(self.y.near):
            with part("attention, per LR pixel"):
                table, constant = self._products(near)
            for start in range(found.start, found.stop, step):
                rows = slice(start, min(start + step, found.stop))
                mixed = self._mix(rows, near, table, constant)
                with part("query MLP"):
                    first, *others = self.model.imnet_q.layers
                    yield nn.Sequential(*others)(first(mixed))

    def points(self, index: Tensor) -> Tensor:
        """Colours (N, 3) at the output pixels with flat indices (N,), as published."""
        x = self.grid[1]
        rows, columns = index.div(x.out, rounding_mode="floor"), index % x.out
        y_shifts, x_shifts = (Shifts(*(value.to(index.device) for value in along)) for along in (self.y, self.x))
        local = F.unfold(self.features[None], 3, padding=(0, 1))[0].t()
        pixels = torch.cat([local, self.other.flatten(0, 1).to(local)], dim=-1)
        query = local.index_select(0, y_shifts.near[rows] * x.feat + x_shifts.near[columns])
        scores, values = [], []
        for i, j in product(range(2), range(2)):
            place = y_shifts.pixel[i, rows] * x.feat + x_shifts.pixel[j, columns]
            rel = torch.stack([y_shifts.rel[i, rows], x_shifts.rel[j, columns]], -1).to(self.key_offset)
            seen = pixels.index_select(0, place)
            key, value = (
                mlp.layers[-1](_hidden(mlp, *first, place, rel[:, None]))
                for mlp, first in (
                    (self.model.imnet_k, (self.key_map, self.key_offset)),
                    (self.model.imnet_v, (self.value_map, self.value_offset)),
                )
            )
            scores.append((query * seen[:, : query.shape[1]] * key).sum(-1))
            values.append(seen * value)
        share = torch.softmax(torch.stack(scores), dim=0)[..., None]
        found: Tensor = self.model.imnet_q.layers((share * torch.stack(values)).sum(0))
        return found

    def _mix(self, rows: slice, near: int, table: Tensor, constant: Tensor) -> Tensor:
        """Values of the four neighbours, mixed by the softmax of their scores: (rows, W, 10 C)."""
        scores, hidden, values = [], [], []
        for i, j in product(range(2), range(2)):
            pixel_y, column = self.y.pixel[i, rows].to(self.near.device)[:, None], self.columns[j]
            rel = torch.stack(torch.broadcast_tensors(self.y.rel[i, rows, None], self.x.rel[j]), -1).to(self.key_offset)
            place = pixel_y * self.grid[1].feat + column
            with part("key MLP"):
                key = _hidden(self.model.imnet_k, self.key_map, self.key_offset, place, rel)
                # Which of the nine neighbours of the nearest pixel this one is.
                which = ((pixel_y - near + 1) * 3 + column - self.near + 1) * self.grid[1].feat + self.near
                which = which.flatten()
                scores.append((table.index_select(0, which) * key).sum(-1) + constant.index_select(0, which))
            with part("value MLP"):
                hidden.append(_hidden(self.model.imnet_v, self.value_map, self.value_offset, place, rel))
                values.append(self._values(place, near))
        share = torch.softmax(torch.stack(scores, -1), dim=-1)
        last = self.model.imnet_v.layers[-1]
        mixed = hidden[0].new_zeros(())
        with part("value MLP"):
            for number, (units, value) in enumerate(zip(hidden, values, strict=True)):
                mixed = mixed + last(units).mul_(value).mul_(share[:, number, None].to(units))
        return mixed.view(-1, self.grid[1].out, mixed.shape[-1])

    def _values(self, place: Tensor, near: int) -> Tensor:
        """Unfolded local and non-local features at LR pixels around row `near`, (N, 10 C)."""
        first, rows = self._window(near)
        return rows.index_select(0, (place - first * self.grid[1].feat).flatten())

    def _window(self, near: int) -> tuple[int, Tensor]:
        """The rows of LR pixels from the one above `near` to the one below: the first one's number, (pixels, 10 C)."""
        first, last = max(near - 1, 0), min(near + 1, self.grid[0].feat - 1)
        return first, torch.cat([self._row(row) for row in range(first, last + 1)])

    def _row(self, row: int) -> Tensor:
        """Unfolded local features, then non-local ones, of one row of LR pixels: (w, 10 C)."""
        if row not in self._unfolded:
            self._unfolded = {number: found for number, found in self._unfolded.items() if number >= row - 2}
            local = F.unfold(self.features[None, :, row : row + 3], 3, padding=(0, 1))[0].t()
            self._unfolded[row] = torch.cat([local, self.other[row].to(local)], dim=-1)
        return self._unfolded[row]

    def _products(self, near: int) -> tuple[Tensor, Tensor]:
        """Query of each pixel of a row times features of its nine neighbours, through the key MLP's last layer.

        What hidden units are multiplied by and what is added: (9 w, hidden), (9 w,). Of neighbours outside the image,
        which no query asks for, anything.
        """
        last = cast(nn.Linear, self.model.imnet_k.layers[-1])
        width = last.out_features
        query = self._row(near)[:, :width]
        rows = [self._row(min(max(near + dy, 0), self.grid[0].feat - 1))[:, :width] for dy in (-1, 0, 1)]
        products = torch.cat([query * row.roll(-dx, 0) for row in rows for dx in (-1, 0, 1)])
        return products @ last.weight.to(products), products @ last.bias.to(products)


def _first_layer(mlp: MLP, features: Tensor, other: Tensor | None, cell: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The first layer of a key or value MLP, but for offsets: per LR pixel (h w, hidden); its offset part (2, hidden).

    features (C, h, w), unfolded to 9 C inputs, are a 3x3 convolution; other (C, h, w), if any, a 1x1 convolution.
    """
    first = cast(nn.Linear, mlp.layers[0])
    channels = len(features)
    local = first.weight[:, : 9 * channels].unflatten(1, (channels, 3, 3))
    constant = first.bias + first.weight[:, -2:] @ first.weight.new_tensor(cell)
    found = F.conv2d(features[None], local, constant, padding=1)
    if other is not None:
        found = found + F.conv2d(other[None].to(found), first.weight[:, 9 * channels : 10 * channels, None, None])
    return found[0].flatten(1).t().contiguous(), first.weight[:, -4:-2].t().to(found)


def _hidden(mlp: MLP, pixels: Tensor, offset: Tensor, place: Tensor, rel: Tensor) -> Tensor:
    """Hidden units before an MLP's last layer, (N, hidden), at LR pixels `place` and offsets `rel` from them."""
    x = pixels.index_select(0, place.flatten()).addmm_(rel.flatten(0, 1), offset).relu_()
    for layer in mlp.layers[2:-1]:
        x = x.relu_() if isinstance(layer, nn.ReLU) else layer(x)
    return x
