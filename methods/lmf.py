"""LMF: latent modulated functions (He and Jin, CVPR 2024, arXiv 2404.16451): LM-LIIF, LM-LTE and LM-CiaoSR.

A wide latent MLP runs once per LR pixel and emits that pixel's modulation; a render MLP of 16 units runs per query and
neighbour, its hidden layers scaled and shifted by the modulation of the neighbour. The GSASR paper's "LMF" is
LM-CiaoSR.

The render MLP is evaluated for output rows with the same neighbours at once, units first: its weights are shared, so
each layer is one matrix product over thousands of queries, and modulations are gathered once per row of LR pixels.

Quirks of the official code that are kept: beyond ×4 the network is told the cell of ×4 (`cell`). LM-CiaoSR views the
unfolded features as 3x3 windows of 64 channels, although they are 64 channels of 3x3 windows, so its "sub-windows" are
blocks of scrambled channels, and it measures a sub-window's place in units of the whole image; its non-local attention
runs in tiles of 48 LR pixels on images of more than 48 x 48, and is zero where one side is below 48 then (`attention`).
Training as released leaves the enlarged image out of LM-CiaoSR; here it is always added.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.cmsr import Queries, Tables, levels, parse_tables
from methods.crossscale import CrossScaleAttention
from methods.encoders.edsr import conv3x3
from methods.errors import UserError
from methods.fourier import runs
from methods.grid import (
    Axis,
    CellRule,
    Member,
    Slots,
    assemble,
    bilinear,
    cell_factor,
    check_cell,
    members,
    row_blocks,
)
from methods.implicit import ImplicitMethod, axes, wide
from methods.mlp import MLP
from methods.parts import part

CHUNK = 8192
"""Queries at a time."""
LATENT_CHUNK = 8192
"""LR pixels at a time in the latent MLP."""
UNITS = 16
"""Width of the render MLP's hidden layers."""
TILE = 48
"""Side of LM-CiaoSR's attention tiles, in LR pixels."""


class Encoded(NamedTuple):
    """What of LR images does not depend on the scale; sizes with the padding of window encoders."""

    size: tuple[int, int]
    """(h, w) of the LR image."""
    image: Tensor
    """The normalised image, (B, 3, h', w')."""
    maps: tuple[Tensor, ...]
    """What the latent MLP starts from, (B, channels, h', w') each."""


class Layers(NamedTuple):
    """The modulation of N LR pixels for one layer of the render MLP, with its bias folded in: (16, N) each."""

    scale: Tensor
    shift: Tensor


