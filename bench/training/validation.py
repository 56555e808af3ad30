"""Validation: the evaluation protocol on whole images that training does not see, and a picture of their progress."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench import protocol
from bench.files import write_atomic
from bench.metrics import psnr_y
from bench.pairs import make_pair
from methods.base import SRMethod

Image8 = NDArray[np.uint8]
CROP = 96
"""Side of the details on the contact sheet, in pixels."""
SHOWN = 4
"""Validation images on the contact sheet."""
_LABEL = 16


def validate(
    model: SRMethod, images: Mapping[str, Image8], scales: Sequence[float], device: torch.device | str = "cpu"
) -> tuple[dict[str, float], Image8 | None]:
    """Mean PSNR-Y in dB under the GSASR protocol, per scale; and details at the last scale, one below the other."""
    rules, scores, details = protocol.get("gsasr"), {}, []
    for scale, name in zip(scales, score_names(scales), strict=True):
        found = []
        for number, image in enumerate(images.values()):
            pair = make_pair(image, scale, rules)
            sr = _super_resolve(model, pair.lr, pair.hr.shape[:2], scale, device)
            found.append(psnr_y(sr, pair.hr, rules.border(scale, "benchmark")))
            if scale == scales[-1] and number < SHOWN:
                details.append(_centre(sr))
        scores[name] = fmean(found)
    return scores, np.concatenate(details) if details else None


def score_names(scales: Sequence[float]) -> list[str]:
    """What `validate` calls its results: `psnr_y_x2` and so on."""
    return [f"psnr_y_x{scale:g}" for scale in scales]


def _super_resolve(
    model: SRMethod, lr: Image8, out_size: tuple[int, int], scale: float, device: torch.device | str
) -> Image8:
    x = torch.from_numpy(lr).to(device).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        out = model(x, out_size, scale)[0]
    sr: Image8 = out.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return sr


def _centre(image: Image8) -> Image8:
    """The middle of an image, mirrored outwards where it is smaller."""
    for axis in (0, 1):
        length = image.shape[axis]
        around = np.arange(CROP) + (length - CROP) // 2
        image = image.take(np.abs(around) if length == 1 else _mirrored(around, length), axis)
    return image


def _mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    index = index % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


class ContactSheet:
    """`contact.png` in a folder: details of the validation images, a column per validation, the last one the truth.

    Columns are kept in `details/`, so that a resumed training goes on with the same sheet. start: later ones, left by
    an interrupted training, are dropped.
    """

    def __init__(self, folder: Path, images: Mapping[str, Image8], scale: float, start: int = 0) -> None:
        self.folder, self.columns = folder / "details", folder / "contact.png"
        pairs = [make_pair(image, scale, protocol.get("gsasr")) for image in list(images.values())[:SHOWN]]
        self.truth = np.concatenate([_centre(pair.hr) for pair in pairs]) if pairs else None
        for path in self.folder.glob("*.png"):
            if int(path.stem) > start:
                path.unlink()

    def add(self, step: int, details: Image8 | None) -> None:
        """Add the column of a step and draw the sheet anew."""
        if details is None or self.truth is None:
            return
        write_atomic(self.folder / f"{step:08d}.png", _png(Image.fromarray(details)))
        steps = sorted(self.folder.glob("*.png"))
        shown = steps[:: -(-len(steps) // 16)]
        if steps[-1] not in shown:
            shown.append(steps[-1])
        columns = [*((path.stem.lstrip("0"), _read(path)) for path in shown), ("truth", Image.fromarray(self.truth))]
        sheet = Image.new("RGB", (len(columns) * (CROP + 2) - 2, _LABEL + len(self.truth)), "white")
        draw = ImageDraw.Draw(sheet)
        for number, (label, column) in enumerate(columns):
            draw.text((number * (CROP + 2) + 2, 2), label, "#1a1a1a")
            sheet.paste(column, (number * (CROP + 2), _LABEL))
        write_atomic(self.columns, _png(sheet))


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
