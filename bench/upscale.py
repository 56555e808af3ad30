"""Upscaling of images without a ground truth: a file or a folder, any size, grey and transparency kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.compute import Compute, prepare_torch, ready
from bench.files import write_atomic
from bench.images import FORMATS, IMAGE_SUFFIXES, read_for_upscale
from bench.inference import MethodFault, OutOfMemory, super_resolve
from bench.resize import resize, to_uint8
from methods.errors import UserError

if TYPE_CHECKING:
    from methods.base import SRMethod

Image8 = npt.NDArray[np.uint8]
MAX_PIXELS = 178_956_970
"""Of a result: what Pillow opens again without complaint."""
_NO_ALPHA = ("JPEG", "BMP", "PPM")


@dataclass(frozen=True)
class Upscaled:
    """What came of one file."""

    source: Path
    target: Path
    size: tuple[int, int] | None = None
    """(H, W) of the result; None when it failed."""
    failure: str | None = None


def upscale(
    source: str | Path,
    target: str | Path,
    scale: float,
    method: str = "gsasr",
    backbone: str | None = None,
    *,
    weights: str = "shipped",
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "float32",
    channels_last: bool = False,
    compiled: bool = False,
    max_memory: int | None = None,
) -> Iterator[Upscaled]:
    """Upscale `source`, an image or a folder of images, to `target`, one result at a time.

    The result has round(scale * side) pixels each way; its format is that of `target`'s suffix, PNG in folders. In a
    folder, an image that fails is reported and the others go on. max_memory: bytes below which tensors are kept.

    Raises:
        UserError: a single image, the method, the scale or the target cannot be used.
    """
    source, target = Path(source), Path(target)
    jobs = _jobs(source, target)
    compute = prepare_torch(device, dtype, channels_last=channels_last, compiled=compiled)
    model = ready(method, backbone, compute, weights=weights, options=options)
    for path, result in jobs:
        try:
            yield Upscaled(path, result, _one(path, result, scale, model, compute, max_memory))
        except (UserError, OutOfMemory, MethodFault) as error:
            if not source.is_dir():
                raise UserError(str(error)) from error
            yield Upscaled(path, result, failure=str(error))


def upscale_image(lr: Image8, scale: float, model: SRMethod, compute: Compute, max_memory: int | None = None) -> Image8:
    """Upscale (h, w, 3) by `scale`, from one pixel up."""
    return to_uint8(super_resolve(model, lr, _scaled(lr, scale), scale, compute, max_memory=max_memory).sr)


def _one(
    source: Path, target: Path, scale: float, model: SRMethod, compute: Compute, max_memory: int | None
) -> tuple[int, int]:
    rgb, alpha, grey = read_for_upscale(source)
    size = _scaled(rgb, scale)
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{source} would become {size[1]}x{size[0]} pixels: choose a smaller scale or cut it up.")
    image = upscale_image(rgb, scale, model, compute, max_memory)
    planes = [_grey(image)[..., None] if grey else image]
    if alpha is not None:
        planes.append(resize(alpha[..., None], scale, out_size=size))
    _write(target, np.concatenate(planes, axis=-1))
    return size


def _scaled(image: Image8, scale: float) -> tuple[int, int]:
    return max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))


def _grey(image: Image8) -> Image8:
    # The three channels were equal before; afterwards their mean is the least arbitrary grey.
    grey: Image8 = np.rint(image.mean(axis=-1)).astype(np.uint8)
    return grey


def _write(target: Path, image: Image8) -> None:
    """image: (H, W, 1 grey | 2 grey and alpha | 3 RGB | 4 RGBA)."""
    kind = _format(target)
    if image.shape[-1] in (2, 4) and kind in _NO_ALPHA:
        raise UserError(f"{target} cannot hold the transparency of its source: choose a name that ends in .png.")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[image.shape[-1]]
    size = image.shape[1], image.shape[0]
    buffer = BytesIO()
    Image.frombytes(mode, size, np.ascontiguousarray(image).tobytes()).save(buffer, kind, quality=95)
    write_atomic(target, buffer.getvalue())


def _format(target: Path) -> str:
    for kind, suffixes in FORMATS.items():
        if target.suffix.lower() in suffixes:
            return kind
    raise UserError(f"{target} does not say what to write: end the name in {', '.join(sorted(IMAGE_SUFFIXES))}.")


def _jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Which file becomes which; refuses to write over what is read."""
    if not source.exists():
        raise UserError(f"There is no file or folder {source}: check the path.")
    if not source.is_dir():
        result = target / f"{source.stem}.png" if target.is_dir() else target
        _format(result)
        if result.exists() and result.samefile(source):
            raise UserError(f"{result} is the source itself: choose another place for the result.")
        return [(source, result)]
    if target.is_file():
        raise UserError(f"{target} is a file, but {source} is a folder: name a folder for the results.")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the source itself: choose another folder for the results.")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"{source} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}): check the path.")
    stems = [path.stem for path in found]
    twice = next((path for path in found if stems.count(path.stem) > 1), None)
    if twice is not None:
        raise UserError(f"{source} holds several images called {twice.stem}: rename all but one.")
    return [(path, target / f"{path.stem}.png") for path in found]
