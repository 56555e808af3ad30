"""What the implicit methods, LIIF and its successors, share: input range, padding, key names.

An encoder sees (x - 0.5) / 0.5; a decoder answers a query per output pixel; the answer is taken back by 0.5 y + 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from methods.base import SRMethod
from methods.grid import Axis, Member, members
from methods.padding import mirror_window
from methods.parts import part

ENCODER = "encoder."


class ImplicitMethod(SRMethod):
    """Base of the LIIF family. Subclasses set up their decoder and implement `encode` and `render`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.channels: int = cast(Any, encoder).channels
        self.encoder_window: int | None = getattr(encoder, "window", None)

    def normalise(self, lr: Tensor) -> Tensor:
        """Map an image in [0, 1] to the encoder's range, mirrored to whole windows where the encoder has windows.

        As LTE's test script does: a whole window is added where the side is a multiple already. Coordinates refer to
        the padded image; the output is that of the original.
        """
        x = (lr - 0.5) / 0.5
        return x if self.encoder_window is None else mirror_window(x, self.encoder_window)

    def denormalise(self, y: Tensor) -> Tensor:
        """Map the decoder's range back to [0, 1]."""
        return 0.5 * y + 0.5

    def features(self, x: Tensor) -> Tensor:
        """The encoder's features (B, C, h', w') of a normalised image (B, 3, h', w')."""
        if x.device.type in ("cpu", "meta") and self.encoder_window is None:
            x = x.contiguous(memory_format=torch.channels_last)  # a tenth faster, and what decoders gather from
        with part("encoder"):
            found: Tensor = self.encoder(x)
        return found

    def render_at(self, feat: Any, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        """Colours (B, 3, Q) of the output pixels with flat indices (B, Q), int64 in [0, H * W), row by row.

        What `render` paints there; training asks for a few pixels of each patch. Subclasses compute no others.
        """
        whole = self.render(feat, out_size, scale).flatten(2)
        return whole.gather(2, index[:, None].expand(-1, 3, -1))

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoder = {key.removeprefix(ENCODER): state[key] for key in state if key.startswith(ENCODER)}
        renamed = cast(Any, self.encoder).from_reference(encoder)
        decoder = {key: state[key] for key in state if not key.startswith(ENCODER)}
        return {ENCODER + key: value for key, value in renamed.items()} | decoder

    def to_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        encoder = {key.removeprefix(ENCODER): state[key] for key in state if key.startswith(ENCODER)}
        renamed = cast(Any, self.encoder).to_reference(encoder)
        decoder = {key: state[key] for key in state if not key.startswith(ENCODER)}
        return {ENCODER + key: value for key, value in renamed.items()} | decoder


def axes(size: tuple[int, int], feat_size: tuple[int, int], out_size: tuple[int, int]) -> tuple[Axis, Axis]:
    """The two axes (y, x) of a rendering: sizes of the LR image, of the padded feature map, and of the output."""
    y, x = (Axis(lr, out, feat) for lr, feat, out in zip(size, feat_size, out_size, strict=True))
    return y, x


class Neighbours(NamedTuple):
    """One member of the local ensemble, for N queries."""

    pixel: Tensor
    """Flat index of the feature pixel, int64 (N,)."""
    rel: Tensor
    """Offset (y, x) from its centre in half LR pixels, (N, 2)."""
    weight: Tensor
    """(N, 1); the members' sum to 1."""


def local_ensemble(index: Tensor, grid: Sequence[Axis], like: Tensor, ensemble: bool = True) -> Iterator[Neighbours]:
    """The four feature pixels around each query, (-,-), (-,+), (+,-), (+,+), or the nearest one.

    index: flat indices of output pixels, (B, Q), row by row; the result has N = B Q. like: the type and device of the
    result; at least float32 for offsets.
    """
    (y, x), rows, cols = grid, index.div(grid[1].out, rounding_mode="floor"), index % grid[1].out
    image = torch.arange(len(index), device=index.device)[:, None] * (y.feat * x.feat)
    along = [[_moved(member, like) for member in members(axis, ensemble)] for axis in grid]
    for (row, rel_y, weight_y), (col, rel_x, weight_x) in product(*along):
        rel = torch.stack([rel_y[rows], rel_x[cols]], dim=-1).flatten(0, 1)
        weight = (weight_y[rows] * weight_x[cols]).view(-1, 1)
        yield Neighbours((image + row[rows] * x.feat + col[cols]).flatten(), rel, weight)


def _moved(member: Member, like: Tensor) -> Member:
    kind = wide(like.dtype)
    return Member(member.pixel.to(like.device), *(value.to(like.device, kind) for value in member[1:]))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type for coordinates and phases of a network in `dtype`: float32 at least."""
    return torch.promote_types(dtype, torch.float32)
