"""The images of a training: decoded once into a file that is mapped into memory, whatever the folder holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from bench.files import cannot_write, write_atomic
from bench.images import read_image
from bench.training.recipe import Recipe
from methods.errors import UserError
from methods.official import cache_folder

Image8 = NDArray[np.uint8]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_LAYOUT = 1
"""Of the cache: raised when what is in the files changes."""


@dataclass(frozen=True)
class Pool:
    """Decoded images."""

    images: tuple[Image8, ...]
    """(H, W, 3) each, views of one memory-mapped file."""
    names: tuple[str, ...]
    """Path relative to the folder of each, with ` x0.9` where it is reduced; sorted."""
    sha256: str
    """Of all names, sizes and pixels."""


def open_pool(root: Path, recipe: Recipe) -> tuple[Pool, dict[str, Image8]]:
    """The images that a recipe trains on, and those that it validates on.

    The decoded pixels lie below the user's cache folder; a folder that changed is decoded anew.

    Raises:
        UserError: no such folder, no images, a file that is none, an image of `val` is missing, or no space is left.
    """
    paths: dict[str, Path] = {}
    for name in recipe.folders:
        paths |= _images_below(root / name)
    held_out = paths if recipe.val_data is None else _images_below(root / recipe.val_data)
    if missing := [name for name in recipe.val if name not in held_out]:
        where = recipe.val_data or ", ".join(recipe.folders)
        raise UserError(f"The validation image {missing[0]} is not in {where}: correct `val`.")
    val = {name: read_image(held_out.pop(name)) for name in recipe.val}
    if not paths:
        raise UserError(f"There are no training images in {root / recipe.folders[0]}: pass another --data-root.")
    return _cached(dict(sorted(paths.items())), recipe), val


def _images_below(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"There is no folder of training images {folder}: set ASRBENCH_DATA or pass --data-root.")
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES}


def _cached(paths: Mapping[str, Path], recipe: Recipe) -> Pool:
    stats = [(name, path.stat()) for name, path in paths.items()]
    described = [(name, str(paths[name].resolve()), stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    settings = (recipe.shrink, recipe.shrink_to_sub_image, recipe.sub_image if recipe.shrink else None)
    key = hashlib.sha256(json.dumps([_LAYOUT, settings, described]).encode()).hexdigest()[:32]
    folder = cache_folder() / "training"
    pixels, index = folder / f"{key}.rgb", folder / f"{key}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if not index.is_file():
                _decode(_variants(paths, recipe), pixels, index)
    except OSError as error:
        raise cannot_write(pixels, error) from error
    return _open(pixels, index)


def _variants(paths: Mapping[str, Path], recipe: Recipe) -> Iterator[tuple[str, Image8]]:
    """Every image as it is, and reduced as the recipe asks."""
    for name, path in paths.items():
        image = read_image(path)
        yield name, image
        if recipe.sub_image is None:
            continue
        shorter = min(image.shape[:2])
        for factor in recipe.shrink:
            if int(shorter * factor) >= recipe.sub_image:
                size = (int(image.shape[1] * factor), int(image.shape[0] * factor))
                yield f"{name} x{factor:g}", _reduced(image, size)
        if recipe.shrink_to_sub_image and shorter > recipe.sub_image:
            size = (image.shape[1] * recipe.sub_image // shorter, image.shape[0] * recipe.sub_image // shorter)
            yield f"{name} to {recipe.sub_image}", _reduced(image, size)


def _reduced(image: Image8, size: tuple[int, int]) -> Image8:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _decode(images: Iterator[tuple[str, Image8]], pixels: Path, index: Path) -> None:
    """Write all pixels one after the other, then, all at once, what lies where."""
    partial = pixels.with_suffix(".partial")
    entries, digest, offset = [], hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            for name, image in images:
                content = np.ascontiguousarray(image).tobytes()
                digest.update(f"{name} {image.shape}".encode())
                digest.update(content)
                file.write(content)
                entries.append([name, image.shape[0], image.shape[1], offset])
                offset += len(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(pixels)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    write_atomic(index, json.dumps({"sha256": digest.hexdigest(), "images": entries}).encode())


def _open(pixels: Path, index: Path) -> Pool:
    content = json.loads(index.read_text(encoding="utf-8"))
    mapped: Image8 = np.memmap(pixels, np.uint8, "r")
    views = tuple(mapped[at : at + 3 * h * w].reshape(h, w, 3) for _, h, w, at in content["images"])
    return Pool(views, tuple(name for name, *_ in content["images"]), content["sha256"])


def windows(images: Sequence[Image8], side: int, sub_image: int | None, stride: int) -> NDArray[np.int64]:
    """Where patches of `side` may be cut from: rows (image, top, left, height, width).

    Without sub-images one row per image that is large enough; otherwise every window of `sub_image` at multiples of
    the stride, and one flush with the far edge.

    Raises:
        UserError: no image is large enough.
    """
    found: list[tuple[int, int, int, int, int]] = []
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        if min(height, width) < (sub_image or side):
            continue
        if sub_image is None:
            found.append((number, 0, 0, height, width))
            continue
        tops, lefts = ([*range(0, length - sub_image, stride), length - sub_image] for length in (height, width))
        found += [(number, top, left, sub_image, sub_image) for top in tops for left in lefts]
    if not found:
        raise UserError(
            f"No training image has both sides >= {sub_image or side} pixels: lower lr_side, the largest scale or "
            "sub_image."
        )
    return np.array(found)
