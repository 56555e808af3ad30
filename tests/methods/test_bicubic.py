"""Bicubic upsampling against BasicSR's imresize."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from methods import load

CASES = Path(__file__).parents[1] / "parity" / "metrics"
UPWARDS = [case for case in json.loads((CASES / "imresize.json").read_text())["cases"] if case["scale"] > 1]


def to_tensor(image):
    return torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("case", UPWARDS, ids=lambda case: case["name"])
def test_basicsr_upsampling(case):
    arrays = np.load(CASES / "imresize.npz")
    lr = to_tensor(arrays[f"{case['name']}_in"]).float() / 255
    expected = to_tensor(arrays[f"{case['name']}_out"])
    sr = load("bicubic")(lr, tuple(expected.shape[-2:]), case["scale"])
    torch.testing.assert_close(sr, expected, rtol=0, atol=1e-5 if case["scale"] % 1 else 1e-6)


def test_axes_have_their_own_scales():
    lr = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    bicubic = load("bicubic")
    both = bicubic(lr, (14, 27), (2.0, 3.0))
    torch.testing.assert_close(both, bicubic(bicubic(lr, (14, 9), (2.0, 1.0)), (14, 27), (1.0, 3.0)))
    torch.testing.assert_close(both, bicubic(lr.transpose(2, 3), (27, 14), (3.0, 2.0)).transpose(2, 3))


def test_smaller_output_is_the_top_left_part():
    lr = torch.rand(2, 3, 6, 5)
    bicubic = load("bicubic")
    whole = bicubic(lr, (20, 17), 3.3)
    torch.testing.assert_close(bicubic(lr, (19, 16), 3.3), whole[..., :19, :16], rtol=0, atol=0)


def test_straight_ramps_stay_straight():
    """Cubic convolution reproduces polynomials up to degree 2 away from the border (Keys, section IV)."""
    ramp = torch.arange(12, dtype=torch.float64).expand(1, 3, 12, 12)
    sr = load("bicubic")(ramp, (48, 48), 4.0)
    expected = (torch.arange(48, dtype=torch.float64) + 0.5) / 4 - 0.5
    torch.testing.assert_close(sr[0, 0, 20, 8:-8], expected[8:-8])


def test_one_pixel():
    sr = load("bicubic")(torch.full((1, 3, 1, 1), 0.25), (30, 30), 30.0)
    torch.testing.assert_close(sr, torch.full((1, 3, 30, 30), 0.25))
