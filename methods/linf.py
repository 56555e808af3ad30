"""LINF: local implicit normalizing flow (Yao et al., CVPR 2023, arXiv 2303.05156).

What the four nearest LR pixels know, as waves (LTE), is decoded by an MLP into the scales and shifts of a small flow
per output pixel, whose inverse turns a latent into the difference between the image and the LR image enlarged
bilinearly. Latent 0 gives the deterministic image that PSNR tables report; drawn latents give samples. The patch
version makes 3x3 pixels per query.

Quirks of the official code that are kept: neighbours enter by slot, which makes the output jump where slots swap, on
the centres of LR pixels, and the float32 rounding of the published coordinates decides what queries exactly on a centre
see; on the centre of the last LR row or column the ensemble weights depend on that rounding. The cell is clipped beyond
×30 only, LTE's beyond ×4 (`scale_max`). With window encoders coordinates belong to the padded image, the cell to the
original. Where a patch has its own centre outside of the image, the patch version asks for what is at the image's
centre. Latents are drawn here for the whole image at once, row by row, so that they do not depend on the chunk. The
official code draws them in blocks of 256 rows: the same numbers for one image on a CPU, others for batches and on GPUs;
and it draws at temperature 0 too, in vain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise, product
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import nominal_scale
from methods.encoders.edsr import conv3x3
from methods.errors import UserError
from methods.fourier import GridWaves, WaveMaps, waves
from methods.grid import (
    Axis,
    CellRule,
    Slots,
    assemble,
    bilinear,
    cell_factor,
    check_cell,
    coordinates,
    row_blocks,
    slots,
)
from methods.implicit import ImplicitMethod, axes, wide
from methods.parts import part

CHUNK = 4096
"""Queries at a time."""
NEIGHBOURS = list(product(range(2), range(2)))
"""Which of the two along y and along x; in the order of the MLP's inputs."""


