"""Patches against hand-made arrays and numpy's padding, LR images against the protocol's own pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cost.inputs import make_inputs, square_patch
from bench.data import ImageRef
from bench.pairs import make_pair
from bench.protocol import get
from methods.errors import UserError


def coordinates(height: int, width: int) -> np.ndarray:
    """Every pixel tells its row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows // 2 + columns // 2], axis=-1).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(folder: Path, name: str, image: np.ndarray) -> ImageRef:
    Image.fromarray(image).save(folder / f"{name}.png")
    return ImageRef(name, folder / f"{name}.png", image.shape[:2])


@pytest.mark.parametrize(
    ("size", "first", "last"),
    [
        ((120, 130), (80, 80), (119, 119)),  # both directions have 40 + 80 pixels
        ((119, 130), (39, 45), (78, 84)),  # one lacks a pixel, so both are centred
        ((130, 119), (45, 39), (84, 78)),
        ((40, 40), (0, 0), (39, 39)),
        ((41, 43), (0, 1), (39, 40)),
    ],
)
def test_the_patch_lies_where_the_papers_script_cuts_it(
    size: tuple[int, int], first: tuple[int, int], last: tuple[int, int]
) -> None:
    patch = square_patch(coordinates(*size), 40)
    assert patch.shape == (40, 40, 3)
    assert (tuple(patch[0, 0, :2]), tuple(patch[-1, -1, :2])) == (first, last)
    np.testing.assert_array_equal(patch, coordinates(*size)[first[0] : last[0] + 1, first[1] : last[1] + 1])


def test_a_small_image_is_continued_by_its_mirror_image() -> None:
    image = np.array([[[1, 1, 1], [2, 2, 2], [3, 3, 3]]], dtype=np.uint8)  # begins 4 pixels inside the patch
    assert square_patch(image, 10)[..., 0].tolist() == [[3, 3, 2, 1, 1, 2, 3, 3, 2, 1]] * 10


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (16, 50), (31, 32), (32, 31), (12, 13)])
def test_the_mirror_image_is_that_of_numpy(size: tuple[int, int]) -> None:
    side, image = 32, noise(*size)
    before = [max(0, -((length - side) // 2)) for length in size]
    after = [max(0, side - length) - start for length, start in zip(size, before, strict=True)]
    padded = np.pad(image, [*zip(before, after, strict=True), (0, 0)], mode="symmetric")
    top, left = ((length - side) // 2 for length in padded.shape[:2])
    np.testing.assert_array_equal(square_patch(image, side), padded[top : top + side, left : left + side])


@pytest.mark.parametrize(("name", "scale"), [("gsasr", 4), ("gsasr", 3.5), ("liif", 4), ("liif", 6.25)])
def test_lr_and_gt_are_the_protocols(tmp_path: Path, name: str, scale: float) -> None:
    image = noise(150, 140)
    ready = saved(tmp_path, "ready", noise(12, 12))
    ref = ImageRef("photo", saved(tmp_path, "photo", image).path, (150, 140), lr=ready.path)
    (made,) = make_inputs([ref], get(name), scale, "benchmark", 50)
    pair = make_pair(image[80:130, 80:130], scale, get(name), family="benchmark")
    assert made.image == "photo"
    np.testing.assert_array_equal(made.hr, pair.hr)
    np.testing.assert_array_equal(made.lr, pair.lr)
    assert made.hr.dtype == made.lr.dtype == np.uint8
    assert made.lr.shape[0] == int(50 / scale)


def test_the_first_images_are_taken(tmp_path: Path) -> None:
    refs = [saved(tmp_path, f"image{index}", noise(20 + index, 30)) for index in range(4)]

    def names(images: int | None) -> list[str]:
        return [made.image for made in make_inputs(refs, get(), 2, "div2k", 16, images)]

    assert names(2) == ["image0", "image1"]
    assert names(9) == names(None) == ["image0", "image1", "image2", "image3"]


def test_a_crop_of_the_data_set_comes_first(tmp_path: Path) -> None:
    path = saved(tmp_path, "photo", coordinates(200, 200)).path
    (made,) = make_inputs([ImageRef("photo", path, (100, 100), (50, 60, 100, 100))], get(), 2, "benchmark", 20)
    assert made.hr[0, 0, :2].tolist() == [50 + 80, 60 + 80]


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.png"):
        make_inputs([ImageRef("broken", tmp_path / "broken.png")], get(), 2, "benchmark", 16)


def test_a_patch_without_an_lr_pixel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too small for scale 17"):
        make_inputs([saved(tmp_path, "photo", noise(40, 40))], get(), 17, "benchmark", 16)
