"""Training patches. What a step sees depends on (seed, step) alone, so that resuming and more processes are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.training.pool import Image8, windows
from bench.training.recipe import Recipe
from methods.resampling import cubic, taps


@dataclass(frozen=True)
class Batch:
    """Some patches of a step, on a device."""

    lr: Tensor
    """(B, 3, h, h) in [0, 1]."""
    hr: Tensor
    """(B, 3, H, H) in steps of 1/255, H the largest side; zero beyond each patch's own side."""
    sides: tuple[int, ...]
    """Side of each HR patch."""
    index: Tensor | None
    """Flat indices (B, Q) of the HR pixels to train on, different ones for each patch; None: all."""

    @property
    def scales(self) -> list[float]:
        """HR side over LR side of each patch."""
        return [side / self.lr.shape[-1] for side in self.sides]


class PatchSampler:
    """Random square patches at random scales with flips and transposition, every window once per epoch."""

    def __init__(self, images: Sequence[Image8], recipe: Recipe) -> None:
        self.images, self.recipe = images, recipe
        side = round(recipe.lr_side * recipe.scale[1])
        self.windows = windows(images, side, recipe.sub_image, recipe.sub_stride)
        self._order = cache(self._shuffle)

    def __call__(self, step: int, part: slice = slice(None), device: torch.device | str = "cpu") -> Batch:
        """The patches of a step, or the part of them with these numbers."""
        recipe, hr, index = self.recipe, [], []
        low, high = recipe.scale
        shared = np.random.default_rng((recipe.seed, step)).uniform(low, high)
        for number in range(recipe.batch)[part]:
            rng = np.random.default_rng((recipe.seed, step, number))
            scale = shared if recipe.scale_per == "batch" else rng.uniform(low, high)
            side = round(recipe.lr_side * scale)
            hr.append(self._cut(step * recipe.batch + number, side, rng))
            if recipe.queries is not None:
                index.append(np.sort(rng.choice(side**2, min(recipe.queries, recipe.lr_side**2), replace=False)))
        sides = tuple(len(patch) for patch in hr)
        whole = torch.zeros(len(hr), 3, max(sides), max(sides), device=device)
        lr = torch.empty(len(hr), 3, recipe.lr_side, recipe.lr_side, device=device)
        for side in sorted(set(sides)):
            rows = [row for row, own in enumerate(sides) if own == side]
            patches = torch.from_numpy(np.stack([hr[row] for row in rows])).to(device).permute(0, 3, 1, 2)
            whole[rows, :, :side, :side] = patches / 255
            lr[rows] = downscale(patches, recipe.lr_side, recipe.resampler, recipe.round_lr)
        chosen = torch.from_numpy(np.stack(index)).to(device) if index else None
        return Batch(lr, whole, sides, chosen)

    def _cut(self, number: int, side: int, rng: np.random.Generator) -> Image8:
        """Patch `number` of the whole training, counted from 0."""
        epoch, place = divmod(number, len(self.windows))
        image, top, left, height, width = self.windows[self._order(epoch)[place]]
        top, left = top + rng.integers(height - side + 1), left + rng.integers(width - side + 1)
        patch: Image8 = self.images[image][top : top + side, left : left + side]
        flip_y, flip_x, transpose = rng.integers(2, size=3)
        patch = patch[:: 1 - 2 * flip_y, :: 1 - 2 * flip_x]
        return patch.swapaxes(0, 1) if transpose else patch

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.recipe.seed, epoch, 0, 0)).permutation(len(self.windows))


def downscale(hr: Tensor, side: int, resampler: str = "basicsr", rounded: bool = True) -> Tensor:
    """The LR patches (B, 3, side, side) in [0, 1] of 8-bit square patches (B, 3, H, H).

    As `bench.resize` makes them; `pillow` rounds after each pass in any case.
    """
    if resampler == "pillow":
        matrix = _pillow_matrix(hr.shape[-1], side).to(hr.device)
        wide = _round(hr.float() @ matrix.T)
        return _round(matrix @ wide) / 255
    matrix = _resize_matrix(hr.shape[-1], side).to(hr.device)
    lr = matrix @ (hr / 255) @ matrix.T
    return _round(lr * 255) / 255 if rounded else lr


def _round(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255)


@cache
def _resize_matrix(in_size: int, out_size: int) -> Tensor:
    """Antialiased bicubic with a mirrored border, (out, in)."""
    matrix = np.zeros((out_size, in_size))
    index, weight = taps(in_size, out_size, out_size / in_size)
    np.add.at(matrix, (np.arange(out_size)[:, None], index), weight)
    return torch.from_numpy(matrix.astype(np.float32))


@cache
def _pillow_matrix(in_size: int, out_size: int) -> Tensor:
    """Antialiased bicubic with the kernel cut off at the border, (out, in)."""
    factor = max(in_size / out_size, 1.0)
    centre = (np.arange(out_size) + 0.5)[:, None] * (in_size / out_size)
    pixel = np.arange(in_size) + 0.5
    # Pillow takes the pixels whose numbers, rounded, lie within two widths.
    first, stop = np.floor(centre - 2 * factor + 0.5), np.floor(centre + 2 * factor + 0.5)
    matrix = cubic((pixel - centre) / factor) * ((pixel > first) & (pixel < stop))
    return torch.from_numpy((matrix / matrix.sum(1, keepdims=True)).astype(np.float32))
