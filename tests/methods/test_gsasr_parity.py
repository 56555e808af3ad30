"""GSASR at full size against the official implementation's outputs."""

from __future__ import annotations

import pytest
from plain_gsasr import CASES

from bench.parity import run_parity

PEAK = """
import torch
from methods import build
model = build("gsasr", "edsr-baseline").eval()
with torch.inference_mode():
    assert model(torch.rand(1, 3, 180, 180), (720, 720), 4.0).isfinite().all()
"""


def marked(case):
    return pytest.param(case, id=case.stem, marks=[pytest.mark.slow] if case.stem.startswith("rdn") else [])


@pytest.mark.parametrize("case", [marked(path) for path in sorted(CASES.glob("*.json"))])
def test_official_outputs(case):
    (result,) = run_parity([case])
    assert result.verdict == "pass", result


@pytest.mark.slow
def test_peak_memory_of_180_pixels_x4(peak_mib):
    assert peak_mib(PEAK) < 1280
