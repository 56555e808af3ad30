"""LINF: local implicit normalizing flow (Yao et al., CVPR 2023, arXiv 2303.05156).

What the four nearest LR pixels know, as waves (LTE), is decoded by an MLP into the scales and shifts of a small flow
per output pixel, whose inverse turns a latent into the difference between the image and the LR image enlarged
bilinearly. Latent 0 gives the deterministic image that PSNR tables report; drawn latents give samples. The patch version makes 3x3
pixels per query.

Quirks of the official code that are kept: neighbours enter by slot, which makes the output jump where slots swap, on
the centres of LR pixels, and the float32 rounding of the published coordinates decides what queries exactly on a centre
see; on the centre of the last LR row or column the ensemble weights depend on that rounding. The cell is clipped beyond
×30 only, LTE's beyond ×4 (`scale_max`). With window encoders coordinates belong to the padded image, the cell to the
original. The patch version asks for the colour at the image's centre wherever a patch has its own centre outside.
Latents are drawn here for the whole image at once, row by row, so that they do not depend on the chunk; the official
code draws them in blocks of 256 rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise, product
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import nominal_scale
from methods.encoders.edsr import conv3x3
from methods.errors import UserError
from methods.fourier import GridWaves, WaveMaps, waves
from methods.grid import Axis, CellRule, Slots, areas, bilinear, cell_factor, check_cell, coordinates, row_blocks, slots
from methods.implicit import ImplicitMethod, axes, wide
from methods.parts import part

CHUNK = 4096
"""Queries at a time."""


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
    """Alternating matrices and elementwise affine maps; between a residual of `size` numbers and its latent."""

    def __init__(self, layers: int, size: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(Matrix(size) for _ in range(layers))
        self.last = Matrix(size)

    def to_data(self, latent: Tensor | None, affine: Tensor) -> Tensor:
        """From latents (..., size), None for zeros, to residuals. affine: raw scales, shifts, (..., 2 layers size)."""
        scale, shift = self._affine(affine)
        matrix, offset = (value.to(affine) for value in self.last.inverse())
        u = offset if latent is None else F.linear(latent, matrix, offset)
        for i in reversed(range(len(self.linears))):
            matrix, offset = (value.to(affine) for value in cast(Matrix, self.linears[i]).inverse())
            u = F.linear((u - shift[..., i, :]) / scale[..., i, :], matrix, offset)
        return u

    def log_density(self, residual: Tensor, affine: Tensor) -> Tensor:
        """Natural logarithm of the density of residuals (..., size) under latents from N(0, 1): (...)."""
        scale, shift = self._affine(affine)
        u = residual
        for i, layer in enumerate(cast(Any, self.linears)):
            u = F.linear(u, layer._weight, layer.bias) * scale[..., i, :] + shift[..., i, :]
        u = F.linear(u, self.last._weight, self.last.bias)
        matrices = [*cast(Any, self.linears), self.last]
        volume = sum(torch.linalg.slogdet(layer._weight.double())[1] for layer in matrices)
        normal = -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)
        return normal + scale.log().sum((-2, -1)) + cast(Tensor, volume).to(u)

    def _affine(self, affine: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = affine.unflatten(-1, (len(self.linears), 2, -1)).unbind(-2)
        return torch.sigmoid(raw + 2) + 1e-4, shift


class _Queries(NamedTuple):
    """Where queries lie along both axes, and what the cell adds to angles."""

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
        if not 0 <= temperature < math.inf:
            raise UserError(
                f"LINF cannot sample at temperature {temperature}: choose 0, for none, or a positive number."
            )
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
        latent = self._draw(feat, out_size, self.temperature)
        residual = self._make(self._affine(feat, out_size, scale, chunk), latent)
        return self._finish(feat, out_size, residual)

    def sample(
        self, lr: Tensor, out_size: tuple[int, int], count: int, temperature: float, scale: float | None = None
    ) -> Tensor:
        """Several samples of images (B, 3, h, w), (count, B, 3, H, W), for one pass of the MLP."""
        feat, scales = self.encode(lr), nominal_scale(lr, out_size, scale)
        blocks = list(self._affine(feat, out_size, scales, None))
        latents = [self._draw(feat, out_size, temperature) for _ in range(count)]
        return torch.stack([self._finish(feat, out_size, self._make(blocks, latent)) for latent in latents])

    def log_density(self, lr: Tensor, hr: Tensor, scale: float | None = None) -> Tensor:
        """Natural log-density of hr (B, 3, H, W) given lr, (B, H, W), or per patch, of which whole ones must fit."""
        out_size = (hr.shape[-2], hr.shape[-1])
        feat = self.encode(lr)
        skip = bilinear(feat.image, axes(feat.size, feat.map_size, out_size))
        residual = F.pixel_unshuffle((hr - 0.5) / 0.5 - skip, self.patch).permute(0, 2, 3, 1)
        affine = torch.cat(list(self._affine(feat, out_size, nominal_scale(lr, out_size, scale), None)), dim=1)
        return self.imnet.log_density(residual, affine[:, : residual.shape[1], : residual.shape[2]])

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if "z" not in given:
            return {"out": self(lr, out_size, scale)}
        feat = self.encode(lr)
        latent = self.temperature * given["z"].view(len(lr), *out_size, -1)
        residual = self._make(self._affine(feat, out_size, scale, None), latent)
        return {"out": self._finish(feat, out_size, residual), "log_p": self.log_density(lr, given["gt"])}

    def _draw(self, feat: WaveMaps, out_size: tuple[int, int], temperature: float) -> Tensor | None:
        """Latents of all queries, (B, rows, columns, size); None at temperature 0."""
        if not temperature:
            return None
        rows, columns = (tiles(out, self.patch) for out in out_size)
        shape = (len(feat.image), rows, columns, 3 * self.patch**2)
        return temperature * torch.randn(shape, dtype=wide(feat.coef.dtype), device=feat.coef.device).to(feat.coef)

    def _make(self, blocks: Iterator[Tensor] | list[Tensor], latent: Tensor | None) -> Tensor:
        """Residuals of all queries, from the flow's parameters block by block: (B, rows, columns, size)."""
        found, start = [], 0
        with part("flow"):
            for affine in blocks:
                stop = start + affine.shape[1]
                found.append(self.imnet.to_data(None if latent is None else latent[:, start:stop], affine))
                start = stop
        return torch.cat(found, dim=1)

    def _finish(self, feat: WaveMaps, out_size: tuple[int, int], residual: Tensor) -> Tensor:
        """Lay the residuals side by side, crop, and add the enlarged image."""
        pixels = F.pixel_shuffle(residual.permute(0, 3, 1, 2), self.patch)[..., : out_size[0], : out_size[1]]
        skip = bilinear(feat.image, axes(feat.size, feat.map_size, out_size))
        return self.denormalise(pixels + skip)

    def _affine(
        self, feat: WaveMaps, out_size: tuple[int, int], scale: tuple[float, float], chunk: int | None
    ) -> Iterator[Tensor]:
        """The flow's parameters at all queries, (B, rows, columns, 2 layers size), a few rows at a time."""
        grid = axes(feat.size, feat.map_size, out_size)
        if self.patch > 1:
            yield from self._patches(feat, grid, scale, chunk)
            return
        queries = _Queries(slots(grid[0]), slots(grid[1]), self._phase(grid, scale))
        images = [self._image(*maps, queries, chunk or CHUNK) for maps in zip(feat.coef, feat.freq, strict=True)]
        for blocks in zip(*images, strict=True):
            yield torch.stack(blocks)

    def _patches(
        self, feat: WaveMaps, grid: tuple[Axis, Axis], scale: tuple[float, float], chunk: int | None
    ) -> Iterator[Tensor]:
        """Queries at the patches' centres; at the image's centre where a patch has its own in the padding."""
        along = [coordinates(axis)[self.patch // 2 :: self.patch] for axis in grid]
        # The image's centre is one more row and column.
        y, x = (slots(axis, F.pad(coord, (0, 1))) for axis, coord in zip(grid, along, strict=True))
        queries = _Queries(y, x, self._phase(grid, scale))
        size = tuple(len(coord) for coord in along)
        counts = tuple(tiles(axis.out, self.patch) for axis in grid)
        images = []
        for maps in zip(feat.coef, feat.freq, strict=True):
            whole = torch.cat(list(self._image(*maps, queries, chunk or CHUNK)))
            image = whole[-1, -1].expand(*counts, -1).clone()
            image[: size[0], : size[1]] = whole[:-1, :-1]
            images.append(image)
        yield torch.stack(images)

    def _image(self, coef: Tensor, freq: Tensor, queries: _Queries, chunk: int) -> Iterator[Tensor]:
        """The flow's parameters at the queries of one image, (rows, columns, ...), a few rows at a time."""
        first, *inner = (layer for layer in self.layers if isinstance(layer, nn.Conv2d))
        y, x, phase = queries
        along_y, along_x = (list(zip(slot.pixel, slot.rel, strict=True)) for slot in (y, x))
        grid = GridWaves(coef, freq, along_y, along_x, phase, (y.share, x.share))
        blocks = first.weight.flatten(1).t().chunk(4)
        for rows in row_blocks((y.pixel.shape[1], x.pixel.shape[1]), chunk):
            total = cast(Tensor, first.bias)
            for i, neighbour in enumerate(product(range(2), range(2))):
                with part("waves"):
                    wave = self._weighted(grid, rows, neighbour, queries)
                with part("MLP"):
                    total = torch.addmm(total, wave.flatten(0, 1), blocks[i])
            with part("MLP"):
                for layer in inner:
                    total = F.linear(total.relu_(), layer.weight.flatten(1), layer.bias)
            yield total.view(-1, x.pixel.shape[1], total.shape[-1])

    def _weighted(self, grid: GridWaves, rows: slice, neighbour: tuple[int, int], queries: _Queries) -> Tensor:
        """Waves of some rows times their ensemble weight, (rows, columns, dim)."""
        wave = grid(rows, neighbour)
        every = slice(0, wave.shape[1])
        for row in queries.y.degenerate:
            if rows.start <= row < rows.stop:
                wave[row - rows.start] = _plain(grid, slice(row, row + 1), every, neighbour, queries)[0]
        for column in queries.x.degenerate:
            wave[:, column] = _plain(grid, rows, slice(column, column + 1), neighbour, queries)[:, 0]
        return wave

    def _phase(self, grid: tuple[Axis, Axis], scale: tuple[float, float]) -> Tensor:
        """What the cell adds to the angles, (dim / 2,)."""
        weight = self.phase.weight.to(wide(self.phase.weight.dtype))
        factors = [cell_factor(self.cell, s, self.scale_max) for s in scale]
        return weight @ weight.new_tensor(
            [2 / axis.out * axis.feat * factor for axis, factor in zip(grid, factors, strict=True)]
        )


def _plain(grid: GridWaves, rows: slice, columns: slice, neighbour: tuple[int, int], queries: _Queries) -> Tensor:
    """Waves of some queries as published, with weights that are no product."""
    (y, x, phase), (i, j) = queries, neighbour
    device = grid.coef.device
    weight = areas(y.rel[:, rows], x.rel[:, columns])[2 * i + j, ..., None].to(grid.coef)
    pixel_y, pixel_x = y.pixel[i, rows, None].to(device), x.pixel[j, columns].to(device)
    rel = torch.stack(torch.broadcast_tensors(y.rel[i, rows, None], x.rel[j, columns]), -1).to(phase)
    coef, freq = (values[pixel_y, pixel_x].flatten(0, 1) for values in (grid.coef, grid.freq))
    return waves(coef, freq, rel.flatten(0, 1), phase).view(*rel.shape[:2], -1) * weight


def tiles(out: int, patch: int) -> int:
    """Patches along an axis of `out` pixels; officially one more than needed where they fit."""
    return out if patch == 1 else out // patch + 1
