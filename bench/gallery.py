"""One photograph as every method renders it: the images behind `bench gallery`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.compute import prepare_torch, ready
from bench.images import read_image
from bench.inference import MethodFault, OutOfMemory, super_resolve
from bench.metrics import psnr_y
from bench.pairs import Image8, make_pair
from bench.plan import Cell, networks
from bench.protocol import Size, get
from bench.resize import to_uint8
from bench.settings import RunSettings
from methods.errors import UserError
from methods.registry import encoder_spec, method_spec


@dataclass(frozen=True)
class Rendering:
    """One panel of a gallery."""

    title: str
    note: str
    """PSNR on Y, if there is something to compare with; of a method that failed, why."""
    image: Image8 | None
    """(H, W, 3); None where the method failed."""


@dataclass(frozen=True)
class _Task:
    lr: Image8
    hr: Image8 | None
    out_size: Size
    first: Rendering


def renderings(photo: str | Path, settings: RunSettings, *, enlarge: bool = False) -> Iterator[Rendering]:
    """The photograph, then what each method makes of it, at the settings' one scale.

    The photograph is the ground truth; the methods get it reduced, as the protocol does it. With `enlarge` they get it
    as it is, and there is nothing to compare with.

    Raises:
        UserError: the photograph cannot be used, or no method can run.
    """
    (scale,) = settings.scales
    cells = [cell for method in settings.methods for cell in networks(method, settings)]
    if all(cell.problem or not method_spec(cell.method).learned for cell in cells):
        raise UserError(
            next((cell.problem for cell in cells if cell.problem), None) or "No method was named: name one."
        )
    task = _task(read_image(photo), scale, settings, enlarge)
    yield task.first
    several = len({cell.backbone for cell in cells if cell.backbone}) > 1
    for cell in cells:
        yield _rendering(cell, task, scale, settings, several)


def _task(image: Image8, scale: float, settings: RunSettings, enlarge: bool) -> _Task:
    protocol = get(settings.protocol)
    if enlarge:
        height, width = protocol.gt_size((image.shape[0], image.shape[1]), scale)
        blocks = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        first = Rendering("LR", f"{image.shape[1]} x {image.shape[0]}", np.asarray(blocks))
        return _Task(image, None, (height, width), first)
    pair = make_pair(image, scale, protocol)
    return _Task(pair.lr, pair.hr, (pair.hr.shape[0], pair.hr.shape[1]), Rendering("HR", "", pair.hr))


def _rendering(cell: Cell, task: _Task, scale: float, settings: RunSettings, several: bool) -> Rendering:
    title = method_spec(cell.method).title
    if several and cell.backbone:
        title += f" ({encoder_spec(cell.backbone).title})"
    try:
        sr = _super_resolve(cell, task, scale, settings)
    except (UserError, OutOfMemory, MethodFault) as error:
        return Rendering(title, str(error), None)
    if task.hr is None:
        return Rendering(title, "", sr)
    return Rendering(title, f"{psnr_y(sr, task.hr, get(settings.protocol).border(scale)):.2f} dB", sr)


def _super_resolve(cell: Cell, task: _Task, scale: float, settings: RunSettings) -> Image8:
    if cell.checkpoint is None:
        raise UserError(str(cell.problem))
    compute = prepare_torch(settings.device, settings.dtype)
    model = ready(cell.method, cell.backbone or None, compute, weights=cell.checkpoint, options=cell.options)
    found = super_resolve(model, task.lr, task.out_size, scale, compute, seed=settings.seed)
    return to_uint8(found.sr)
