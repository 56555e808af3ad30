from __future__ import annotations

import csv
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.images import read_image
from bench.metrics import psnr_y, ssim_y
from bench.pairs import make_pair
from bench.protocol import PROTOCOLS, get
from bench.resize import resize, to_uint8
from methods.errors import UserError

PARITY = Path(__file__).parents[1] / "parity" / "metrics"


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(4, 60),
    width=st.integers(4, 60),
    scale=st.one_of(st.integers(1, 4), st.floats(1, 4)),
    name=st.sampled_from(sorted(PROTOCOLS)),
)
def test_sizes_are_the_protocols(height: int, width: int, scale: float, name: str) -> None:
    hr = noise(height, width)
    pair = make_pair(hr, scale, get(name))
    assert (pair.hr.shape[:2], pair.lr.shape[:2]) == get(name).sizes((height, width), scale)
    assert pair.hr.dtype == pair.lr.dtype == np.uint8
    np.testing.assert_array_equal(pair.hr, hr[: pair.hr.shape[0], : pair.hr.shape[1]])


def test_fractional_scales_reduce_the_uncropped_image() -> None:
    """361 rows at 3.5 are cut to 360 in the GT, but the last LR rows still see row 361."""
    hr = noise(361, 40)
    changed = hr.copy()
    changed[360] = 255 - changed[360]
    first, second = make_pair(hr, 3.5, get()), make_pair(changed, 3.5, get())
    np.testing.assert_array_equal(first.hr, second.hr)
    assert np.any(first.lr[-1] != second.lr[-1])


def test_integer_scales_reduce_the_cropped_image() -> None:
    hr = noise(41, 41)
    np.testing.assert_array_equal(make_pair(hr, 4, get()).lr, make_pair(hr[:40, :40], 4, get()).lr)


def test_liif_reduces_with_pillow() -> None:
    hr = noise(41, 37)
    expected = Image.fromarray(hr[:36, :36]).resize((6, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(make_pair(hr, 6, get("liif"), family="div2k").lr, np.asarray(expected))


def test_ready_lr_is_used_where_the_protocol_says() -> None:
    hr, lr = noise(41, 37), noise(20, 18)
    pair = make_pair(hr, 2, get("liif"), lr_uint8=lr)
    assert pair.lr is lr
    np.testing.assert_array_equal(pair.hr, hr[:40, :36])
    assert make_pair(hr, 2, get("gsasr"), lr_uint8=lr).lr is not lr
    assert make_pair(hr, 6, get("liif"), lr_uint8=noise(6, 6)).lr.shape == (6, 6, 3)


@pytest.mark.parametrize(("case", "scale"), [("butterfly_x4", 4), ("woman_x3", 3), ("face_x2", 2)])
def test_liif_makes_missing_ready_lr_as_matlab_did(case: str, scale: int) -> None:
    arrays = np.load(PARITY / "matlab.npz")
    np.testing.assert_array_equal(make_pair(arrays[f"{case}_hr"], scale, get("liif")).lr, arrays[f"{case}_lr"])


@pytest.mark.parametrize("size", [(21, 18), (19, 18), (18, 20)])
def test_foreign_ready_lr(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="does not belong to an HR image of 37x41 at scale 2"):
        make_pair(noise(41, 37), 2, get("liif"), lr_uint8=noise(*size))


def test_one_pixel() -> None:
    assert make_pair(noise(30, 30), 30, get()).lr.shape == (1, 1, 3)
    with pytest.raises(UserError, match="too small for scale 30"):
        make_pair(noise(29, 400), 30, get())


LARGE_SCALES = ("3.5", "4", "30")


@cache
def real_set(name: str) -> list[np.ndarray]:
    folder = Path(os.environ.get("ASRBENCH_DATA", "")) / name / "HR"
    if "ASRBENCH_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"set ASRBENCH_DATA to a folder that holds {name}/HR")
    return [read_image(path) for path in sorted(folder.glob("*.png"))]


def bicubic_cases() -> list[Any]:
    """All of the small sets; of the large ones the scales that differ in kind (`bench parity` takes the whole file)."""
    with (PARITY / "bicubic.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"].startswith("Set") or row["scale"] in LARGE_SCALES]
    quick = {("Set5", "uint8_lr"), ("Set14", "uint8_lr")}
    marks = {True: (), False: (pytest.mark.slow,)}
    return [
        pytest.param(
            row,
            id="-".join((row["dataset"], row["scale"], row["upsampled_from"])),
            marks=marks[(row["dataset"], row["upsampled_from"]) in quick],
        )
        for row in rows
    ]


@pytest.mark.parametrize("row", bicubic_cases())
def test_published_bicubic_means(row: dict[str, str]) -> None:
    scores = [bicubic_scores(hr, float(row["scale"]), row["upsampled_from"]) for hr in real_set(row["dataset"])]
    assert len(scores) == int(row["images"])
    psnr, ssim = np.mean(scores, axis=0)
    assert psnr == pytest.approx(float(row["psnr"]), abs=1e-3)
    assert ssim == pytest.approx(float(row["ssim"]), abs=1e-5)


def bicubic_scores(hr: np.ndarray, scale: float, upsampled_from: str) -> tuple[float, float]:
    pair, border = make_pair(hr, scale, get()), get().border(scale)
    lr = pair.lr.astype(np.float32) / np.float32(255)
    if upsampled_from == "float_lr":
        lr = resize((pair.hr if scale.is_integer() else hr).astype(np.float32) / np.float32(255), 1 / scale)
    sr = to_uint8(resize(lr, scale))[: pair.hr.shape[0], : pair.hr.shape[1]]
    return psnr_y(sr, pair.hr, border), ssim_y(sr, pair.hr, border)
