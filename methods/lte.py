"""LTE: the local texture estimator (Lee and Jin, CVPR 2022, arXiv 2111.08918).

Two convolutions estimate, for every feature pixel, amplitudes and frequencies of its surroundings; an MLP decodes these
waves at the query's offset, the four nearest feature pixels are mixed bilinearly, and the result is added to the image
enlarged bilinearly. LTE+ is the same network with its layers written as 1x1 convolutions and its frequencies in another
order; its checkpoints are read too.

Quirks of the official code that are kept: beyond ×4 the network is told the cell of ×4 (`cell`); images for SwinIR are
mirrored to whole windows, by a whole one where they fit already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.encoders.edsr import conv3x3
from methods.fourier import GridWaves, WaveMaps, halves, waves
from methods.grid import Axis, CellRule, assemble, bilinear, cell_factor, check_cell, members, row_blocks
from methods.implicit import ImplicitMethod, axes, local_ensemble, wide
from methods.mlp import MLP
from methods.parts import part

CHUNK = 4096
"""Queries at a time: their 256 hidden units fit the cache of a CPU core."""


class LTE(ImplicitMethod):
    """LTE on any encoder; the defaults are the published model.

    dim: amplitudes and frequencies per pixel. hidden: widths of the MLP. cell: `"clipped"`, an output pixel's size,
    beyond `scale_max` that of `scale_max`, as LTE evaluates, or `"true"`, its size at every scale. Both axes have their
    own size.
    """

    options = frozenset({"cell", "scale_max"})

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int = 256,
        hidden: tuple[int, ...] = (256, 256, 256),
        cell: CellRule = "clipped",
        scale_max: float = 4.0,
    ) -> None:
        super().__init__(encoder)
        check_cell(cell, "LTE")
        self.cell, self.scale_max = cell, scale_max
        self.coef, self.freq = conv3x3(self.channels, dim), conv3x3(self.channels, dim)
        self.phase = nn.Linear(2, dim // 2, bias=False)
        self.imnet = MLP(dim, *hidden, 3)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        dim = config.get("hidden_dim", 256)
        if "imnet_spec" in config:
            hidden = config["imnet_spec"]["args"]["hidden_list"]
        else:
            hidden = [dim] * config.get("num_layer", 3)
        return {"dim": dim, "hidden": tuple(hidden)}

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official keys are ours but for the encoder's; LTE+ has `layers` of 1x1 kernels, all y frequencies first."""
        if "layers.0.weight" in state:
            state = dict(state)
            for key in [key for key in state if key.startswith("layers.")]:
                state[f"imnet.{key}"] = state.pop(key).flatten(1) if key.endswith("weight") else state.pop(key)
            for key in ("freq.weight", "freq.bias"):
                state[key] = torch.stack(state[key].chunk(2), dim=1).flatten(0, 1)
        return super().from_reference(state)

    def encode(self, lr: Tensor) -> WaveMaps:
        image = self.normalise(lr)
        features = self.features(image)
        with part("amplitudes and frequencies"):
            coef = self.coef(features)
            freq = F.conv2d(features, halves(self.freq.weight), halves(cast(Tensor, self.freq.bias)), padding=1)
            maps = [x.permute(0, 2, 3, 1).contiguous() for x in (coef, freq)]
        return WaveMaps((lr.shape[-2], lr.shape[-1]), image, *maps)

    def render(
        self, feat: WaveMaps, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        grid = axes(feat.size, feat.map_size, out_size)
        y, x = [members(axis) for axis in grid]
        phase = self._phase(grid, scale)
        images = []
        for coef, freq in zip(feat.coef, feat.freq, strict=True):
            wave = GridWaves(coef, freq, [m[:2] for m in y], [m[:2] for m in x], phase)
            weights = [[(m.weight.to(coef)) for m in along] for along in (y, x)]
            blocks = (self._rows(wave, rows, weights) for rows in row_blocks(out_size, chunk or CHUNK))
            images.append(assemble(blocks, out_size[0]))
        colors = torch.stack(images).permute(0, 3, 1, 2)
        return self.denormalise(colors + bilinear(feat.image, grid))

    def _rows(self, wave: GridWaves, rows: slice, weights: Sequence[Sequence[Tensor]]) -> Tensor:
        """Colours (rows, W, 3) of some output rows of one image, normalised, without the enlarged image."""
        mixed = weights[0][0].new_zeros(())
        for number_y, number_x in product(range(2), range(2)):
            with part("waves"):
                x = wave(rows, (number_y, number_x))
            weight = weights[0][number_y][rows, None, None] * weights[1][number_x][:, None]
            mixed = torch.addcmul(mixed, weight, self._hidden(x))
        return self._last(mixed)

    def render_at(self, feat: WaveMaps, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        grid = axes(feat.size, feat.map_size, out_size)
        coef, freq, phase = feat.coef.flatten(0, 2), feat.freq.flatten(0, 2), self._phase(grid, scale)
        mixed = coef.new_zeros(())
        for pixel, rel, weight in local_ensemble(index, grid, coef):
            x = waves(coef.index_select(0, pixel), freq.index_select(0, pixel), rel, phase)
            mixed = torch.addcmul(mixed, weight.to(x), self._hidden(x))
        colors = self._last(mixed).view(*index.shape, 3).transpose(1, 2)
        skip = bilinear(feat.image, grid).flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
        return self.denormalise(colors + skip)

    def _phase(self, grid: tuple[Axis, Axis], scale: tuple[float, float]) -> Tensor:
        """What the cell adds to the angles, (dim / 2,): the same for all queries of an image."""
        factors = [cell_factor(self.cell, s, self.scale_max) for s in scale]
        weight = self.phase.weight.to(wide(self.phase.weight.dtype))
        return weight @ weight.new_tensor([axis.rel_cell * factor for axis, factor in zip(grid, factors, strict=True)])

    def _hidden(self, x: Tensor) -> Tensor:
        """The MLP up to its last layer."""
        *inner, _ = (layer for layer in self.imnet.layers if isinstance(layer, nn.Linear))
        with part("MLP"):
            for layer in inner:
                x = layer(x).relu_()
        return x

    def _last(self, mixed: Tensor) -> Tensor:
        """The MLP's last layer: linear, so it may follow the mixture, whose weights sum to 1, once, not four times."""
        out: Tensor = self.imnet.layers[-1](mixed)
        return out
