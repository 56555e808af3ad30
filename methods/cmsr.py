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
from methods.grid import Axis, Slots, centres, nearest, slots

Tables = Mapping[float, Mapping[float, float]]


class Level(NamedTuple):
    """One scale that regions are rendered at; strengths from `low` to `high` choose it."""

    scale: float
    low: float
    high: float

    def chooses(self, strength: Tensor) -> Tensor:
        """Which queries, by the strength at their nearest LR pixel, are rendered at this level."""
        return (strength >= self.low) & (strength <= self.high)


class Queries:
    """Where a level's queries lie: LR centres enlarged bilinearly, so never beyond the outermost ones.

    In published float32 arithmetic: on the last row or column of centres ensemble weights depend on its rounding.
    """

    def __init__(self, size: tuple[int, int], out_size: tuple[int, int]) -> None:
        """size: (h, w) of the LR image. out_size: of the level."""
        self.size = size
        grid = torch.stack(torch.meshgrid(*(centres(n, n) for n in size), indexing="ij"))
        self.coord = F.interpolate(grid[None], size=out_size, mode="bilinear", align_corners=False)[0]

    def at_nearest(self, values: Tensor) -> Tensor:
        """Of values (h, w) of LR pixels, those of the nearest one of each query."""
        y, x = (nearest(coord, n).to(values.device) for coord, n in zip(self.coord, self.size, strict=True))
        return values[y, x]

    def sample(self, image: Tensor) -> Tensor:
        """An image (C, n, m) of any size interpolated bilinearly, (C, H, W)."""
        grid = self.coord.permute(1, 2, 0).flip(-1)[None].to(image)
        return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]

    def slots(self, chosen: Tensor) -> tuple[Slots, Slots]:
        """Neighbours of the chosen queries, a mask (H, W), along y and x."""
        y, x = (
            slots(Axis(n, n, n), coord[chosen.to(coord.device)]) for coord, n in zip(self.coord, self.size, strict=True)
        )
        return y, x


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