class Modulated(ImplicitMethod):
    """What the three variants share; they differ in the latent stage and in the render MLP's first layer.

    depth: hidden layers of the render MLP. cell: `"clipped"`, an output pixel's size, beyond `scale_max` that of
    `scale_max`, as LMF evaluates, or `"true"`, its size at every scale. cmsr: tables of the controllable multi-scale
    rendering, {scale: {render scale: threshold}}, `"published"` for those of EDSR-baseline, or None: smooth regions are
    rendered at lower scales, which changes the output a little; square scales above 4 only.
    """

    options = frozenset({"cell", "scale_max", "cmsr"})
    features_count: ClassVar[int]
    """Numbers of a modulation beside scales and shifts: features for the first layer."""
    published_tables: ClassVar[Tables]
    skip = True
    """Whether the image enlarged bilinearly is added."""

    def __init__(
        self,
        encoder: nn.Module,
        depth: int,
        cell: CellRule,
        scale_max: float,
        cmsr: str | Mapping[Any, Mapping[Any, float]] | None,
    ) -> None:
        super().__init__(encoder)
        check_cell(cell, "LMF")
        if depth < 1:
            raise UserError(f"LMF cannot render with {depth} hidden layers: choose one or more.")
        self.depth, self.cell, self.scale_max = depth, cell, scale_max
        self.cmsr = self.published_tables if cmsr == "published" else parse_tables(cmsr)

    @property
    @abstractmethod
    def render_mlp(self) -> MLP:
        """The render MLP."""

    @abstractmethod
    def latent(self, maps: Sequence[Tensor], cell: Sequence[float], rows: slice) -> Tensor:
        """Modulations of some rows of LR pixels of one image, (rows, w, channels). maps: (channels, h, w) each."""

    @abstractmethod
    def first_layer(self, features: Tensor, layer: Layers, rel: tuple[Tensor, Tensor], cell: Sequence[float]) -> Tensor:
        """The render MLP up to its first ReLU, (16, n, m).

        features, layer: of the LR pixels, (channels, 1, m). rel: offsets y and x that broadcast to (n, m).
        """

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        grid, cell = self._geometry(feat, out_size, scale)
        images = []
        for image, *maps in zip(feat.image, *feat.maps, strict=True):
            with part("latent MLP"):
                table = self._table(maps, cell)
            images.append(self._image(image, table, grid, cell, scale, chunk or CHUNK))
        return self.denormalise(torch.stack(images))

    def render_at(self, feat: Encoded, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        grid, cell = self._geometry(feat, out_size, scale)
        y, x = (Slots(*map(torch.stack, zip(*(m[:2] for m in members(axis)), strict=True))) for axis in grid)
        images = []
        for number, queries in enumerate(index):
            renderer = _Renderer(self, self._table([found[number] for found in feat.maps], cell), cell)
            rows, columns = queries.div(grid[1].out, rounding_mode="floor").cpu(), (queries % grid[1].out).cpu()
            chosen = [Slots(*(value[:, at] for value in along)) for along, at in ((y, rows), (x, columns))]
            images.append(renderer.points(chosen[0], chosen[1], len(queries)))
        colors = torch.stack(images)
        if self.skip:
            colors = colors + bilinear(feat.image, grid).flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
        return self.denormalise(colors)

    def _geometry(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float]
    ) -> tuple[tuple[Axis, Axis], list[float]]:
        """The axes of a rendering, and the cell that the network is told."""
        grid = axes(feat.size, (feat.image.shape[-2], feat.image.shape[-1]), out_size)
        factors = [cell_factor(self.cell, s, self.scale_max) for s in scale]
        return grid, [axis.rel_cell * factor for axis, factor in zip(grid, factors, strict=True)]

    def _image(
        self,
        image: Tensor,
        table: Tensor,
        grid: tuple[Axis, Axis],
        cell: Sequence[float],
        scale: tuple[float, float],
        chunk: int,
    ) -> Tensor:
        """One image, normalised, (3, H, W)."""
        if self.cmsr and grid[0].out * grid[1].out > 16 * grid[0].lr * grid[1].lr:
            return self._multi_scale(image, table, grid, scale, chunk)
        colors = _Renderer(self, table, cell).grid(grid, chunk)
        return colors + bilinear(image[None], grid)[0] if self.skip else colors

    def _table(self, maps: Sequence[Tensor], cell: Sequence[float]) -> Tensor:
        """Modulations of all LR pixels of an image, (channels, h, w)."""
        height, width = maps[0].shape[1:]
        blocks = row_blocks((height, width), LATENT_CHUNK)
        table = assemble((self.latent(maps, cell, rows) for rows in blocks), height)
        return table.permute(2, 0, 1).contiguous()

    def _multi_scale(
        self, image: Tensor, table: Tensor, grid: tuple[Axis, Axis], scale: tuple[float, float], chunk: int
    ) -> Tensor:
        """Controllable multi-scale rendering: each region at the scale that the strength of its modulation asks for."""
        if abs(scale[0] - scale[1]) > 1e-6 * max(scale):
            asked = f"{scale[0]:g} x {scale[1]:g}"
            raise UserError(
                f"LMF renders at several scales for one scale of both axes only, not {asked}: set cmsr to none."
            )
        shifts = table[UNITS * self.depth : 2 * UNITS * self.depth]
        strength = shifts.abs().mean(0)
        size = (grid[0].lr, grid[1].lr)
        image = image[:, : size[0], : size[1]]
        running = image
        assert self.cmsr is not None
        target = math.sqrt(grid[0].out * grid[1].out / (size[0] * size[1]))
        for level in levels(self.cmsr, target):
            out = int(size[0] * level.scale), int(size[1] * level.scale)
            factor = cell_factor(self.cell, level.scale, self.scale_max)
            cell = [2 * n / n_out * factor for n, n_out in zip(size, out, strict=True)]
            queries = Queries(size, out)
            chosen = level.chooses(queries.at_nearest(strength))
            slots = queries.slots(chosen)
            if slots[0].pixel.numel():
                colors = _Renderer(self, table, cell).points(*slots, chunk)
                running = queries.sample(running)
                fresh = colors + queries.sample(image)[:, chosen] if self.skip else colors
                running[:, chosen] = fresh.to(running.dtype)  # autocast may have halved the decoder's alone
        final = (grid[0].out, grid[1].out)
        if tuple(running.shape[1:]) == final:
            return running
        enlarged: Tensor = F.interpolate(running[None], size=final, mode="bilinear", align_corners=False)[0]
        return enlarged


