"""The record of a device: parity and cost in one run, tried out on the CPU with one case and a small patch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.cost.device import PARITY, differing, measure_device
from bench.cost.settings import make_cost_settings
from methods.errors import UserError
from reports.device import PARITY as PARITY_OF_REPORTS
from reports.device import write_device_page

CASES = Path(__file__).parents[2] / "parity" / "liif"


@pytest.fixture
def cases(tmp_path):
    for suffix in (".json", ".npz"):
        shutil.copy((CASES / "edsr_x2").with_suffix(suffix), tmp_path)
    return tmp_path


def settings(device="cpu", **more):
    flags = {"methods": "bicubic", "scales": "2", "crop": 48, "warmups": 1, "repeats": 2, "metrics": "psnr_y", **more}
    return make_cost_settings(device=device, **flags)


def test_reports_look_where_bench_writes():
    assert PARITY == PARITY_OF_REPORTS


@pytest.mark.slow
def test_parity_and_cost_become_a_page(cases, tmp_path):
    result = measure_device(settings(), tmp_path / "results", "device", cases=[cases])
    assert result.exit_code == 0
    assert differing(result.paths[0]) == []
    record, page = write_device_page(result.paths[0], tmp_path / "gpu")
    content = json.loads(record.read_text())
    assert [line["precision"] for line in content["parity"]] == ["float32", "bfloat16"]
    assert content["cells"][0]["latency_ms"] > 0
    text = page.read_text()
    assert "| LIIF     |       1 |" in text
    assert "was not measured at 720×720 on a GPU" in text
    before = (result.paths[0] / PARITY).stat().st_mtime_ns
    measure_device(settings(), tmp_path / "results", "device", cases=[cases])
    assert (result.paths[0] / PARITY).stat().st_mtime_ns == before  # the same call resumes


def test_a_missing_device_or_folder_is_named(cases, tmp_path):
    with pytest.raises(UserError, match="not usable here"):
        measure_device(settings("cuda:99"), tmp_path, "device", cases=[cases])
    with pytest.raises(UserError, match="no parity cases"):
        measure_device(settings(), tmp_path, "device", cases=[tmp_path / "nowhere"])
