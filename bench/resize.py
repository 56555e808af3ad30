"""Bicubic resizing in the three variants that super-resolution results are made with.

They share the kernel and differ in border and rounding, by up to 0.06 of the range at borders, so that every result has
to name its own.

| variant | border | rounding | equals |
|---|---|---|---|
| `basicsr` | mirrored | none, float32 | BasicSR's and GSASR's `imresize` within 1e-6 |
| `matlab` | end pixel | to 8 bits, half up, after each pass | MATLAB's `imresize` of uint8 images, every sample |
| `pillow` | kernel cut | to 8 bits after each pass, width first | `Image.resize(..., BICUBIC)`, which it calls |
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from methods.errors import UserError
from methods.resampling import Border, taps

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Variant = Literal["basicsr", "matlab", "pillow"]
ImageArray = npt.NDArray[Any]


def resize(
    image: ImageArray,
    factor: float | tuple[float, float],
    *,
    variant: Variant = "basicsr",
    out_size: tuple[int, int] | None = None,
) -> ImageArray:
    """Resize an image (H, W) or (H, W, C) by `factor`, one number or (y, x).

    Args:
        image: uint8, or for `basicsr` also floating, range [0, 1].
        factor: output pixels per input pixel. `pillow` knows only the ratio of the sizes.
        variant: see the table above.
        out_size: (H, W) of the result, default ceil(size * factor); a smaller one keeps the top left part of what
            `basicsr` and `matlab` make, whereas `pillow` fits the whole image into it.

    Returns:
        The type of the input: uint8, rounded half to even and clipped (`matlab`: half up); or float32, not clipped.

    Raises:
        UserError: the factor is not positive, the variant is unknown, or it cannot take this type of image.
    """
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    _check(image, factors, variant)
    size = out_size or (ceil(image.shape[0] * factors[0]), ceil(image.shape[1] * factors[1]))
    if variant == "pillow":
        return _pillow(image, size)
    return _matlab(image, factors, size) if variant == "matlab" else _basicsr(image, factors, size)


def to_uint8(image: ImageArray) -> npt.NDArray[np.uint8]:
    """Round an image in [0, 1] to 8 bits: clip(round(255 v)), half to even."""
    return np.clip(np.rint(image * 255.0), 0, 255).astype(np.uint8)


def _check(image: ImageArray, factors: tuple[float, float], variant: str) -> None:
    if variant not in get_args(Variant):
        raise UserError(f"There is no resampler called {variant!r}: choose from {', '.join(get_args(Variant))}.")
    if not all(isfinite(f) and f > 0 for f in factors):
        raise UserError(f"An image cannot be resized by {factors[0]:g} x {factors[1]:g}: give positive factors.")
    if variant != "basicsr" and image.dtype != np.uint8:
        raise UserError(f"The {variant} resampler works on 8-bit images, not on {image.dtype}: round the image first.")


def _basicsr(image: ImageArray, factors: Sequence[float], size: Sequence[int]) -> ImageArray:
    rounded = image.dtype == np.uint8
    result = image.astype(np.float32) / np.float32(255 if rounded else 1)
    for axis in (0, 1):
        result = _pass(result, axis, size[axis], factors[axis], "symmetric")
    return to_uint8(result) if rounded else result


def _matlab(image: ImageArray, factors: Sequence[float], size: Sequence[int]) -> ImageArray:
    for axis in (0, 1):
        result = _pass(image.astype(np.float64), axis, size[axis], factors[axis], "edge")
        image = np.clip(np.floor(result + 0.5), 0, 255).astype(np.uint8)
    return image


def _pillow(image: ImageArray, size: Sequence[int]) -> ImageArray:
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _pass(image: ImageArray, axis: int, out_size: int, factor: float, border: Border) -> ImageArray:
    """Resample one axis; the arithmetic has the image's floating type and adds the taps in their order."""
    operator = _operator(image.shape[axis], out_size, factor, border, image.dtype == np.float32)
    columns = np.ascontiguousarray(np.moveaxis(image, axis, 0))
    result: ImageArray = operator @ columns.reshape(columns.shape[0], -1)
    return np.moveaxis(result.reshape(out_size, *columns.shape[1:]), 0, axis)


def _operator(in_size: int, out_size: int, factor: float, border: Border, float32: bool) -> csr_array:
    from scipy.sparse import csr_array

    index, weight = taps(in_size, out_size, factor, border, float32_positions=float32)
    starts = np.arange(out_size + 1) * index.shape[1]
    return csr_array((weight.ravel(), index.ravel(), starts), shape=(out_size, in_size))