class _Renderer:
    """The render MLP on one image."""

    def __init__(self, method: Modulated, table: Tensor, cell: Sequence[float]) -> None:
        """table: modulations, (channels, h, w)."""
        self.method, self.table, self.cell = method, table, cell
        self.linears = [layer for layer in method.render_mlp.layers if isinstance(layer, nn.Linear)]
        self._columns: dict[tuple[int, int], tuple[Tensor, list[Layers]]] = {}

    def grid(self, grid: tuple[Axis, Axis], chunk: int) -> Tensor:
        """Colours of all output pixels, (3, H, W)."""
        return assemble(self._blocks(grid, chunk), grid[0].out, dim=1)

    def _blocks(self, grid: tuple[Axis, Axis], chunk: int) -> Iterator[Tensor]:
        """`grid`, some rows at a time."""
        y, x = (members(axis) for axis in grid)
        step = max(1, chunk // grid[1].out)
        for low, found in runs(y[0].pixel):
            # Rows with the same neighbour below have the same one above, but for rows beyond the outermost centres.
            for high, within in runs(y[1].pixel[found]):
                start, stop = found.start + within.start, found.start + within.stop
                for first in range(start, stop, step):
                    rows = slice(first, min(first + step, stop))
                    yield self._rows(rows, (low, high), y, x)

    def _rows(self, rows: slice, pixels: tuple[int, int], y: Sequence[Member], x: Sequence[Member]) -> Tensor:
        """Some rows that share their neighbours: (3, rows, W)."""
        mixed = self.table.new_zeros(())
        for i, j in product(range(2), range(2)):
            rel_y, rel_x = self._moved(y[i].rel[rows, None]), self._moved(x[j].rel)
            weight = (self._moved(y[i].weight[rows, None]) * self._moved(x[j].weight)).to(self.table)
            mixed = torch.addcmul(mixed, weight, self._hidden(*self._column(pixels[i], j, x[j].pixel), rel_y, rel_x))
        return self._last(mixed)

    def points(self, y: Slots, x: Slots, chunk: int) -> Tensor:
        """Colours of N single queries, with weights as published, (3, N)."""
        found = []
        for parts in zip(*(value.to(self.table.device).split(chunk, 1) for value in (*y, *x)), strict=True):
            pixel_y, rel_y, pixel_x, rel_x = parts
            area = (rel_y[:, None] * rel_x).abs() + 1e-9
            weights = area.flip(0, 1) / area.sum((0, 1))
            mixed = self.table.new_zeros(())
            for i, j in product(range(2), range(2)):
                place = pixel_y[i] * self.table.shape[2] + pixel_x[j]
                modulation = self._split(self.table.flatten(1).index_select(1, place)[:, None])
                hidden = self._hidden(*modulation, self._moved(rel_y[i, None]), self._moved(rel_x[j, None]))
                mixed = torch.addcmul(mixed, weights[i, j].to(hidden), hidden)
            found.append(self._last(mixed)[:, 0])
        return torch.cat(found, dim=1)

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self.table.device, wide(self.table.dtype))

    def _column(self, row: int, number: int, pixel: Tensor) -> tuple[Tensor, list[Layers]]:
        """Modulations of a row of LR pixels, gathered for all output columns."""
        if (row, number) not in self._columns:
            self._columns = {key: value for key, value in self._columns.items() if key[0] >= row - 1}
            gathered = self.table[:, row].index_select(1, pixel.to(self.table.device))[:, None]
            self._columns[row, number] = self._split(gathered)
        return self._columns[row, number]

    def _split(self, modulation: Tensor) -> tuple[Tensor, list[Layers]]:
        """Modulations (channels, 1, m): features, and per layer scale and shift, (16, 1, m).

        A layer computes (W x + b) (S + 1) + T, which is W x (S + 1) + (b (S + 1) + T).
        """
        depth = self.method.depth
        scale, shift, features = modulation.split([UNITS * depth, UNITS * depth, self.method.features_count])
        scale = scale + 1
        bias = torch.cat([cast(Tensor, layer.bias) for layer in self.linears[:depth]]).to(scale)
        shift = torch.addcmul(shift, scale, bias[:, None, None])
        layers = [Layers(*pair) for pair in zip(scale.split(UNITS), shift.split(UNITS), strict=True)]
        return features, layers

    def _hidden(self, features: Tensor, layers: Sequence[Layers], rel_y: Tensor, rel_x: Tensor) -> Tensor:
        """The last hidden layer, (16, n, m)."""
        with part("render MLP"):
            x = self.method.first_layer(features, layers[0], (rel_y, rel_x), self.cell)
            for linear, layer in zip(self.linears[1:], layers[1:], strict=False):
                product_of = (linear.weight.to(x) @ x.flatten(1)).view(x.shape)
                x = torch.addcmul(layer.shift, product_of, layer.scale).relu_()
        return x

    def _last(self, mixed: Tensor) -> Tensor:
        """The last layer: linear, so it may follow the ensemble, whose weights sum to 1. (16, n, m) to (3, n, m)."""
        last = self.linears[-1]
        found = last.weight.to(mixed) @ mixed.flatten(1) + cast(Tensor, last.bias).to(mixed)[:, None]
        colors: Tensor = found.unflatten(1, mixed.shape[1:])
        return colors


