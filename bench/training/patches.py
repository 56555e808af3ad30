"""Training patches: images decoded once; a batch depends on (seed, step) alone, so that resuming is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.images import read_image
from methods.errors import UserError
from methods.resampling import taps

Images = dict[str, NDArray[np.uint8]]
"""Decoded images, (H, W, 3) each, by path relative to their folder, in order of path."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Batch:
    """lr (B, 3, h, h) and hr (B, 3, H, H), both in [0, 1] in steps of 1/255; scale = H / h."""

    lr: Tensor
    hr: Tensor
    scale: float


def read_pool(folder: Path, val: Sequence[str]) -> tuple[Images, Images]:
    """Decode the images below `folder`: those to train on, and those named in `val`.

    Raises:
        UserError: no folder, no images, or an image of `val` is not there.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder of training images {folder}: set ASRBENCH_DATA or pass --data-root.")
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES}
    if missing := [name for name in val if name not in paths]:
        raise UserError(f"The validation image {missing[0]} is not in {folder}: correct `val` in the recipe.")
    if not paths.keys() - set(val):
        raise UserError(f"There are no training images in {folder}: pass another with --data-root.")
    images = {name: read_image(paths[name]) for name in sorted(paths)}
    return {k: v for k, v in images.items() if k not in val}, {k: v for k, v in images.items() if k in val}


def pixels_sha256(images: Mapping[str, NDArray[np.uint8]]) -> str:
    """One hash over names, sizes and decoded pixels, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(images):
        digest.update(f"{name} {images[name].shape}".encode())
        digest.update(images[name].tobytes())
    return digest.hexdigest()


class PatchSampler:
    """Random square patches at random scales with flips and transposition."""

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], *, lr_side: int, batch: int, scale: tuple[float, float], seed: int
    ) -> None:
        self.lr_side, self.batch, self.scale, self.seed = lr_side, batch, scale, seed
        side = round(lr_side * scale[1])
        self.images = [image for image in images if min(image.shape[:2]) >= side]
        if not self.images:
            raise UserError(f"No training image has both sides >= {side} pixels: lower lr_side or the largest scale.")

    def __call__(self, step: int) -> Batch:
        """The batch of one step: any image, position and orientation, equally likely; one scale for all samples."""
        rng = np.random.default_rng((self.seed, step))
        side = round(self.lr_side * rng.uniform(*self.scale))
        hr = torch.from_numpy(np.stack([self._crop(rng, side) for _ in range(self.batch)]))
        hr = hr.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
        return Batch(downscale(hr, self.lr_side), hr, side / self.lr_side)

    def _crop(self, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        image = self.images[rng.integers(len(self.images))]
        top, left = (rng.integers(n - side + 1) for n in image.shape[:2])
        patch = image[top : top + side, left : left + side]
        flip_y, flip_x, transpose = rng.integers(2, size=3)
        patch = patch[:: 1 - 2 * flip_y, :: 1 - 2 * flip_x]
        return patch.swapaxes(0, 1) if transpose else patch


def downscale(hr: Tensor, side: int) -> Tensor:
    """The evaluation protocol's LR (B, 3, side, side) of square patches (B, 3, H, H) in [0, 1].

    Antialiased bicubic, mirrored border, rounded to 8 bits since the images to be upscaled later are 8-bit files too.
    """
    matrix = _resize_matrix(hr.shape[-1], side)
    return (matrix @ hr @ matrix.T * 255).round_().clamp_(0, 255) / 255


@cache
def _resize_matrix(in_size: int, out_size: int) -> Tensor:
    matrix = np.zeros((out_size, in_size))
    index, weight = taps(in_size, out_size, out_size / in_size)
    np.add.at(matrix, (np.arange(out_size)[:, None], index), weight)
    return torch.from_numpy(matrix.astype(np.float32))
