"""LIIF: local implicit image functions (Chen et al., CVPR 2021, arXiv 2012.09161).

The colour at a point is an MLP of the surrounding 3x3 features, the offset from their pixel, and the size of the pixel
to be painted; the four nearest feature pixels each make a prediction, mixed bilinearly (the local ensemble). Three
exact rearrangements of the published form make it cheap; each is explained where it happens.

Quirks of the official code that are kept: outside the outermost centres of the LR image all four members are the same
one or two pixels, so the MLP extrapolates there; official checkpoints hold mean shifts of the encoder that are never
called. Queries are assigned to LR pixels by whole numbers instead of float32 coordinates moved by 1e-6, which agrees
but for the rounding of the latter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.grid import Axis, CellRule, assemble, cell_factor, check_cell
from methods.implicit import ImplicitMethod, axes, local_ensemble
from methods.mlp import MLP
from methods.parts import part

CHUNK = 4096
"""Queries at a time: their 256 hidden units fit the cache of a CPU core."""


class Encoded(NamedTuple):
    """What of an LR image does not depend on the scale."""

    size: tuple[int, int]
    """(h, w) of the LR image."""
    hidden: Tensor
    """Features after the MLP's first matrix, (B, h', w', hidden), padding included."""


class LIIF(ImplicitMethod):
    """LIIF on any encoder; the defaults are the published model.

    hidden: widths of the MLP. local_ensemble, feat_unfold, cell_decode: switched off in the paper's ablations. cell:
    `"true"`, an output pixel's size at every scale, as LIIF evaluates, or `"clipped"`, beyond `scale_max` that of
    `scale_max`, as LTE evaluates.
    """

    options = frozenset({"cell", "scale_max"})

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: Sequence[int] = (256, 256, 256, 256),
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
        cell: CellRule = "true",
        scale_max: float = 4.0,
    ) -> None:
        super().__init__(encoder)
        check_cell(cell, "LIIF")
        self.kernel = 3 if feat_unfold else 1
        self.local_ensemble, self.cell_decode = local_ensemble, cell_decode
        self.cell, self.scale_max = cell, scale_max
        self.imnet = MLP(self.channels * self.kernel**2 + (4 if cell_decode else 2), *hidden, 3)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        hidden = config["imnet_hidden"] if "imnet_hidden" in config else config["imnet_spec"]["args"]["hidden_list"]
        switches = {"local_ensemble", "feat_unfold", "cell_decode"} & config.keys()
        return {"hidden": tuple(hidden), **{name: config[name] for name in switches}}

    def encode(self, lr: Tensor) -> Encoded:
        """Everything up to the MLP's first matrix.

        It is linear, so its part for the unfolded features is a 3x3 convolution, computed once per LR pixel rather than
        four times per query, and the unfolded features are never made.
        """
        features = self.features(self.normalise(lr))
        with part("MLP, first layer"):
            kernel, _, _ = self._first_matrix()
            hidden = F.conv2d(features, kernel, padding=self.kernel // 2).permute(0, 2, 3, 1).contiguous()
        return Encoded((lr.shape[-2], lr.shape[-1]), hidden)

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        batch = len(feat.hidden)
        pixels = torch.arange(out_size[0] * out_size[1], device=feat.hidden.device)
        queries = torch.chunk(pixels, -(-len(pixels) * batch // (chunk or CHUNK)))
        colors = (self.render_at(feat, index.expand(batch, -1), out_size, scale) for index in queries)
        return assemble(colors, len(pixels), dim=-1).view(batch, 3, *out_size)

    def render_at(self, feat: Encoded, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        _, *inner, last = (layer for layer in self.imnet.layers if isinstance(layer, nn.Linear))
        grid = axes(feat.size, (feat.hidden.shape[1], feat.hidden.shape[2]), out_size)
        local = self._local_matrix(grid, scale).to(feat.hidden)
        mixed = feat.hidden.new_zeros(())
        with part("MLP, other layers"):
            for pixel, rel, weight in local_ensemble(index, grid, feat.hidden, self.local_ensemble):
                offset = F.pad(rel, (0, 1), value=1.0).to(feat.hidden)
                x = feat.hidden.flatten(0, 2).index_select(0, pixel).addmm_(offset, local).relu_()
                for layer in inner:
                    x = layer(x).relu_()
                mixed = torch.addcmul(mixed, weight.to(x), x)
            # The weights sum to 1, so the last layer, being linear, may follow the mixture: once instead of four times.
            out: Tensor = last(mixed).view(*index.shape, 3).transpose(1, 2)
        return self.denormalise(out)

    def _first_matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """Its columns for features, as a kernel (hidden, C, k, k); offset (hidden, 2); and cell (hidden, 2 or 0)."""
        matrix = cast(nn.Linear, self.imnet.layers[0]).weight
        features = self.channels * self.kernel**2
        kernel = matrix[:, :features].reshape(len(matrix), self.channels, self.kernel, self.kernel)
        return kernel, matrix[:, features : features + 2], matrix[:, features + 2 :]

    def _local_matrix(self, grid: Sequence[Axis], scale: Sequence[float]) -> Tensor:
        """(3, hidden): what (offset y, offset x, 1) contribute to the first layer; 1 stands for bias and cell."""
        _, offset, cell = self._first_matrix()
        constant: Tensor = cast(nn.Linear, self.imnet.layers[0]).bias
        if self.cell_decode:
            clip = [cell_factor(self.cell, s, self.scale_max) for s in scale]
            cells = [axis.rel_cell * factor for axis, factor in zip(grid, clip, strict=True)]
            constant = constant + cell @ cell.new_tensor(cells)
        return torch.cat([offset.T, constant[None]])