class Matrix(nn.Module):
    """u to W u + b in the flow, under the official keys."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._weight = nn.Parameter(torch.linalg.qr(torch.randn(size, size))[0])
        self.bias = nn.Parameter(torch.zeros(size))

    def inverse(self) -> tuple[Tensor, Tensor]:
        """v to W^-1 (v - b), as matrix and offset in float64."""
        inverse = torch.linalg.inv(self._weight.double())
        return inverse, -inverse @ self.bias.double()


class Flow(nn.Module):
    """Alternating matrices and elementwise affine maps; between a residual of `size` numbers and its latent.

    In float32 at least, also under autocast: errors grow with every inverse.
    """

    def __init__(self, layers: int, size: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(Matrix(size) for _ in range(layers))
        self.last = Matrix(size)

    def inverses(self) -> list[tuple[Tensor, Tensor]]:
        """What `to_data` applies, in its order; the same for a whole rendering."""
        return [layer.inverse() for layer in reversed(self._matrices())]

    def to_data(self, latent: Tensor | None, affine: Tensor, inverses: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """From latents (..., size), None for zeros, to residuals. affine: raw scales, shifts, (..., 2 layers size)."""
        scale, shift = self._affine(affine)
        (matrix, offset), *others = [(matrix.to(shift), offset.to(shift)) for matrix, offset in inverses]
        with _autocast_off(affine.device):
            u = offset if latent is None else F.linear(latent.to(shift), matrix, offset)
            for i, (matrix, offset) in zip(reversed(range(len(others))), others, strict=True):
                u = F.linear((u - shift[..., i, :]) / scale[..., i, :], matrix, offset)
        return u

    def log_density(self, residual: Tensor, affine: Tensor) -> Tensor:
        """Natural logarithm of the density of residuals (..., size) under latents from N(0, 1): (...)."""
        scale, shift = self._affine(affine)
        first, *others = [(layer._weight.to(shift), layer.bias.to(shift)) for layer in self._matrices()]
        volume = sum(torch.linalg.slogdet(layer._weight.double())[1] for layer in self._matrices())
        with _autocast_off(affine.device):
            u = F.linear(residual.to(shift), *first)
            for i, layer in enumerate(others):
                u = F.linear(u * scale[..., i, :] + shift[..., i, :], *layer)
        normal = -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)
        return normal + scale.log().sum((-2, -1)) + cast(Tensor, volume).to(u)

    def _matrices(self) -> list[Matrix]:
        return [*cast(Sequence[Matrix], self.linears), self.last]

    def _affine(self, affine: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = affine.to(wide(affine.dtype)).unflatten(-1, (len(self.linears), 2, -1)).unbind(-2)
        return torch.sigmoid(raw + 2) + 1e-4, shift


class _Queries(NamedTuple):
    """Where rows and columns of queries lie, and what the cell adds to angles."""

    y: Slots
    x: Slots
    phase: Tensor


class LINF(ImplicitMethod):
    """LINF on any encoder; the defaults are the published model for single pixels.

    dim: width of the network. depth: hidden layers of the MLP. flow_layers: of the flow. patch: side of the square of
    pixels that a query makes, odd; published are 1 and 3. temperature: deviation of the latents, drawn from torch's
    generator of the device; 0 draws none. cell: `"clipped"`, an output pixel's size, beyond `scale_max` that of
    `scale_max`, or `"true"`, its size at every scale.
    """

    options = frozenset({"cell", "scale_max", "temperature"})

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int = 256,
        depth: int = 3,
        flow_layers: int = 10,
        patch: int = 1,
        temperature: float = 0.0,
        cell: CellRule = "clipped",
        scale_max: float = 30.0,
    ) -> None:
        super().__init__(encoder)
        check_cell(cell, "LINF")
        if patch < 1 or patch % 2 == 0:
            raise UserError(f"LINF cannot make patches of {patch} pixels: choose an odd number, 1 for single pixels.")
        _check_temperature(temperature)
        self.patch, self.temperature, self.cell, self.scale_max = patch, float(temperature), cell, scale_max
        size = 3 * patch**2
        self.coef, self.freq = conv3x3(self.channels, dim), conv3x3(self.channels, dim)
        self.phase = nn.Linear(2, dim // 2, bias=False)
        widths = [4 * dim, *[dim] * depth]
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Conv2d(*pair, 1), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Conv2d(dim, 2 * flow_layers * size, 1))
        self.imnet = Flow(flow_layers, size)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        names = {
            "hidden_dim": "dim",
            "num_layer": "depth",
            "flow_layers": "flow_layers",
            "patch_size": "patch",
            "temperature": "temperature",
        }
        return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}

    def encode(self, lr: Tensor) -> WaveMaps:
        image = self.normalise(lr)
        features = self.features(image)
        with part("amplitudes and frequencies"):
            maps = [conv(features).permute(0, 2, 3, 1).contiguous() for conv in (self.coef, self.freq)]
        return WaveMaps((lr.shape[-2], lr.shape[-1]), image, *maps)

    def render(
        self, feat: WaveMaps, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        return self._images(feat, out_size, scale, self._draw(feat, out_size, self.temperature), chunk)

    def sample(
        self,
        lr: Tensor,
        out_size: tuple[int, int],
        scale: float | tuple[float, float] | None = None,
        *,
        count: int,
        temperature: float,
        chunk: int | None = None,
    ) -> Tensor:
        """Several samples (count, B, 3, H, W) of lr (B, 3, h, w) super-resolved, as `forward` in a row would draw them.

        All of them take the MLP, which does not see the latents, once.

        Raises:
            UserError: the temperature is negative or not finite.
        """
        _check_temperature(temperature)
        feat = self.encode(lr)
        latents = [self._draw(feat, out_size, temperature) for _ in range(count)]
        drawn = torch.stack(cast(list[Tensor], latents)) if temperature else None
        images = self._images(feat, out_size, nominal_scale(lr, out_size, scale), drawn, chunk)
        return images.expand(count, *images.shape[-4:])

    def render_at(self, feat: WaveMaps, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        """At temperature 0; the patch version makes the patch around each pixel, of which this is the central one."""
        grid = axes(feat.size, feat.map_size, out_size)
        patches = self.imnet.to_data(None, self._affine_at(feat, index, grid, scale), self.imnet.inverses())
        residual = patches.unflatten(-1, (3, -1))[..., self.patch**2 // 2].transpose(1, 2)
        skip = bilinear(feat.image, grid).flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
        return self.denormalise((residual + skip).to(skip))

    def log_density(
        self, feat: WaveMaps, hr: Tensor, scale: tuple[float, float], index: Tensor | None = None
    ) -> Tensor:
        """Natural log-density of images hr (B, 3, H, W) in [0, 1] given LR ones, which training maximises: (B, Q).

        index: flat indices of pixels (B, Q), as in `render_at`; None for all of them. The density is that of the
        residual at a pixel; for the patch version in the patch around it, 0 outside of the image.
        """
        grid = axes(feat.size, feat.map_size, (hr.shape[-2], hr.shape[-1]))
        every = torch.arange(grid[0].out * grid[1].out, device=hr.device).expand(len(hr), -1)
        index = every if index is None else index
        patches = F.unfold((hr - 0.5) / 0.5 - bilinear(feat.image, grid), self.patch, padding=self.patch // 2)
        found = []
        for queries in index.split(CHUNK, dim=1):
            residual = patches.gather(2, queries[:, None].expand(-1, patches.shape[1], -1)).transpose(1, 2)
            found.append(self.imnet.log_density(residual, self._affine_at(feat, queries, grid, scale)))
        return torch.cat(found, dim=1)

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if "z" not in given:
            return {"out": self(lr, out_size, scale)}
        feat, tiles = self.encode(lr), map(self._tiles, out_size)
        latent = self.temperature * given["z"].view(len(lr), *tiles, -1)
        density = self.log_density(feat, given["gt"], scale).view(len(lr), *out_size)
        return {"out": self._images(feat, out_size, scale, latent, None), "log_p": density}

    def _tiles(self, out: int) -> int:
        """Queries along an axis of `out` pixels; of patches officially one more than needed where they fit."""
        return out if self.patch == 1 else out // self.patch + 1

    def _draw(self, feat: WaveMaps, out_size: tuple[int, int], temperature: float) -> Tensor | None:
        """Latents of all queries, (B, rows, columns, size); None at temperature 0."""
        if not temperature:
            return None
        shape = (len(feat.image), *map(self._tiles, out_size), 3 * self.patch**2)
        return temperature * torch.randn(shape, dtype=wide(feat.coef.dtype), device=feat.coef.device)

    def _images(
        self,
        feat: WaveMaps,
        out_size: tuple[int, int],
        scale: tuple[float, float],
        latent: Tensor | None,
        chunk: int | None,
    ) -> Tensor:
        """Images (..., B, 3, H, W) of latents (..., B, rows, columns, size), or of latents 0."""
        grid, inverses = axes(feat.size, feat.map_size, out_size), self.imnet.inverses()

        def residuals() -> Iterator[Tensor]:
            start = 0
            for affine in self._affine(feat, grid, scale, chunk or CHUNK):
                stop = start + affine.shape[1]
                with part("flow"):
                    yield self.imnet.to_data(
                        None if latent is None else latent[..., start:stop, :, :], affine, inverses
                    )
                start = stop

        # Numbers of a patch are ordered by channel, row, column.
        patches = assemble(residuals(), self._tiles(out_size[0]), dim=-3).movedim(-1, -3)
        pixels = F.pixel_shuffle(patches, self.patch)
        skip = bilinear(feat.image, grid)
        return self.denormalise((pixels[..., : out_size[0], : out_size[1]] + skip).to(skip))

    def _affine(
        self, feat: WaveMaps, grid: tuple[Axis, Axis], scale: tuple[float, float], chunk: int
    ) -> Iterator[Tensor]:
        """The flow's parameters at all queries, (B, rows, columns, 2 layers size), a few rows at a time."""
        coords = [coordinates(axis)[self.patch // 2 :: self.patch] for axis in grid]
        rows, columns = (self._tiles(axis.out) for axis in grid)
        blocks = self._blocks(feat, self._queries(grid, coords, scale), chunk)
        if (rows, columns) == tuple(map(len, coords)):
            yield from blocks
            return
        # Patches with centres outside of the image officially see coordinates of 0, the image's centre.
        (centre,) = self._blocks(feat, self._queries(grid, [torch.zeros(1)] * 2, scale), 1)
        for block in blocks:
            yield torch.cat([block, centre.expand(-1, block.shape[1], columns - block.shape[2], -1)], dim=2)
            rows -= block.shape[1]
        yield centre.expand(-1, rows, columns, -1)

    def _queries(
        self, grid: tuple[Axis, Axis], coords: Sequence[Tensor | None], scale: tuple[float, float]
    ) -> _Queries:
        """Queries at coordinates along both axes, by default those of all output pixels."""
        y, x = (slots(axis, coord) for axis, coord in zip(grid, coords, strict=True))
        factors = [cell_factor(self.cell, s, self.scale_max) for s in scale]
        # Unlike `rel_cell`: the cell of the original image, relative to the pixels of the padded one.
        cells = [2 / axis.out * axis.feat * factor for axis, factor in zip(grid, factors, strict=True)]
        weight = self.phase.weight.to(wide(self.phase.weight.dtype))
        return _Queries(y, x, weight @ weight.new_tensor(cells))

    def _blocks(self, feat: WaveMaps, queries: _Queries, chunk: int) -> Iterator[Tensor]:
        """The flow's parameters wherever rows and columns cross, (B, rows, columns, ...), a few rows at a time."""
        images = [self._image(*maps, queries, chunk) for maps in zip(feat.coef, feat.freq, strict=True)]
        for blocks in zip(*images, strict=True):
            yield torch.stack(blocks)

    def _image(self, coef: Tensor, freq: Tensor, queries: _Queries, chunk: int) -> Iterator[Tensor]:
        """`_blocks` of one image."""
        y, x, phase = queries
        size = (y.pixel.shape[1], x.pixel.shape[1])
        if not all(size):
            return
        along_y, along_x = (list(zip(slot.pixel, slot.rel, strict=True)) for slot in (y, x))
        grid = GridWaves(coef, freq, along_y, along_x, phase, (y.share, x.share))
        for rows in row_blocks(size, chunk):
            neighbours = (self._weighted(grid, rows, neighbour, queries) for neighbour in NEIGHBOURS)
            yield self._decode(neighbours).unflatten(0, (-1, size[1]))

    def _weighted(self, grid: GridWaves, rows: slice, neighbour: tuple[int, int], queries: _Queries) -> Tensor:
        """Waves of some rows times their ensemble weight, row by row, (N, dim)."""
        wave = grid(rows, neighbour)
        numbers, columns = torch.arange(rows.start, rows.stop), torch.arange(wave.shape[1])
        for row in queries.y.degenerate:
            if rows.start <= row < rows.stop:
                row_of_each = torch.full_like(columns, row)
                wave[row - rows.start] = _plain(grid.coef, grid.freq, queries, neighbour, row_of_each, columns)
        for column in queries.x.degenerate:
            column_of_each = torch.full_like(numbers, column)
            wave[:, column] = _plain(grid.coef, grid.freq, queries, neighbour, numbers, column_of_each)
        return wave.flatten(0, 1)

    def _affine_at(self, feat: WaveMaps, index: Tensor, grid: tuple[Axis, Axis], scale: tuple[float, float]) -> Tensor:
        """The flow's parameters at single pixels with flat indices (B, Q): (B, Q, 2 layers size)."""
        queries = self._queries(grid, [None, None], scale)
        image = torch.arange(len(index), device=index.device)[:, None].expand_as(index).flatten()
        rows, columns = index.flatten().div(grid[1].out, rounding_mode="floor"), index.flatten() % grid[1].out
        coef, freq = feat.coef.flatten(0, 1), feat.freq.flatten(0, 1)
        first_row = image * grid[0].feat
        neighbours = (_plain(coef, freq, queries, number, rows, columns, first_row) for number in NEIGHBOURS)
        return self._decode(neighbours).view(*index.shape, -1)

    def _decode(self, neighbours: Iterator[Tensor]) -> Tensor:
        """The MLP, from the weighted waves (N, dim) of the four neighbours to the flow's parameters."""
        first, *inner = (layer for layer in self.layers if isinstance(layer, nn.Conv2d))
        total = cast(Tensor, first.bias)
        for matrix in first.weight.flatten(1).t().chunk(4):
            with part("waves"):
                wave = next(neighbours)
            with part("MLP"):
                total = torch.addmm(total, wave, matrix)
        with part("MLP"):
            for layer in inner:
                total = F.linear(total.relu_(), layer.weight.flatten(1), layer.bias)
        return total


def _plain(
    coef: Tensor,
    freq: Tensor,
    queries: _Queries,
    neighbour: tuple[int, int],
    rows: Tensor,
    columns: Tensor,
    first_row: Tensor | int = 0,
) -> Tensor:
    """Waves of single queries as published, times their weight, which need not be a product over axes: (N, dim).

    coef, freq: (h, w, dim). rows, columns: of the queries, (N,). first_row: where their images start in the maps.
    """
    (y, x, phase), (i, j) = queries, neighbour
    rel_y, rel_x = y.rel.to(rows.device)[:, rows], x.rel.to(rows.device)[:, columns]
    area = (rel_y[:, None] * rel_x).abs() + 1e-9
    weight = area[1 - i, 1 - j] / area.sum((0, 1))  # the area diagonally opposite
    row, column = y.pixel[i].to(rows.device)[rows] + first_row, x.pixel[j].to(rows.device)[columns]
    pixel = (row * coef.shape[1] + column).to(coef.device)
    amplitudes, frequencies = (values.flatten(0, 1).index_select(0, pixel) for values in (coef, freq))
    rel = torch.stack([rel_y[i], rel_x[j]], -1).to(phase)
    return waves(amplitudes, frequencies, rel, phase) * weight[:, None].to(coef)


def _check_temperature(temperature: float) -> None:
    if not 0 <= temperature < math.inf:
        raise UserError(f"LINF cannot sample at temperature {temperature}: choose 0, for none, or a positive number.")


def _autocast_off(device: torch.device) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
