"""Reading and writing image files: strictly for evaluation, leniently for upscaling, never with a silent conversion."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from methods.errors import UserError

Image8 = npt.NDArray[np.uint8]

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
}
"""What is read, and under which suffixes."""
IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

_ORIENTATION_TAG = 0x0112
_GREY_MODES = ("1", "L", "LA")
_MODES = (*_GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX")


def read_image(path: str | Path) -> Image8:
    """Read an image for evaluation: (H, W, 3) uint8 RGB, exactly the samples that the file holds.

    Grey and palette images become RGB, and an alpha channel that is opaque everywhere is dropped; both lose nothing.

    Raises:
        UserError: there is no such file, it is damaged, empty or too large, it is animated, its suffix belongs to
            another format, or it cannot be 8-bit RGB without a choice (16 bits, CMYK, transparency, EXIF rotation).
    """
    path = Path(path)
    pixels, alpha, _ = _channels(_decode(path, strict=True))
    if alpha is not None:
        raise UserError(f"{path} has transparent pixels: {_convert_hint('-background white -alpha remove')}.")
    return pixels


def read_for_upscale(path: str | Path) -> tuple[Image8, Image8 | None, bool]:
    """Read an image for upscaling: (RGB (H, W, 3), alpha (H, W) or None, whether the file was grey), all uint8.

    The suffix does not matter, EXIF rotations are applied and transparency is kept.

    Raises:
        UserError: there is no such file, it is damaged, empty or too large, it is animated, or it is not 8-bit RGB
            or grey (16 bits, CMYK).
    """
    return _channels(ImageOps.exif_transpose(_decode(Path(path), strict=False)))


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) by the file's header; the pixels are not decoded, so a truncated file passes.

    Raises:
        UserError: there is no such file, or it is empty, too large or no image.
    """
    with _open(Path(path)) as image:
        return image.height, image.width


def write_png(path: str | Path, image: Image8) -> None:
    """Write (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA as PNG; an existing file is replaced only by a whole one.

    Raises:
        UserError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(temporary, format="PNG")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({_reason(error)}): choose another place.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _open(path: Path) -> Image.Image:
    """Open a file and judge it by its header; Pillow refuses more than 178 million pixels."""
    _check_file(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return Image.open(path, formats=tuple(FORMATS))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} claims more than 178 million pixels: cut it into parts.") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read: change its permissions.") from error
    except Exception as error:  # Pillow lets through whatever its parsers meet in a damaged file
        raise UserError(f"{path} is damaged or not an image ({', '.join(FORMATS)}): convert or replace it.") from error


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}): check the path.") from error
    if size is None:
        raise UserError(f"There is no file {path}: check the path.")
    if size == 0:
        raise UserError(f"{path} is empty: fetch or copy it again.")


def _decode(path: Path, strict: bool) -> Image.Image:
    """Open a file, refuse what is not a still image of 8-bit RGB or grey, and decode all of it.

    strict: refuse wrong suffixes and rotations by tag too.
    """
    with _open(path) as image, warnings.catch_warnings(action="ignore"):
        # Phones append previews and gain maps to a JPEG; Pillow then says MPO, and its first frame is the photograph.
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        if strict and path.suffix.lower() not in FORMATS[kind]:
            raise UserError(f"{path} holds {kind} data: rename it to {FORMATS[kind][0]}.")
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise UserError(f"{path} holds several frames: save one of them as PNG.")
        if _is_deep(image):
            raise UserError(f"{path} has more than 8 bits per channel: {_convert_hint('-depth 8')}.")
        if image.mode not in _MODES:
            raise UserError(f"{path} is {image.mode}, not RGB or grey: {_convert_hint('-colorspace sRGB')}.")
        try:
            # Before the pixels, because Pillow applies a TIFF's rotation while it decodes them.
            rotated = image.getexif().get(_ORIENTATION_TAG, 1) != 1
            image.load()
        except Exception as error:  # as above
            raise UserError(f"{path} is damaged ({_reason(error)}): fetch or copy it again.") from error
        if strict and rotated:
            raise UserError(f"{path} is rotated by an EXIF tag only: {_convert_hint('-auto-orient')}.")
        return image


def _is_deep(image: Image.Image) -> bool:
    """Whether the samples have more than 8 bits; Pillow itself cuts 16-bit RGB down without a word."""
    if image.mode.startswith(("I", "F")):
        return True
    for *_, parameters in getattr(image, "tile", ()):
        raw_mode, *rest = (parameters,) if isinstance(parameters, str) else parameters
        if "16" in str(raw_mode) or (image.format == "PPM" and rest and rest[0] > 255):
            return True
    return False


def _channels(image: Image.Image) -> tuple[Image8, Image8 | None, bool]:
    """(RGB, alpha or None if it is opaque everywhere, whether the image was grey)."""
    grey = image.mode in _GREY_MODES
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), None, grey
    rgba = np.array(image.convert("RGBA"))
    alpha = np.ascontiguousarray(rgba[..., 3])
    return np.ascontiguousarray(rgba[..., :3]), None if alpha.min() == 255 else alpha, grey


def _convert_hint(options: str) -> str:
    return f"convert it first, for example with `magick IN {options} OUT.png`"


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
