"""LIIF: local implicit image functions (Chen et al., CVPR 2021, arXiv 2012.09161).

The colour at a point is an MLP of the surrounding 3x3 features, the offset from their pixel, and the size of the pixel
to be painted; the four nearest feature pixels each make a prediction, mixed bilinearly (the local ensemble). Three
exact rearrangements of the published form make it cheap; each is explained where it happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import SRMethod
from methods.errors import UserError
from methods.mlp import MLP

CHUNK = 4096
"""Queries at a time: their 256 hidden units fit the cache of a CPU core."""
TRAINED_SCALE = 4.0
"""The largest scale of the training."""


class LIIF(SRMethod):
    """LIIF on any encoder; the defaults are the published model.

    hidden: widths of the MLP. local_ensemble, feat_unfold, cell_decode: switched off in the paper's ablations. cell:
    `"true"`, an output pixel's size at every scale, as LIIF evaluates, or `"clipped"`, beyond ×4 that of ×4, as LTE.
    """

    options = frozenset({"cell"})

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: Sequence[int] = (256, 256, 256, 256),
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
        cell: Literal["true", "clipped"] = "true",
    ) -> None:
        super().__init__()
        if cell not in ("true", "clipped"):
            raise UserError(f'LIIF has no cell {cell!r}: choose "true" or "clipped".')
        self.encoder = encoder
        self.channels: int = cast(Any, encoder).channels
        self.kernel = 3 if feat_unfold else 1
        self.local_ensemble, self.cell_decode, self.cell = local_ensemble, cell_decode, cell
        self.imnet = MLP(self.channels * self.kernel**2 + (4 if cell_decode else 2), *hidden, 3)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        hidden = config["imnet_hidden"] if "imnet_hidden" in config else config["imnet_spec"]["args"]["hidden_list"]
        switches = {"local_ensemble", "feat_unfold", "cell_decode"} & config.keys()
        return {"hidden": tuple(hidden), **{name: config[name] for name in switches}}

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoder = {key.removeprefix("encoder."): state[key] for key in state if key.startswith("encoder.")}
        renamed = cast(Any, self.encoder).from_reference(encoder)
        imnet = {key: state[key] for key in state if not key.startswith("encoder.")}
        return {f"encoder.{key}": value for key, value in renamed.items()} | imnet

    def encode(self, lr: Tensor) -> Tensor:
        """Features after the MLP's first matrix, (B, h, w, hidden).

        It is linear, so its part for the unfolded features is a 3x3 convolution, computed once per LR pixel rather than
        four times per query, and the unfolded features are never made.
        """
        kernel, _, _ = self._first_matrix()
        features = self.encoder((lr - 0.5) / 0.5)
        return F.conv2d(features, kernel, padding=self.kernel // 2).permute(0, 2, 3, 1).contiguous()

    def render(
        self, feat: Tensor, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        batch = len(feat)
        pixels = torch.arange(out_size[0] * out_size[1], device=feat.device)
        parts = torch.chunk(pixels, -(-len(pixels) * batch // (chunk or CHUNK)))
        colors = [self.render_at(feat, part.expand(batch, -1), out_size, scale) for part in parts]
        return torch.cat(colors, dim=-1).view(batch, 3, *out_size)

    def render_at(self, feat: Tensor, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        """Colours (B, 3, Q) of the output pixels with flat indices (B, Q), int64 in [0, H * W), row by row."""
        _, *inner, last = (layer for layer in self.imnet.layers if isinstance(layer, nn.Linear))
        local = self._local_matrix(feat.shape[1:3], out_size, scale)
        mixed = feat.new_zeros(())
        for pixel, rel, weight in self._members(feat, index, out_size):
            x = feat.flatten(0, 2).index_select(0, pixel).addmm_(rel, local).relu_()
            for layer in inner:
                x = layer(x).relu_()
            mixed = torch.addcmul(mixed, weight, x)
        # The weights sum to 1, so the last layer, being linear, may follow the mixture: once instead of four times.
        out: Tensor = 0.5 * last(mixed).view(*index.shape, 3).transpose(1, 2) + 0.5
        return out

    def _first_matrix(self) -> tuple[Tensor, Tensor, Tensor]:
        """Its columns for features, as a kernel (hidden, C, k, k); offset (hidden, 2); and cell (hidden, 2 or 0)."""
        matrix = cast(nn.Linear, self.imnet.layers[0]).weight
        features = self.channels * self.kernel**2
        kernel = matrix[:, :features].reshape(len(matrix), self.channels, self.kernel, self.kernel)
        return kernel, matrix[:, features : features + 2], matrix[:, features + 2 :]

    def _local_matrix(self, size: Sequence[int], out_size: Sequence[int], scale: Sequence[float]) -> Tensor:
        """(3, hidden): what (offset y, offset x, 1) contribute to the first layer; 1 stands for bias and cell."""
        _, offset, cell = self._first_matrix()
        constant: Tensor = cast(nn.Linear, self.imnet.layers[0]).bias
        if self.cell_decode:
            clip = [max(s / TRAINED_SCALE, 1.0) if self.cell == "clipped" else 1.0 for s in scale]
            cells = [2 * n / n_out * c for n, n_out, c in zip(size, out_size, clip, strict=True)]
            constant = constant + cell @ cell.new_tensor(cells)
        return torch.cat([offset.T, constant[None]])

    def _members(self, feat: Tensor, index: Tensor, out_size: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per member of the ensemble: feature pixels (B Q,), (offset y, offset x, 1) (B Q, 3), weights (B Q, 1)."""
        batch, height, width, _ = feat.shape
        rows, cols = index.div(out_size[1], rounding_mode="floor"), index % out_size[1]
        image = torch.arange(batch, device=feat.device)[:, None] * (height * width)
        y = axis_members(height, out_size[0], self.local_ensemble)
        x = axis_members(width, out_size[1], self.local_ensemble)
        for (row, rel_y, weight_y), (col, rel_x, weight_x) in product(y, x):
            pixel = image + row.to(feat.device)[rows] * width + col.to(feat.device)[cols]
            rel_y, rel_x, weight_y, weight_x = (t.to(feat) for t in (rel_y, rel_x, weight_y, weight_x))
            rel = torch.stack([rel_y[rows], rel_x[cols], feat.new_ones(index.shape)], dim=-1)
            yield pixel.flatten(), rel.flatten(0, 1), (weight_y[rows] * weight_x[cols]).view(-1, 1)


def axis_members(size: int, out_size: int, ensemble: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Along one axis, which of `size` feature pixels each of `out_size` output pixels looks at: two, or the nearest.

    Per member: index, offset in half feature pixels (float64) and weight (float64), each (out_size,). Output pixel i is
    at p = (i + 1/2) size / out_size - 1/2; as 2 out_size p is an integer, nothing here needs the published shifts by
    1e-6. Outside the outermost centres both members are the same pixel and agree, so any weights of sum 1 do.
    """
    unit = 2 * out_size
    position = (2 * torch.arange(out_size) + 1) * size - out_size
    low = (position if ensemble else position + out_size).div(unit, rounding_mode="floor")
    high = (position - unit * low).double() / unit
    members = [(low, 1 - high), (low + 1, high)] if ensemble else [(low, torch.ones_like(high))]
    clamped = [(index.clamp(0, size - 1), weight) for index, weight in members]
    return [(index, (position - unit * index).double() / out_size, weight) for index, weight in clamped]
