"""Pictures of a run: one image as the methods rendered it, side by side, with the details enlarged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reports.errors import ReportError
from reports.files import write_atomic
from reports.rows import Run, load_run

Box = tuple[int, int, int, int]
"""Top, left, height, width in HR pixels."""
_INK, _GREY, _PAPER = "#1a1a1a", "#6b6b6b", "#ffffff"
_BOX_COLORS = ("#e6194b", "#0082c8", "#f58231", "#3cb44b")
_GAP, _LABEL, _TEXT = 10, 26, 16


@dataclass(frozen=True)
class Panel:
    """One rendering of the whole image, and what stands under its details."""

    title: str
    note: str
    image: Image.Image


def comparison(
    run_dir: str | Path,
    dataset: str,
    image: str,
    scale: float,
    crops: Sequence[Box] = (),
    *,
    methods: Sequence[str] | None = None,
    backbone: str | None = None,
    width: int = 1200,
    out: str | Path | None = None,
) -> Path:
    """Draw the HR image with the details' frames beside the details of HR and of every method, with their PSNR.

    crops: the details; none given: the most structured square of the HR image, so the methods have no say in it.
    methods, backbone: what to show; everything that was saved, if not given. width: of the picture, in pixels.
    out: the PNG file; by default one in the run's folder `reports/`.

    Raises:
        ReportError: the run saved no such images, a detail lies outside, or the file cannot be written.
    """
    run = load_run(run_dir)
    folder = run.path / "images" / dataset / f"x{scale:g}"
    hr = _open(folder / f"{image}_hr.png")
    panels = [Panel("HR", "", hr), *_panels(run, folder, (dataset, image, scale), methods, backbone)]
    file = Path(out) if out is not None else run.path / "reports" / f"{dataset}_{image}_x{scale:g}.png"
    return side_by_side(panels, f"{image}, x{scale:g}", file, crops, width=width)


def side_by_side(
    panels: Sequence[Panel], name: str, file: Path, crops: Sequence[Box] = (), *, width: int = 1200
) -> Path:
    """Draw the first panel whole, with the frames of the details, and beside it the details of all panels.

    crops: the details; none given: the most structured square of the first panel. name: what stands under it.

    Raises:
        ReportError: a detail lies outside, or the file cannot be written.
    """
    hr = panels[0].image
    boxes = list(crops) or [most_structured(hr, max(min(16, *hr.size), min(hr.size) // 6))]
    for top, left, height, breadth in boxes:
        if min(top, left) < 0 or min(height, breadth) < 1 or top + height > hr.height or left + breadth > hr.width:
            raise ReportError(
                f"The crop {top},{left},{height},{breadth} is not inside the {hr.height}x{hr.width} image."
            )
    buffer = BytesIO()
    _compose(panels, boxes, name, width).save(buffer, "PNG", optimize=True)
    return write_atomic(file, buffer.getvalue())


def most_structured(image: Image.Image, side: int) -> Box:
    """The square of `side` pixels with the largest sum of absolute luma gradients."""
    luma = np.asarray(image.convert("L"), dtype=np.float64)
    energy = np.abs(np.diff(luma, axis=0, append=luma[-1:])) + np.abs(np.diff(luma, axis=1, append=luma[:, -1:]))
    total = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(top), int(left), side, side


def _panels(
    run: Run, folder: Path, place: tuple[str, str, float], methods: Sequence[str] | None, backbone: str | None
) -> list[Panel]:
    dataset, image, scale = place
    rows = run.rows
    rows = rows[(rows["dataset"] == dataset) & (rows["image"] == image) & (rows["scale"] == scale)]
    titles, backbones = run.titles("methods"), run.titles("backbones")
    several = len({name for name in rows["backbone"] if name}) > 1 and backbone is None
    panels = []
    for name, title in titles.items():
        for row in rows[rows["method"] == name].to_dict("records"):
            file = folder / f"{image}_{'_'.join(filter(None, (name, row['backbone'])))}.png"
            wanted = (methods is None or name in methods) and (
                not row["backbone"] or backbone in (None, row["backbone"])
            )
            if wanted and row["status"] == "ok":
                label = f"{title} ({backbones[row['backbone']]})" if several and row["backbone"] else title
                score = "" if math.isnan(row["psnr_y"]) else f"{row['psnr_y']:.2f} dB"
                panels.append(Panel(label, score, _open(file)))
    if not panels:
        raise ReportError(
            f"The run has no scored image {image!r} of {dataset!r} at ×{scale:g}: choose one that was run."
        )
    return panels


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError:
        raise ReportError(f"There is no image {str(file)!r}: run again with --save-images.") from None


def _compose(panels: Sequence[Panel], boxes: Sequence[Box], name: str, width: int) -> Image.Image:
    """The first panel at the left; at the right its detail in two or three rows, or in a row for each of several."""
    hr = panels[0].image
    columns = math.ceil(len(panels) / (2 if len(panels) <= 10 else 3)) if len(boxes) == 1 else len(panels)
    rows = math.ceil(len(panels) * len(boxes) / columns)
    aspect = max(box[2] / box[3] for box in boxes)
    shape = min(hr.width / hr.height, 1.5)
    fixed = _GAP * (columns + 2) + shape * (rows - 1) * (_LABEL + _GAP)
    tile = int((width - fixed) / (columns + shape * rows * aspect))  # so that both sides end at one height
    tile_height = round(tile * aspect)
    left = width - columns * (tile + _GAP) - 2 * _GAP
    height = rows * (tile_height + _LABEL + _GAP) + _GAP
    canvas = Image.new("RGB", (width, height), _PAPER)
    _draw_whole(canvas, hr, boxes, (left, height - 2 * _GAP - _LABEL), name)
    cells = [(panel, box) for box in boxes for panel in panels]
    for index, (panel, box) in enumerate(cells):
        row, column = divmod(index, columns)
        corner = left + 2 * _GAP + column * (tile + _GAP), _GAP + row * (tile_height + _LABEL + _GAP)
        color = _BOX_COLORS[boxes.index(box) % len(_BOX_COLORS)]
        _draw_detail(canvas, panel, box, (*corner, tile, tile_height), color)
    return canvas


def _draw_whole(canvas: Image.Image, hr: Image.Image, boxes: Sequence[Box], room: tuple[int, int], name: str) -> None:
    zoom = min(room[0] / hr.width, room[1] / hr.height)
    size = round(hr.width * zoom), round(hr.height * zoom)
    top = _GAP + (room[1] - size[1]) // 2
    canvas.paste(hr.resize(size, Image.Resampling.LANCZOS), (_GAP, top))
    draw = ImageDraw.Draw(canvas)
    for index, (y, x, height, width) in enumerate(boxes):
        edges = [_GAP + x * zoom, top + y * zoom, _GAP + (x + width) * zoom, top + (y + height) * zoom]
        draw.rectangle([round(edge) for edge in edges], outline=_BOX_COLORS[index % len(_BOX_COLORS)], width=3)
    _label(draw, (_GAP, top + size[1], size[0]), name, f"{hr.width} x {hr.height}")


def _draw_detail(canvas: Image.Image, panel: Panel, box: Box, place: Box, color: str) -> None:
    x, y, width, height = place
    top, left, rows, columns = box
    detail = panel.image.crop((left, top, left + columns, top + rows))
    canvas.paste(detail.resize((width, height), Image.Resampling.BICUBIC), (x, y))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([x, y, x + width - 1, y + height - 1], outline=color, width=2)
    _label(draw, (x, y + height, width), panel.title, panel.note)


def _label(draw: ImageDraw.ImageDraw, place: tuple[int, int, int], text: str, note: str) -> None:
    """Text at the left, a note at the right end of a line of the given width; smaller where both would meet."""
    x, y, width = place
    font = ImageFont.load_default(_TEXT)
    room = width - 4 - _GAP
    needed = draw.textlength(text, font) + draw.textlength(note, font)
    if needed > room:
        font = ImageFont.load_default(_TEXT * room / needed)
    draw.text((x + 2, y + 4), text, _INK, font)
    draw.text((x + width - 2, y + 4), note, _GREY, font, anchor="ra")
