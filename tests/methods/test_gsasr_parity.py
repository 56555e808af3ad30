"""GSASR at full size against the official implementation's outputs."""

from __future__ import annotations

import subprocess
import sys

import pytest
from plain_gsasr import CASES

from bench.parity import run_parity

PEAK = """
import resource, torch
from methods import build
model = build("gsasr", "edsr-baseline").eval()
with torch.inference_mode():
    assert model(torch.rand(1, 3, 180, 180), (720, 720), 4.0).isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def marked(case):
    return pytest.param(case, id=case.stem, marks=[pytest.mark.slow] if case.stem.startswith("rdn") else [])


@pytest.mark.parametrize("case", [marked(path) for path in sorted(CASES.glob("*.json"))])
def test_official_outputs(case):
    (result,) = run_parity([case])
    assert result.verdict == "pass", result


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss counts KiB on Linux only")
def test_peak_memory_of_180_pixels_x4():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3 * 2**20
