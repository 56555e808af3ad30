"""Padding of images whose sides must be multiples of a window: the two conventions of the field."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, divisor: int) -> Tensor:
    """Extend (B, C, h, w) at the bottom and right to multiples of `divisor`.

    By reflection, the edge pixel not repeated. Where the references fail, because the pad reaches the side, the last
    row or column is repeated instead.
    """
    height, width = image.shape[-2:]
    for pad, side, spread in ((-height % divisor, height, (0, 0, 0, 1)), (-width % divisor, width, (0, 1, 0, 0))):
        if pad:
            image = F.pad(image, [pad * n for n in spread], mode="reflect" if pad < side else "replicate")
    return image


def mirror_window(image: Tensor, window: int) -> Tensor:
    """Extend (B, C, h, w) at the bottom and right to the next multiple of `window`, by one window if it is one already.

    By the mirror image, the edge pixel repeated, mirrored again as often as it takes.
    """
    for axis in (-2, -1):
        size = image.shape[axis]
        index = torch.arange((size // window + 1) * window, device=image.device) % (2 * size)
        image = image.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
    return image
