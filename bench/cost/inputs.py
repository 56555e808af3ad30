"""The images that cost is measured on: squares of one size from any photographs, and the LR images made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.pairs import Image8, make_pair
from bench.protocol import Protocol

if TYPE_CHECKING:
    from bench.data import ImageRef

CORNER = 80
"""Rows and columns above and left of the patch, in pixels; GSASR's `inference_paper_benchmark.py` cuts there."""


@dataclass(frozen=True)
class Input:
    """One image to measure with, as 8-bit files would hold it."""

    image: str
    """The image's name within its data set."""
    lr: Image8
    """(h, w, 3)."""
    hr: Image8
    """GT, (H, W, 3); smaller than the patch where the scale does not divide it."""


def make_inputs(
    refs: Sequence[ImageRef], protocol: Protocol, scale: float, family: str, crop: int, images: int | None = None
) -> list[Input]:
    """Cut a GT patch from each of the images and make its LR by the protocol's rules.

    LR files of the data set are not used: they belong to whole images.

    Args:
        refs: images of a data set, in its order.
        protocol: the evaluation protocol.
        scale: nominal factor of both axes.
        family: the data set's family, "benchmark" or "div2k".
        crop: side of the patch in pixels.
        images: how many of the first images to take; None: all.

    Raises:
        UserError: an image is damaged, or the patch is too small for the scale.
    """
    inputs = []
    for ref in refs[:images]:
        pair = make_pair(square_patch(ref.read(), crop), scale, protocol, family=family)
        inputs.append(Input(ref.name, lr=pair.lr, hr=pair.hr))
    return inputs


def square_patch(image: Image8, side: int) -> Image8:
    """A square of `side` pixels from (H, W, 3): at (80, 80) where that fits in both directions, else from the middle.

    Beyond its edges the image is continued by its mirror image, the edge pixel repeated, as often as it takes.
    """
    corner_fits = min(image.shape[:2]) >= CORNER + side
    rows, columns = (_positions(length, side, CORNER if corner_fits else None) for length in image.shape[:2])
    return np.ascontiguousarray(image[rows[:, None], columns])


def _positions(length: int, side: int, start: int | None) -> npt.NDArray[np.intp]:
    """Which of `length` pixels make up a side of the patch; start None: in the middle."""
    if start is None:
        start = (length - side) // 2
    position = np.arange(start, start + side) % (2 * length)
    return np.minimum(position, 2 * length - 1 - position)
