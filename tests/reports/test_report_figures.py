from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from reports.errors import ReportError
from reports.figures import comparison, most_structured


@pytest.fixture
def run_with_images(make_run, row):
    """HR is red, bicubic green, LIIF blue: a detail shows whose it is."""
    folder = make_run([row("bicubic", "a", psnr_y=29.0), row("liif", "a", psnr_y=30.0)])
    images = folder / "images" / "Set5" / "x2"
    images.mkdir(parents=True)
    for name, color in {"hr": "red", "bicubic": "lime", "liif_edsr-micro": "blue"}.items():
        Image.new("RGB", (96, 64), color).save(images / f"a_{name}.png")
    return folder


def test_shows_every_method_beside_the_hr_image(run_with_images):
    path = comparison(run_with_images, "Set5", "a", 2.0, [(8, 8, 20, 20)])
    picture = Image.open(path)
    assert path == run_with_images / "reports" / "Set5_a_x2.png"
    assert picture.width == 1200
    pixels = np.asarray(picture).reshape(-1, 3)
    share = {name: (pixels == value).all(1).mean() for name, value in
             {"hr": (255, 0, 0), "bicubic": (0, 255, 0), "liif": (0, 0, 255)}.items()}  # fmt: skip
    assert share["hr"] > share["bicubic"] > 0.05
    assert share["bicubic"] == pytest.approx(share["liif"], rel=1e-6)


def test_several_details_and_chosen_methods(run_with_images, tmp_path):
    boxes = [(0, 0, 16, 32), (40, 60, 16, 32)]
    path = comparison(
        run_with_images, "Set5", "a", 2.0, boxes, methods=["liif"], width=600, out=tmp_path / "x" / "y.png"
    )
    pixels = np.asarray(Image.open(path)).reshape(-1, 3)
    assert not (pixels == (0, 255, 0)).all(1).any()
    assert (pixels == (0, 0, 255)).all(1).any()


def test_the_default_detail_is_the_most_structured_square():
    luma = np.full((60, 80), 90, np.uint8)
    luma[20:30, 50:60] = np.indices((10, 10)).sum(0) % 2 * 255
    top, left, *size = most_structured(Image.fromarray(luma), 12)
    assert size == [12, 12]
    assert top <= 20 <= 29 <= top + 11
    assert left <= 50 <= 59 <= left + 11


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("Set5", "b", 2.0), "--save-images"),
        (("Set5", "a", 2.0, [(0, 0, 65, 10)]), "not inside the 64x96 image"),
    ],
)
def test_what_is_not_there_is_named(run_with_images, arguments, named):
    with pytest.raises(ReportError, match=named):
        comparison(run_with_images, *arguments)


def test_damaged_images_are_named(run_with_images):
    (run_with_images / "images" / "Set5" / "x2" / "a_liif_edsr-micro.png").write_bytes(b"no PNG")
    with pytest.raises(ReportError, match=r"a_liif_edsr-micro\.png"):
        comparison(run_with_images, "Set5", "a", 2.0)
