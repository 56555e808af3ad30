"""The page of a device, from a hand-made cost run and hand-made parity."""

from __future__ import annotations

import json

import pytest

from reports.device import PARITY, write_device_page
from reports.errors import ReportError


def parity(precision, error, snr=None, reason=None, title="GSASR"):
    about = {"case": "gsasr/x2", "method": title.lower(), "title": title, "precision": precision}
    return about | {"error": error, "snr_db": snr, "reason": reason}


@pytest.fixture
def device_run(make_cost_run, cost_row):
    def make(found, *rows):
        run = make_cost_run(list(rows) or [cost_row("gsasr", 2.0, latency_ms=50.0, alloc_peak_mib=100.0)])
        (run / PARITY).write_text(json.dumps(found))
        return run

    return make


def test_the_worst_case_counts_and_failures_are_named(device_run, tmp_path):
    found = [
        parity("float32", 2e-6),
        parity("float32", 3e-4) | {"case": "gsasr/x4"},
        parity("bfloat16", 1e-2, 55.0),
        parity("bfloat16", 3e-2, 44.0) | {"case": "gsasr/x4"},
        parity("tf32", None, None, "no such kernel", "LIIF"),
        parity("float32", 1e-6, None, None, "LIIF"),
    ]
    record, page = write_device_page(device_run(found), tmp_path)
    text = page.read_text()
    assert "| GSASR    |       2 |   3.0e-04 |    44.0 dB |" in text
    assert "- gsasr/x4, float32: differs by 3.0e-04" in text
    assert "- gsasr/x2, tf32: no such kernel" in text
    assert len(json.loads(record.read_text())["parity"]) == 6


def test_goals_by_hand(device_run, cost_row, tmp_path):
    """The paper: 1573 ms and 13256 MB at x2 on an A100; a fifth is 2651."""
    slow = cost_row("gsasr", 12.0, latency_ms=6.5, alloc_peak_mib=400.0)
    fast = cost_row("gsasr", 2.0, latency_ms=59.9, alloc_peak_mib=2000.0)
    _, page = write_device_page(device_run([parity("float32", 1e-6)], fast, slow), tmp_path)
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ×")][:2]
    assert "59.90 | 60 (reached)" in lines[0]
    assert "1573" in lines[0]
    assert "6.50 |   6 (missed)" in lines[1]


def test_without_parity_it_says_so(make_cost_run, cost_row, tmp_path):
    with pytest.raises(ReportError, match="bench device"):
        write_device_page(make_cost_run([cost_row()]), tmp_path)
