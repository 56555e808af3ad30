"""Image quality of SR against GT: pure functions of (sr, hr, border) that return a float, and what is known of each.

Images are (H, W, 3) RGB, both uint8 or both floating in [0, 1]; `border` pixels are cut from all four sides first.
8-bit images are scored exactly as GSASR's code does it, floating ones as the LIIF family does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench import perceptual
from methods.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ImageArray = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]

LUMA = np.array([65.481, 128.553, 24.966])
"""Weights of R, G, B in [0, 1] for Y of BT.601, which spans 16 to 235."""
LIIF_LUMA = np.array([65.738, 129.057, 25.064]) / 256
"""The LIIF family's weights; equal to LUMA / 255 within 1e-6."""
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
_SSIM_STRIP = 64
"""Rows of the SSIM map made at a time: they stay in the cache, and memory does not grow with the image."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr_y(sr: ImageArray, hr: ImageArray, border: int) -> float:
    """Peak signal-to-noise ratio of Y in dB, not rounded; infinite for identical images.

    Of 8-bit images: peak 255, Y between 16 and 235. Of floating images: the difference weighted by `LIIF_LUMA`, peak 1.
    On the same pixels the two agree to 1e-5 dB.

    Raises:
        UserError: the border leaves no pixel.
    """
    sr, hr = _crop(sr, hr, border)
    if sr.dtype == np.uint8:
        return _psnr(_luma(sr) - _luma(hr), 255.0)
    return _psnr((sr.astype(np.float64) - hr) @ LIIF_LUMA, 1.0)


def psnr_rgb(sr: ImageArray, hr: ImageArray, border: int) -> float:
    """Peak signal-to-noise ratio over all samples of R, G and B in dB; infinite for identical images.

    Raises:
        UserError: the border leaves no pixel.
    """
    sr, hr = _crop(sr, hr, border)
    return _psnr(sr.astype(np.float64) - hr, 255.0 if sr.dtype == np.uint8 else 1.0)


def ssim_y(sr: ImageArray, hr: ImageArray, border: int) -> float:
    """Structural similarity of Y (Wang et al., IEEE TIP 2004): Gaussian 11x11, sigma 1.5, mean of the valid region.

    Raises:
        UserError: the border leaves less than one window.
    """
    sr, hr = _crop(sr, hr, border, SSIM_WINDOW)
    return _ssim(_luma(sr), _luma(hr))


def ssim_rgb(sr: ImageArray, hr: ImageArray, border: int) -> float:
    """Mean of the structural similarities of R, G and B, as `ssim_y`.

    Raises:
        UserError: the border leaves less than one window.
    """
    sr, hr = (255 * _unit(image) for image in _crop(sr, hr, border, SSIM_WINDOW))
    return float(np.mean([_ssim(sr[..., c], hr[..., c]) for c in range(3)]))


def lpips(sr: ImageArray, hr: ImageArray, border: int, *, device: str = "cpu") -> float:
    """Learned perceptual distance (Zhang et al., CVPR 2018): package lpips, AlexNet, version 0.1 heads, RGB.

    Raises:
        UserError: the border leaves less than 31x31 pixels, or the network is not available.
    """
    sr, hr = _crop(sr, hr, border, perceptual.LPIPS_MIN_SIDE)
    return perceptual.distance(perceptual.lpips_network(device), _unit(sr) * 2 - 1, _unit(hr) * 2 - 1)


def dists(sr: ImageArray, hr: ImageArray, border: int, *, device: str = "cpu") -> float:
    """Deep structure and texture distance (Ding et al., TPAMI 2020): package DISTS-pytorch, RGB, not resized.

    Raises:
        UserError: the border leaves no pixel, or the network is not available.
    """
    sr, hr = _crop(sr, hr, border)
    return perceptual.distance(perceptual.dists_network(device), _unit(sr), _unit(hr))


@dataclass(frozen=True)
class Metric:
    """What lists, tables and the manifest say of a metric, and the function itself."""

    name: str
    title: str
    higher_is_better: bool
    digits: int
    """Decimals that tables print."""
    unit: str
    function: Callable[..., float]
    """(sr, hr, border) -> float; perceptual ones also take `device`."""
    implementation: Callable[[], str]
    unavailable: Callable[[], str | None] = lambda: None
    perceptual: bool = False

    def availability(self) -> str | None:
        """Why the metric cannot be computed here, as a sentence; None if it can."""
        return self.unavailable()

    def identity(self) -> str:
        """Whose implementation this is, in which version, with which weights."""
        return self.implementation()


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("psnr_y", "PSNR", True, 2, "dB", psnr_y, lambda: "asrbench, Y of BT.601 (16-235), float64"),
            Metric("ssim_y", "SSIM", True, 4, "", ssim_y, lambda: "asrbench, Y, Gaussian 11x11, sigma 1.5, float64"),
            Metric(
                "lpips", "LPIPS", False, 4, "", lpips, perceptual.lpips_identity, perceptual.lpips_unavailable, True
            ),
            Metric(
                "dists", "DISTS", False, 4, "", dists, perceptual.dists_identity, perceptual.dists_unavailable, True
            ),
            Metric("psnr_rgb", "PSNR (RGB)", True, 2, "dB", psnr_rgb, lambda: "asrbench, RGB, float64"),
        )
    }
)
"""Every metric by name, in table order."""


def _crop(sr: ImageArray, hr: ImageArray, border: int, side: int = 1) -> tuple[ImageArray, ImageArray]:
    """Cut the border from both images, which must keep at least `side` pixels each way."""
    if sr.shape != hr.shape or (sr.dtype == np.uint8) != (hr.dtype == np.uint8):
        raise ValueError(f"SR {sr.shape} {sr.dtype} and GT {hr.shape} {hr.dtype} cannot be compared.")
    rows, columns = sr.shape[0] - 2 * border, sr.shape[1] - 2 * border
    if min(rows, columns) < side:
        raise UserError(
            f"An image of {sr.shape[1]}x{sr.shape[0]} pixels is too small to score: without a border of {border} "
            f"pixels, {side}x{side} must be left; use larger images."
        )
    window = slice(border, border + rows), slice(border, border + columns)
    return sr[window], hr[window]


def _luma(image: ImageArray) -> FloatArray:
    """Y in 16..235, float64; of 8-bit images with the float32 steps of GSASR's code, which show in the sixth digit."""
    rounded = image.dtype == np.uint8
    unit = image.astype(np.float32) / np.float32(255) if rounded else image
    luma: FloatArray = unit.astype(np.float64) @ LUMA + 16
    return ((luma / 255).astype(np.float32) * np.float32(255)).astype(np.float64) if rounded else luma


