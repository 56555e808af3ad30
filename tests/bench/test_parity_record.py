"""The record of parity verdicts that `list methods` shows."""

from __future__ import annotations

from bench.parity import record as recording
from bench.parity.cases import CaseResult
from bench.parity.record import record, verdict


def result(method, verdict):
    return CaseResult("folder/case", "method", 1e-7, 1e-5, verdict, 0.1, "out", method)


def test_verdicts_are_counted_and_kept_per_method(tmp_path, monkeypatch):
    file = tmp_path / "results" / "parity.json"
    assert verdict("liif", file) == "not run"
    record([result("liif", "pass"), result("liif", "fail"), result("lte", "pass"), result(None, "fail")], file)
    record([result("lte", "pass"), result("lte", "pass"), result("lte", "skip"), result("srno", "skip")], file)
    assert verdict("liif", file) == "1 of 2 pass"
    assert verdict("lte", file) == "2 of 2 pass"
    assert verdict("srno", file) == "not run"
    monkeypatch.setattr(recording, "numbers_sha256", lambda: "another")
    assert verdict("liif", file) == "1 of 2 pass, older code"


def test_a_broken_record_is_forgotten(tmp_path):
    file = tmp_path / "parity.json"
    file.write_text("{")
    assert verdict("liif", file) == "not run"
    record([result("liif", "pass")], file)
    assert verdict("liif", file) == "1 of 1 pass"
