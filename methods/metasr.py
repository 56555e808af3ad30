"""Meta-SR: a filter predicted for every output pixel (Hu et al., CVPR 2019, arXiv 1903.00875).

A small MLP maps where an output pixel lies within its LR pixel, and the scale, to the weights of a 3x3 filter on the
features. The filter is linear in the MLP's hidden units, so these can be applied after a convolution on the LR grid
instead of making 1728 weights for every output pixel; and at whole scales, where only so many positions occur, the
whole decoder is one convolution.

Quirks of the official code that are kept (LIIF's re-implementation, which the literature's numbers come from): there is
no local ensemble, so the output jumps across the edges of LR pixels; the scale that the MLP is told is that of the
vertical axis. There is no option to clip the cell as with the later methods: the sampling position derives from it, so
LTE's evaluation script, which clips it, moves every sample of this method by up to many pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.grid import Axis, assemble
from methods.implicit import ImplicitMethod, axes, wide
from methods.mlp import MLP
from methods.parts import part

CHUNK = 65536
"""Queries at a time, by which the rows of the LR grid are cut into bands."""


class Encoded(NamedTuple):
    """What of an LR image does not depend on the scale."""

    size: tuple[int, int]
    """(h, w) of the LR image."""
    features: Tensor
    """(B, C, h' + 2, w'), padding of window encoders included, and a row of zeros above and below."""


class MetaSR(ImplicitMethod):
    """Meta-SR on any encoder; the default is the published model.

    hidden: width of the MLP that predicts filters.
    """

    def __init__(self, encoder: nn.Module, *, hidden: int = 256) -> None:
        super().__init__(encoder)
        self.hidden = hidden
        self.imnet = MLP(3, hidden, self.channels * 9 * 3)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"hidden": config["imnet_hidden"][0]} if "imnet_hidden" in config else {}

    def encode(self, lr: Tensor) -> Encoded:
        features = self.features(self.normalise(lr))
        return Encoded((lr.shape[-2], lr.shape[-1]), F.pad(features, (0, 0, 1, 1)))

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        batch, _, height, width = feat.features.shape
        y, x = axes(feat.size, (height - 2, width), out_size)
        # LR rows whose output pixels make one chunk; a row is the least that can be held.
        band = max(1, (chunk or CHUNK) * y.lr // (y.out * x.out))
        whole = y.out % y.lr == 0 and x.out % x.lr == 0
        with part("rendering"):
            parts = (self._whole_scale if whole else self._any_scale)(feat.features, y, x, band)
            out = assemble((rows.view(batch, 3, -1, x.out) for rows in parts), y.out, dim=2)
        return self.denormalise(out)

    def render_at(self, feat: Encoded, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        batch, _, height, width = feat.features.shape
        y, x = axes(feat.size, (height - 2, width), out_size)
        basis, constant = (kernel.to(feat.features) for kernel in self._kernels())
        kernel = torch.cat([basis, constant[:, None]], 1).flatten(0, 1)
        maps = F.conv2d(feat.features, kernel, padding=(0, 1)).permute(0, 2, 3, 1).flatten(0, 2)
        row, column = (at.flatten() for at in (index.div(x.out, rounding_mode="floor"), index % x.out))
        image = torch.arange(batch, device=index.device).repeat_interleave(index.shape[1])
        pixel = (image * (height - 2) + row * y.lr // y.out) * width + column * x.lr // x.out
        sampled = maps.index_select(0, pixel).unflatten(1, (3, -1))
        by_row, by_column = self._first_layer(y, x)
        hidden = (by_row.to(index.device)[row] + by_column.to(index.device)[column]).relu_().to(sampled)
        colors = (sampled[..., :-1] @ hidden[..., None])[..., 0] + sampled[..., -1]
        return self.denormalise(colors.unflatten(0, (batch, -1)).transpose(1, 2))

    def _whole_scale(self, features: Tensor, y: Axis, x: Axis, band: int) -> Iterator[Tensor]:
        """At whole scales: one kernel per position within an LR pixel, whose outputs are the output pixels."""
        phases = y.out // y.lr, x.out // x.lr
        basis, constant = self._kernels()
        row, column = self._first_layer(y, x)
        hidden = (row[: phases[0], None] + column[: phases[1]]).relu_().to(basis)
        kernel = torch.einsum("yxj,cjikl->cyxikl", hidden, basis) + constant[:, None, None]
        for start in range(0, y.lr, band):
            rows = features[:, :, start : min(start + band, y.lr) + 2]
            colors = F.conv2d(rows, kernel.flatten(0, 2).to(rows), padding=(0, 1))[..., : x.lr]
            pixels = colors.unflatten(1, (3, *phases)).permute(0, 1, 4, 2, 5, 3)
            yield pixels.reshape(len(rows), 3, -1, x.out)

    def _any_scale(self, features: Tensor, y: Axis, x: Axis, band: int) -> Iterator[Tensor]:
        """At any scale: the kernels of all hidden units on the LR grid, then their sum at the output pixels."""
        basis, constant = (kernel.to(features) for kernel in self._kernels())
        kernel = torch.cat([basis, constant[:, None]], 1).flatten(0, 1)
        row, column = self._first_layer(y, x)
        pixel = (torch.arange(x.out) * x.lr // x.out).to(features.device)
        for start in range(0, y.lr, band):
            stop = min(start + band, y.lr)
            maps = F.conv2d(features[:, :, start : stop + 2], kernel, padding=(0, 1))  # (B, 3 (hidden + 1), band, w)
            for number in range(start, stop):
                # Output rows i with floor(i h / H) = number.
                first, last = -(-number * y.out // y.lr), -(-(number + 1) * y.out // y.lr)
                if first < last:
                    sampled = maps[:, :, number - start].index_select(2, pixel).unflatten(1, (3, -1))
                    hidden = (column[:, None] + row[first:last]).relu_().to(features)  # (W, rows, hidden)
                    yield self._mix(hidden, sampled)

    def _mix(self, hidden: Tensor, sampled: Tensor) -> Tensor:
        """Sum over hidden units: (W, rows, hidden) and (B, 3, hidden + 1, W) to (B, 3, rows, W)."""
        weights = sampled[:, :, :-1].permute(3, 2, 0, 1).flatten(2)
        colors: Tensor = torch.bmm(hidden, weights).permute(2, 1, 0).unflatten(0, (-1, 3))
        return colors + sampled[:, :, -1:]

    def _kernels(self) -> tuple[Tensor, Tensor]:
        """The last layer as 3x3 kernels (3, hidden, C, 3, 3), per colour and hidden unit; its bias (3, C, 3, 3)."""
        last = cast(nn.Linear, self.imnet.layers[2])
        shape = (self.channels, 3, 3, 3)
        return last.weight.view(*shape, -1).permute(3, 4, 0, 1, 2), last.bias.view(shape).permute(3, 0, 1, 2)

    def _first_layer(self, y: Axis, x: Axis) -> tuple[Tensor, Tensor]:
        """The MLP's first layer before its ReLU, per output row (H, hidden) and per column (W, hidden): their sum.

        Its input is (fraction y, fraction x, 1 / scale y), fractions in LR pixels from the upper left corner.
        """
        first = cast(nn.Linear, self.imnet.layers[0])
        by_y, by_x, by_scale = first.weight.to(wide(first.weight.dtype)).unbind(1)
        row, column = (_fraction(axis).to(by_y)[:, None] for axis in (y, x))
        return row * by_y + (by_scale * (y.lr / y.out) + first.bias), column * by_x


def _fraction(axis: Axis) -> Tensor:
    """Where the upper edge of each output pixel lies within its LR pixel, float64 in [0, 1)."""
    return (torch.arange(axis.out) * axis.lr % axis.out).double() / axis.out