def _offset_layer(weight: Tensor, start: Tensor, layer: Layers, rel: tuple[Tensor, Tensor]) -> Tensor:
    """ReLU((start + weight rel) scale + shift), without the bias, which `shift` has: (16, n, m).

    weight: (16, 2). start: (16, 1, m). rel: (n, 1 or m) and (m,) or (1, m).
    """
    by_y, by_x = (column[:, None, None] for column in weight.to(start).unbind(1))
    rel_y, rel_x = (value.to(start) for value in rel)
    row = torch.addcmul(layer.shift, torch.addcmul(start, by_x, rel_x), layer.scale)
    return torch.addcmul(row, by_y * rel_y, layer.scale).relu_()


def _render_widths(inputs: int, depth: int) -> tuple[int, ...]:
    return (inputs, *[UNITS] * depth, 3)


class LMLIIF(Modulated):
    """LM-LIIF on any encoder; the defaults are the published model.

    hidden: width of the latent MLP. The rest: see `Modulated`.
    """

    features_count = 16
    skip = False
    published_tables: ClassVar[Tables] = {
        8: {1: 0.33, 2: 0.38, 4: 0.56, 6: 0.60, 8: 1},
        12: {1: 0.32, 2: 0.39, 4: 0.54, 6: 1},
        18: {1: 0.31, 2: 0.41, 4: 0.54, 6: 1},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 208,
        depth: int = 6,
        cell: CellRule = "clipped",
        scale_max: float = 4.0,
        cmsr: str | Mapping[Any, Mapping[Any, float]] | None = None,
    ) -> None:
        super().__init__(encoder, depth, cell, scale_max, cmsr)
        self.hypernet = MLP(9 * self.channels + 2, hidden, 2 * UNITS * depth + self.features_count)
        self.imnet = MLP(*_render_widths(self.features_count + 4, depth))

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        found = {"hidden": config["hypernet_spec"]["args"]["hidden_list"][0]} if "hypernet_spec" in config else {}
        return found | _common_hparams(config, "imnet_spec")

    @property
    def render_mlp(self) -> MLP:
        return self.imnet

    def encode(self, lr: Tensor) -> Encoded:
        image = self.normalise(lr)
        features = self.features(image)
        with part("latent MLP"):
            first = cast(nn.Linear, self.hypernet.layers[0])
            kernel = first.weight[:, :-2].unflatten(1, (self.channels, 3, 3))
            return Encoded((lr.shape[-2], lr.shape[-1]), image, (F.conv2d(features, kernel, first.bias, padding=1),))

    def latent(self, maps: Sequence[Tensor], cell: Sequence[float], rows: slice) -> Tensor:
        first, _, second = cast(Any, self.hypernet.layers)
        constant = first.weight[:, -2:] @ first.weight.new_tensor(cell)
        hidden = (maps[0][:, rows].permute(1, 2, 0) + constant.to(maps[0])).relu_()
        found: Tensor = second(hidden)
        return found

    def first_layer(self, features: Tensor, layer: Layers, rel: tuple[Tensor, Tensor], cell: Sequence[float]) -> Tensor:
        weight = cast(nn.Linear, self.imnet.layers[0]).weight.to(features)
        of_features, of_rel, of_cell = weight.split([self.features_count, 2, 2], dim=1)
        start = (of_features @ features.flatten(1) + (of_cell @ of_cell.new_tensor(cell))[:, None])[:, None]
        return _offset_layer(of_rel, start, layer, rel)


