"""What a network is trained for: the losses of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.training.patches import Batch
from methods.base import SRMethod
from methods.errors import UserError


class Objective(nn.Module):
    """A network with its losses as one module, as wrappers for several processes or autocast need it.

    Every loss is the mean over the patches of each patch's mean, so that batches may be split.
    """

    def __init__(self, model: SRMethod) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: str, batch: Batch) -> Tensor:
        """The loss of this name, `l1` or `nll`, of a batch: one number.

        Raises:
            UserError: the network has no such loss.
        """
        if loss == "l1":
            return self._l1(batch)
        if not hasattr(self.model, "log_density"):
            raise UserError(f"{type(self.model).__name__} has no likelihood to maximise: train it on l1.")
        densities = [self._log_density(part) for part in _by_side(batch)]
        return -cast(Tensor, sum(densities)) / len(batch.lr)

    def _l1(self, batch: Batch) -> Tensor:
        """Mean absolute difference in [0, 1]."""
        if hasattr(self.model, "render_each"):
            # All patches in one call, each at its own size.
            sizes = [(side, side) for side in batch.sides]
            sr: Tensor = cast(Any, self.model).render_each(self.model.encode(batch.lr), sizes, batch.scales)
            pixels = torch.tensor(batch.sides, device=sr.device) ** 2
            means: Tensor = (sr - batch.hr).abs().sum((1, 2, 3)) / (3 * pixels)
            return means.mean()
        feat = self.model.encode(batch.lr)
        sums = [self._l1_at(_rows(feat, rows, len(batch.lr)), part) for rows, part in _parts(batch)]
        return cast(Tensor, sum(sums)) / len(batch.lr)

    def _l1_at(self, feat: Any, batch: Batch) -> Tensor:
        """Sum of the patches' means, for patches of one size."""
        out_size, scale = (batch.sides[0], batch.sides[0]), (batch.scales[0], batch.scales[0])
        hr = batch.hr[..., : out_size[0], : out_size[1]]
        if batch.index is None or not hasattr(self.model, "render_at"):
            sr = self.model.render(feat, out_size, scale)
        else:
            sr = cast(Any, self.model).render_at(feat, batch.index, out_size, scale)
            hr = hr.flatten(2).gather(2, batch.index[:, None].expand(-1, 3, -1))
        return (sr - hr).abs().flatten(1).mean(1).sum()

    def _log_density(self, batch: Batch) -> Tensor:
        """Sum of the patches' mean log-density, for patches of one size."""
        side, model = batch.sides[0], cast(Any, self.model)
        hr = batch.hr[..., :side, :side]
        density: Tensor = model.log_density(model.encode(batch.lr), hr, (batch.scales[0],) * 2, batch.index)
        return density.mean(1).sum()


def _parts(batch: Batch) -> Iterator[tuple[list[int], Batch]]:
    """Patches that share a size, and their numbers in the batch."""
    for side in sorted(set(batch.sides)):
        rows = [row for row, own in enumerate(batch.sides) if own == side]
        index = None if batch.index is None else batch.index[rows]
        yield rows, replace(batch, lr=batch.lr[rows], hr=batch.hr[rows], sides=(side,) * len(rows), index=index)


def _by_side(batch: Batch) -> Iterator[Batch]:
    return (part for _, part in _parts(batch))


def _rows(feat: Any, rows: list[int], batch: int) -> Any:
    """What `encode` returned, for some images of a batch only."""
    if isinstance(feat, Tensor):
        return feat[rows] if len(rows) < batch else feat
    if isinstance(feat, tuple) and feat and all(isinstance(value, int) for value in feat):
        return feat  # a size
    if isinstance(feat, tuple):
        values = [_rows(value, rows, batch) for value in feat]
        return type(feat)(*values) if hasattr(feat, "_fields") else tuple(values)
    return feat
