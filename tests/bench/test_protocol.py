from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.protocol import PROTOCOLS, get
from methods.errors import UserError


def test_default_is_gsasr() -> None:
    assert get().name == "gsasr"


@pytest.mark.parametrize(
    ("protocol", "family", "scale", "border"),
    [
        ("gsasr", "benchmark", 2, 2),
        ("gsasr", "div2k", 2.5, 2),
        ("gsasr", "div2k", 3.5, 3),
        ("gsasr", "benchmark", 8, 8),
        ("gsasr", "benchmark", 30, 8),
        ("liif", "benchmark", 4, 4),
        ("liif", "benchmark", 12, 12),
        ("liif", "div2k", 4, 10),
        ("liif", "div2k", 30, 36),
    ],
)
def test_borders(protocol: str, family: str, scale: float, border: int) -> None:
    assert get(protocol).border(scale, family) == border


@pytest.mark.parametrize(
    ("protocol", "hr", "scale", "gt", "lr"),
    [
        ("gsasr", (361, 250), 4, (360, 248), (90, 62)),
        ("gsasr", (361, 250), 2.5, (360, 250), (144, 100)),
        ("gsasr", (361, 250), 3.5, (360, 248), (103, 71)),
        ("gsasr", (361, 250), 30, (360, 240), (12, 8)),
        ("liif", (1356, 2040), 18, (1350, 2034), (75, 113)),
        ("liif", (361, 250), 3.5, (360, 248), (103, 71)),
    ],
)
def test_sizes(protocol: str, hr: tuple[int, int], scale: float, gt: tuple[int, int], lr: tuple[int, int]) -> None:
    assert get(protocol).sizes(hr, scale) == (gt, lr)


def test_gsasr_cuts_where_liif_rounds() -> None:
    assert get("gsasr").gt_size((103, 71), 3.5) == (360, 248)
    assert get("liif").gt_size((5, 5), 2.7) == (14, 14)
    assert get("gsasr").gt_size((5, 5), 2.7) == (13, 13)


@given(hr=st.integers(30, 3000), scale=st.integers(1, 30))
def test_integer_scales_crop_to_multiples(hr: int, scale: int) -> None:
    multiple = hr - hr % scale
    for protocol in PROTOCOLS.values():
        assert protocol.sizes((hr, hr), scale) == ((multiple,) * 2, (multiple // scale,) * 2)


@given(height=st.integers(4, 3000), width=st.integers(4, 3000), scale=st.floats(1, 4))
def test_gt_lies_inside_the_image(height: int, width: int, scale: float) -> None:
    (gt_height, gt_width), lr_size = get().sizes((height, width), scale)
    assert height - 2 * scale < gt_height <= height
    assert width - 2 * scale < gt_width <= width
    assert get().gt_size(lr_size, scale) == (gt_height, gt_width)


@pytest.mark.parametrize("scale", [0.5, 0, -2, float("nan"), float("inf")])
def test_senseless_scales(scale: float) -> None:
    with pytest.raises(UserError, match="at least 1"):
        get().sizes((100, 100), scale)


def test_too_small_image() -> None:
    with pytest.raises(UserError, match="40x20 pixels is too small for scale 30"):
        get().sizes((20, 40), 30)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="did you mean gsasr"):
        get("gsars")
    with pytest.raises(UserError, match="dataset family"):
        get().border(2, "div8k")


def test_frozen_and_serialisable() -> None:
    for name, protocol in PROTOCOLS.items():
        record = json.loads(json.dumps(protocol.as_dict()))
        assert record["name"] == protocol.name == name
        assert set(record) == {
            *("name", "title", "source", "resampler", "size_rule", "quantize", "benchmark", "div2k", "cell"),
        }
    with pytest.raises(FrozenInstanceError):
        get().quantize = False  # type: ignore[misc]


def test_import_is_light() -> None:
    check = "import sys, bench.protocol; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
