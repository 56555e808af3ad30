"""CMSR, LMF's controllable multi-scale rendering: which regions are rendered at which scale, and how they are merged.

A region's scale follows from the strength of its modulation, by a table {scale: {render scale: largest strength}}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.errors import UserError
from methods.grid import Member

Tables = Mapping[float, Mapping[float, float]]


class Level(NamedTuple):
    """One scale that regions are rendered at; strengths from `low` to `high` choose it."""

    scale: float
    low: float
    high: float

    def chooses(self, strength: Tensor) -> Tensor:
        """Which queries, by the strength at their nearest LR pixel, are rendered at this level."""
        return (strength >= self.low) & (strength <= self.high)


class Positions(NamedTuple):
    """Where the queries of a level lie along one axis: LR centres enlarged bilinearly, so never beyond the outermost."""

    nearest: Tensor
    """Nearest LR pixel, (out,)."""
    members: list[Member]
    """The two LR pixels beside each query."""

    def sample(self, columns: Positions, image: Tensor) -> Tensor:
        """An image (C, h, w) interpolated at the queries of these rows and those columns: (C, out, out)."""
        rows = sum(image[:, m.pixel.to(image.device)] * m.weight.to(image)[:, None] for m in self.members)
        found: Tensor = sum(rows[..., m.pixel.to(image.device)] * m.weight.to(image) for m in columns.members)
        return found


def parse_tables(text: str | Mapping[Any, Mapping[Any, float]] | None) -> Tables | None:
    """Tables with numbers as keys, ascending; None stays None, and so do "none" and "".

    Raises:
        UserError: they are not of that form.
    """
    if text is None or text in ("", "none"):
        return None
    try:
        assert not isinstance(text, str)
        found = {float(s): {float(d): float(t) for d, t in table.items()} for s, table in text.items()}
        assert found
        assert all(table and min(table) > 0 for table in found.values())
    except (AssertionError, AttributeError, TypeError, ValueError):
        raise UserError(
            f"{text!r} is no table for cmsr: choose published or none, or give {{scale: {{render scale: threshold}}}}."
        ) from None
    return {scale: dict(sorted(table.items())) for scale, table in sorted(found.items())}


def levels(tables: Tables, scale: float) -> list[Level]:
    """The levels for a target scale, ascending; the last one takes whatever is stronger."""
    key = next((known for known in sorted(tables) if known >= scale), max(tables))
    found = [(d, t) for d, t in sorted(tables[key].items()) if d < scale]
    if not found or found[-1][1] < 1:
        found.append((scale, 1.0))
    bounds = [-float("inf"), *(threshold for _, threshold in found[:-1]), float("inf")]
    return [Level(d, low, high) for (d, _), low, high in zip(found, bounds, bounds[1:], strict=False)]


def positions(lr: int, out: int, feat: int) -> Positions:
    """The queries of a level with `out` pixels along an axis of `lr` LR pixels, `feat` with padding."""
    place = ((torch.arange(out, dtype=torch.float64) + 0.5) * lr / out - 0.5).clamp(0, lr - 1)
    low = place.floor()
    share = place - low
    pixels = [index.long().clamp(max=feat - 1) for index in (low, low + 1)]
    weights = [1 - share, share]
    found = [Member(pixel, 2 * (place - index), w) for pixel, index, w in zip(pixels, pixels, weights, strict=True)]
    return Positions((place + 0.5).floor().long(), found)


def merge(
    running: Tensor,
    out: tuple[int, int],
    row: Tensor | None = None,
    column: Tensor | None = None,
    colors: Tensor | None = None,
) -> Tensor:
    """Enlarge an image (C, h, w) bilinearly to `out`, and put the colours (C, N) of some pixels in."""
    if tuple(running.shape[1:]) != out:
        running = F.interpolate(running[None], size=out, mode="bilinear", align_corners=False)[0]
    else:
        running = running.clone()
    if colors is not None:
        running[:, row, column] = colors
    return running
