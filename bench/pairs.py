"""LR and GT of an evaluation, made from one HR image by a protocol's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.protocol import Protocol, Size
from bench.resize import resize
from methods.errors import UserError

Image8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pair:
    """What a method gets and what it is compared with, both as 8-bit files would hold them."""

    hr: Image8
    """GT, (H, W, 3)."""
    lr: Image8
    """(h, w, 3)."""


def make_pair(
    hr_uint8: Image8, scale: float, protocol: Protocol, *, lr_uint8: Image8 | None = None, family: str = "benchmark"
) -> Pair:
    """Make the pair that `protocol` scores at `scale`.

    Args:
        hr_uint8: the whole original, (H, W, 3).
        scale: nominal factor of both axes, at least 1; need not be an integer.
        protocol: whose rules to follow.
        lr_uint8: the dataset's own LR image at this scale, (h, w, 3); used at the protocol's `ready_lr_scales` only.
        family: the dataset's family, "benchmark" or "div2k".

    Raises:
        UserError: the image is too small for the scale, or the ready LR does not belong to it.
    """
    gt_size, lr_size = protocol.sizes(_size(hr_uint8), scale)
    ready = scale in protocol.rules(family).ready_lr_scales
    if ready and lr_uint8 is not None:
        return _ready_pair(hr_uint8, lr_uint8, scale, protocol)
    # Ready LR files are MATLAB's, which can be made again sample by sample.
    resampler = "matlab" if ready else protocol.resampler
    gt = _crop(hr_uint8, gt_size)
    # At fractional scales GSASR reduces the uncropped image and then cuts; Pillow knows size ratios only and cannot.
    from_gt = scale == int(scale) or resampler == "pillow"
    lr = resize(gt if from_gt else hr_uint8, 1 / scale, variant=resampler, out_size=lr_size)
    return Pair(gt, np.ascontiguousarray(lr))


def _ready_pair(hr: Image8, lr: Image8, scale: float, protocol: Protocol) -> Pair:
    size, lr_size = _size(hr), _size(lr)
    gt_size = protocol.gt_size(lr_size, scale)
    off = max(abs(whole / scale - part) for whole, part in zip(size, lr_size, strict=True))
    if off >= 1 or gt_size[0] > size[0] or gt_size[1] > size[1]:
        raise UserError(
            f"The LR image of {lr_size[1]}x{lr_size[0]} pixels does not belong to an HR image of {size[1]}x{size[0]} "
            f"at scale {scale:g}: check that both have the same name and are of the same dataset."
        )
    return Pair(_crop(hr, gt_size), lr)


def _size(image: npt.NDArray[Any]) -> Size:
    return image.shape[0], image.shape[1]


def _crop(image: Image8, size: Size) -> Image8:
    return np.ascontiguousarray(image[: size[0], : size[1]])
