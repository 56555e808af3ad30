from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.resize import Variant, resize, to_uint8
from methods.errors import UserError
from methods.resampling import cubic, taps

PARITY = Path(__file__).parents[1] / "parity" / "metrics"


def parity_cases(name: str) -> list[Any]:
    cases = json.loads((PARITY / f"{name}.json").read_text())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", parity_cases("imresize"))
def test_basicsr_parity(case: dict[str, Any]) -> None:
    with np.load(PARITY / "imresize.npz") as arrays:
        image, expected, expected_8bit = (arrays[case["name"] + end] for end in ("_in", "_out", "_out_u8"))
    result = resize(image.astype(np.float32) / np.float32(255), case["scale"])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 if case["name"].startswith("frac") else 1e-6)
    off = np.abs(resize(image, case["scale"]).astype(int) - expected_8bit)
    assert off.max() <= 1
    assert np.mean(off > 0) <= 1e-3


@pytest.mark.parametrize("case", parity_cases("matlab"))
def test_real_matlab_images(case: dict[str, Any]) -> None:
    rows, columns = case["valid_lr"]
    with np.load(PARITY / "matlab.npz") as arrays:
        hr, lr = arrays[case["name"] + "_hr"], arrays[case["name"] + "_lr"][:rows, :columns]
    results = {v: resize(hr, 1 / case["scale"], variant=v)[:rows, :columns] for v in ("matlab", "basicsr", "pillow")}
    np.testing.assert_array_equal(results["matlab"], lr)
    agreement = {name.split()[0]: figures for name, figures in case["agreement"].items()}
    for variant in ("basicsr", "pillow"):
        off = np.abs(results[variant].astype(int) - lr)
        assert off.max() == agreement[variant]["max_abs"]
        assert np.mean(off == 0) == pytest.approx(agreement[variant]["exact"], abs=1e-4)


@pytest.mark.parametrize("out_size", [(7, 9), (40, 31)])
def test_pillow_is_pillow(out_size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 23, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize(out_size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(image, 1.0, variant="pillow", out_size=out_size), np.asarray(expected))


def test_halving_by_hand() -> None:
    """Factor 1/2 samples the kernel at 1/4, 3/4, 5/4 and 7/4; with a = -1/2 that is 111, 29, -9 and -3 / 128."""
    impulse = np.zeros((1, 16), np.float32)
    impulse[0, 7] = 1
    expected = np.zeros(8)
    expected[2:6] = np.array([-9, 111, 29, -3]) / 256
    np.testing.assert_allclose(resize(impulse, (1.0, 0.5))[0], expected, atol=1e-7)


def test_borders_by_hand() -> None:
    symmetric, edge = (taps(3, 6, 2.0, border)[0] for border in ("symmetric", "edge"))
    np.testing.assert_array_equal(symmetric[0], [1, 0, 0, 1])
    np.testing.assert_array_equal(edge[0], [0, 0, 0, 1])


def test_matlab_rounds_half_up_after_each_pass() -> None:
    """Rows first: the mean 0.5 of the upper rows becomes 1 before the columns see it."""
    image = np.array([[0, 0], [1, 1]], np.uint8)
    assert resize(image, 0.5, variant="matlab").item() == 1
    assert resize(image, 0.5, variant="basicsr").item() == 0


def test_to_uint8_rounds_half_to_even_and_clips() -> None:
    np.testing.assert_array_equal(to_uint8(np.array([-0.1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 1.1])), [0, 0, 2, 2, 255])


def test_kernel_by_hand() -> None:
    np.testing.assert_allclose(cubic(np.array([0, 0.5, 1, -1.5, 2, 3])), [1, 0.5625, 0, -0.0625, 0, 0], atol=1e-15)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    factor=st.floats(0.03, 5),
    variant=st.sampled_from(["basicsr", "matlab", "pillow"]),
)
def test_constant_images_stay_constant(height: int, width: int, factor: float, variant: Variant) -> None:
    """Also where the kernel reaches beyond the image many times over."""
    result = resize(np.full((height, width, 3), 200, np.uint8), factor, variant=variant)
    assert result.shape == (np.ceil(height * factor), np.ceil(width * factor), 3)
    assert np.all(result == 200)


@given(size=st.integers(1, 30), shift=st.integers(-3, 3), repeats=st.integers(2, 5))
def test_mirrored_border_equals_padding(size: int, shift: int, repeats: int) -> None:
    """numpy's symmetric padding is the same border, written out."""
    signal = np.random.default_rng(size).random(size)
    index, weight = taps(size, 2 * size, 2.0)
    margin = 4 * repeats
    padded = np.pad(signal, margin, mode="symmetric")
    center = (np.arange(2 * size) + 0.5) / 2 - 0.5 + margin
    reach = np.arange(len(padded))
    expected = cubic(center[:, None] - reach) @ padded
    np.testing.assert_allclose((weight * signal[index]).sum(1), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("factor", "variant", "dtype", "message"),
    [
        (0.0, "basicsr", np.uint8, "positive factors"),
        (float("nan"), "basicsr", np.uint8, "positive factors"),
        (2.0, "lanczos", np.uint8, "choose from basicsr, matlab, pillow"),
        (2.0, "matlab", np.float32, "works on 8-bit images"),
    ],
)
def test_wrong_requests(factor: float, variant: Any, dtype: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resize(np.zeros((4, 4, 3), dtype), factor, variant=variant)
