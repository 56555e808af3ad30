"""Parity on a device and in other precisions, on the CPU: the same code path as on a GPU, but for TF32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.parity.cases import Case, find_cases, method_name
from bench.parity.devices import FLOAT32_TOLERANCE, device_parity

CASES = Path(__file__).parents[1] / "parity"
QUICK = CASES / "liif" / "edsr_x2.json"


def test_float32_passes_and_bfloat16_is_reported_in_db():
    full, half = device_parity([QUICK], "cpu")
    assert (full.precision, half.precision) == ("float32", "bfloat16")
    assert full.passed
    assert half.passed is None
    assert full.error < 1e-5 < half.error < 0.05
    assert full.snr_db > 110 > 70 > half.snr_db > 40  # bfloat16 has 8 bits: 6 dB each, give or take


def test_the_ratio_is_the_one_worked_out_by_hand(tmp_path):
    for suffix in (".json", ".npz"):
        shutil.copy(QUICK.with_suffix(suffix), tmp_path)
    file = tmp_path / QUICK.with_suffix(".npz").name
    arrays = dict(np.load(file))
    arrays["out"] = arrays["out"] + 0.25
    np.savez(file, **arrays)
    (found,) = device_parity([tmp_path], "cpu", ["float32"])
    peak = float(np.abs(arrays["out"]).max())
    assert found.passed is False
    assert found.error == pytest.approx(0.25 / peak, rel=1e-4)
    assert found.snr_db == pytest.approx(20 * np.log10(peak / 0.25), abs=1e-3)


def test_a_case_that_cannot_run_says_why(tmp_path):
    for suffix in (".json", ".npz"):
        shutil.copy(QUICK.with_suffix(suffix), tmp_path)
    file = tmp_path / QUICK.name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"backbone": "unknown"}))
    (found,) = device_parity([tmp_path], "cpu", ["float32"])
    assert (found.error, found.passed) == (None, False)
    assert "does not run on unknown" in found.reason


@pytest.mark.slow
def test_every_method_runs_in_bfloat16():
    """On its smallest case, and CMSR's pyramid; CPUs without instructions for the type take minutes for all."""
    smallest: dict[str, Case] = {}
    for case in filter(method_name, find_cases([CASES])):
        name = method_name(case)
        smallest[name] = min(case, smallest.get(name, case), key=lambda one: one.arrays["out"].size)
    assert len(smallest) >= 12
    pyramid = CASES / "lmf" / "lmliif_edsr_cmsr_x8.json"
    for found in device_parity([*(case.path for case in smallest.values()), pyramid], "cpu", ["bfloat16"]):
        assert found.reason is None, f"{found.case}: {found.reason}"
        assert found.snr_db > 30, found.case  # of 8 bits, at most 48 dB, attention and many layers may lose three


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_method_agrees_on_the_gpu():
    for found in device_parity([CASES], "cuda", ["float32"]):
        assert found.passed, f"{found.case}: {found.error} exceeds {FLOAT32_TOLERANCE} ({found.reason})"