def _unit(image: ImageArray) -> FloatArray:
    """The image in [0, 1] as float64."""
    return image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)


def _psnr(difference: FloatArray, peak: float) -> float:
    error = float(np.mean(np.square(difference)))
    return 10 * math.log10(peak * peak / error) if error else math.inf


def _ssim(x: FloatArray, y: FloatArray) -> float:
    """Mean SSIM of two planes (H, W) with range 0..255."""
    margin = SSIM_WINDOW - 1
    rows, columns = x.shape[0] - margin, x.shape[1] - margin
    strips = (slice(row, row + _SSIM_STRIP + margin) for row in range(0, rows, _SSIM_STRIP))
    return math.fsum(_ssim_sum(x[strip], y[strip]) for strip in strips) / float(rows * columns)


def _ssim_sum(x: FloatArray, y: FloatArray) -> float:
    mu_x, mu_y, squares, product = (_gaussian(plane) for plane in (x, y, x * x + y * y, x * y))
    mu_xy, mu_squares = mu_x * mu_y, mu_x * mu_x + mu_y * mu_y
    similarity = (2 * mu_xy + _C1) * (2 * (product - mu_xy) + _C2)
    similarity /= (mu_squares + _C1) * (squares - mu_squares + _C2)
    return float(np.sum(similarity))


def _gaussian(plane: FloatArray) -> FloatArray:
    """Filter (H, W) with the SSIM window where it fits: (W - 10, H - 10), transposed."""
    rows, columns = plane.shape
    filtered: FloatArray = _gaussian_operator(columns) @ (_gaussian_operator(rows) @ plane).T
    return filtered


@cache
def _gaussian_operator(size: int) -> csr_array:
    from scipy.sparse import csr_array

    offsets = np.arange(SSIM_WINDOW)
    weight = np.exp(-((offsets - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2))
    rows = size - SSIM_WINDOW + 1
    index = np.arange(rows)[:, None] + offsets
    starts = np.arange(rows + 1) * SSIM_WINDOW
    return csr_array((np.tile(weight / weight.sum(), rows), index.ravel(), starts), shape=(rows, size))