class LMLTE(Modulated):
    """LM-LTE on any encoder; the defaults are the published model.

    dim: amplitudes and frequencies per LR pixel. hidden: width of the latent MLP. The rest: see `Modulated`.
    """

    features_count = 32
    published_tables: ClassVar[Tables] = {
        8: {1: 0.12, 2: 0.15, 4: 0.215, 6: 1},
        12: {1: 0.12, 2: 0.155, 4: 0.215, 6: 1},
        18: {1: 0.12, 2: 0.15, 4: 0.215, 6: 1},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int = 128,
        hidden: int = 288,
        depth: int = 8,
        cell: CellRule = "clipped",
        scale_max: float = 4.0,
        cmsr: str | Mapping[Any, Mapping[Any, float]] | None = None,
    ) -> None:
        super().__init__(encoder, depth, cell, scale_max, cmsr)
        self.coef, self.freq = conv3x3(self.channels, dim), conv3x3(self.channels, dim)
        self.phase = nn.Linear(2, dim // 2, bias=False)
        self.imphase = nn.Linear(2, UNITS // 2, bias=False)
        self.hypernet = MLP(dim, hidden, 2 * UNITS * depth + self.features_count)
        self.imnet = MLP(*_render_widths(UNITS, depth))

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        found = {"hidden": config["hypernet_spec"]["args"]["hidden_list"][0]} if "hypernet_spec" in config else {}
        found |= {"dim": config["hidden_dim"]} if "hidden_dim" in config else {}
        return found | _common_hparams(config, "imnet_spec")

    @property
    def render_mlp(self) -> MLP:
        return self.imnet

    def encode(self, lr: Tensor) -> Encoded:
        image = self.normalise(lr)
        features = self.features(image)
        with part("latent MLP"):
            # The latent stage has no offset, so it sees the sum of a pair's frequencies.
            weight, bias = (
                value.unflatten(0, (-1, 2)).sum(1) for value in (self.freq.weight, cast(Tensor, self.freq.bias))
            )
            maps = self.coef(features), F.conv2d(features, weight, bias, padding=1)
        return Encoded((lr.shape[-2], lr.shape[-1]), image, maps)

    def latent(self, maps: Sequence[Tensor], cell: Sequence[float], rows: slice) -> Tensor:
        coef, freq = (found[:, rows].permute(1, 2, 0) for found in maps)
        angle = math.pi * (freq.to(wide(freq.dtype)) + _phase(self.phase, cell))
        found: Tensor = self.hypernet.layers(torch.cat([angle.cos(), angle.sin()], -1).to(coef) * coef)
        return found

    def first_layer(self, features: Tensor, layer: Layers, rel: tuple[Tensor, Tensor], cell: Sequence[float]) -> Tensor:
        coef, freq = features.chunk(2)
        freq_y, freq_x = (freq[start::2].to(rel[0]) for start in (0, 1))
        row = torch.addcmul(_phase(self.imphase, cell)[:, None, None].to(rel[0]), freq_x, rel[1])
        angle = torch.addcmul(row, freq_y, rel[0]).mul_(math.pi)
        x = torch.cat([angle.cos(), angle.sin()]).to(coef) * coef
        weight = cast(nn.Linear, self.imnet.layers[0]).weight.to(x)
        return torch.addcmul(layer.shift, (weight @ x.flatten(1)).view(x.shape), layer.scale).relu_()


class LMCiaoSR(Modulated):
    """LM-CiaoSR on any encoder, the paper's LMF; the defaults are the published model.

    attention: `"official"`, in tiles of 48 LR pixels on images of more than 48 x 48, and zero where a side is below 48
    then, or `"whole"`, over the whole image. hidden: widths of query, key and value MLPs, and of the latent MLP. The
    rest: see `Modulated`.
    """

    options = Modulated.options | {"attention"}
    features_count = 32
    published_tables: ClassVar[Tables] = {
        8: {1: 0.20, 2: 0.23, 4: 0.29, 6: 0.33, 8: 1},
        12: {1: 0.19, 2: 0.24, 4: 0.30, 8: 0.39, 12: 1},
        18: {1: 0.19, 2: 0.22, 4: 0.29, 8: 0.39, 16: 0.48, 18: 1},
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: tuple[int, int] = (256, 288),
        depth: int = 8,
        attention: Literal["official", "whole"] = "official",
        cell: CellRule = "clipped",
        scale_max: float = 4.0,
        cmsr: str | Mapping[Any, Mapping[Any, float]] | None = None,
    ) -> None:
        super().__init__(encoder, depth, cell, scale_max, cmsr)
        if attention not in ("official", "whole"):
            raise UserError(f"LMF has no attention {attention!r}: choose official or whole.")
        self.attention = attention
        key = 4 * self.channels
        value = key + self.channels
        self.cs_attn = CrossScaleAttention(self.channels)
        self.prenet_q = MLP(9 * self.channels, hidden[0], key)
        self.imnet_k = MLP(key + 4, hidden[0], key)
        self.imnet_v = MLP(value + 4, hidden[0], value)
        self.hypernet_q = MLP(value, hidden[1], 2 * UNITS * depth + self.features_count)
        self.imnet_q = MLP(*_render_widths(self.features_count + 2, depth))

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "prenet_q" in config:
            widths = (config[name]["args"]["hidden_list"][0] for name in ("prenet_q", "hypernet_q"))
            found["hidden"] = tuple(widths)
        return found | _common_hparams(config, "imnet_q")

    @property
    def render_mlp(self) -> MLP:
        return self.imnet_q

    def encode(self, lr: Tensor) -> Encoded:
        image = self.normalise(lr)
        features = self.features(image)
        return Encoded((lr.shape[-2], lr.shape[-1]), image, (features, self._nonlocal(features)))

    def _nonlocal(self, features: Tensor) -> Tensor:
        """Non-local features (B, C, h, w)."""
        height, width = features.shape[-2:]
        if self.attention == "whole" or height * width <= TILE**2:
            whole: Tensor = self.cs_attn(features)
            return whole
        found = torch.zeros_like(features)
        for (top, bottom), (left, right) in product(_tiles(height), _tiles(width)):
            # Tiles are read with a margin of a pixel where there is one.
            above, before = min(top, 1), min(left, 1)
            tile = self.cs_attn(features[..., top - above : bottom + 1, left - before : right + 1])
            found[..., top:bottom, left:right] = tile[..., above : above + bottom - top, before : before + right - left]
        return found

    def latent(self, maps: Sequence[Tensor], cell: Sequence[float], rows: slice) -> Tensor:
        features, other = maps
        _, height, width = features.shape
        window = F.pad(
            features[:, max(rows.start - 1, 0) : rows.stop + 1], (0, 0, rows.start == 0, rows.stop == height)
        )
        unfolded = F.unfold(window[None], 3, padding=(0, 1))[0].t()  # (N, 9 C)
        query = self.prenet_q.layers(unfolded)
        place = unfolded.new_tensor(cell)
        beside = other[:, rows].permute(1, 2, 0).flatten(0, 1)
        windows = unfolded.unflatten(1, (3, 3, -1))
        scores, values = [], []
        for v0, v1 in product((-1, 1), (-1, 1)):
            first, second = (v1 + 1) // 2, (v0 + 1) // 2
            key = windows[:, first : first + 2, second : second + 2].flatten(1)
            value = torch.cat([key, beside], -1)
            there = torch.cat([place.new_tensor([-v0 / height, -v1 / width]), place])
            scores.append((key * _with_constant(self.imnet_k, key, there) * query).sum(-1))
            values.append(value * _with_constant(self.imnet_v, value, there))
        share = torch.softmax(torch.stack(scores), dim=0)
        mixed = sum(
            (value * weight[:, None] for value, weight in zip(values, share, strict=True)), start=share.new_zeros(())
        )
        found: Tensor = self.hypernet_q.layers(mixed)
        rows_of: Tensor = found.unflatten(0, (-1, width))
        return rows_of

    def first_layer(self, features: Tensor, layer: Layers, rel: tuple[Tensor, Tensor], cell: Sequence[float]) -> Tensor:
        weight = cast(nn.Linear, self.imnet_q.layers[0]).weight.to(features)
        of_features, of_rel = weight.split([self.features_count, 2], dim=1)
        return _offset_layer(of_rel, (of_features @ features.flatten(1))[:, None], layer, rel)


def _with_constant(mlp: MLP, x: Tensor, constant: Tensor) -> Tensor:
    """An MLP of x (N, channels) and numbers that all rows share, which go into the first bias."""
    first, *others = mlp.layers
    linear = cast(nn.Linear, first)
    weight, shared = linear.weight.split([x.shape[1], len(constant)], dim=1)
    found: Tensor = nn.Sequential(*others)(F.linear(x, weight, linear.bias + shared @ constant.to(shared)))
    return found


def _phase(linear: nn.Linear, cell: Sequence[float]) -> Tensor:
    weight = linear.weight.to(wide(linear.weight.dtype))
    return weight @ weight.new_tensor(cell)


def _tiles(size: int) -> list[tuple[int, int]]:
    """From and to of the tiles along an axis; the last one reaches the border; none below one tile."""
    starts = range(0, size - TILE + 1, TILE)
    return [(start, size if start + 2 * TILE > size else start + TILE) for start in starts]


def _common_hparams(config: Mapping[str, Any], render: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if render in config:
        found["depth"] = config[render]["args"]["hidden_depth"]
    tables = config.get("s2m_tables") or (config.get("cmsr_spec") or {}).get("s2m_tables")
    return found | ({"cmsr": tables} if tables else {})
