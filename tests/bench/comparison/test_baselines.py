from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from comparison_runs import COST, cost_rows, manifest, quality_rows, write_run

from bench.comparison.baseline import compare_with_baseline, store_baseline, store_metrics, store_speed
from methods.errors import UserError

VALUES = (30.1234567, 31.0, 32.0, 33.0, 34.0)


def speed_run(path, latency=100.0, machine="Some CPU", **changes):
    about = manifest(**COST)
    about["environment"]["cpu"] = machine
    return write_run(path, cost_rows([latency + i % 3 for i in range(12)], device_name=machine, **changes), about)


def test_the_table_of_metrics(tmp_path):
    failed = replace(quality_rows()[4], psnr_y=None, status="error", reason="x")
    rows = [*quality_rows(VALUES)[:4], failed, *quality_rows((20.0,), method="bicubic", backbone="")]
    file = store_metrics(write_run(tmp_path / "run", rows), tmp_path / "base", "the first one")
    with file.open(newline="") as table:
        lines = list(csv.DictReader(table))
    assert [(line["method"], line["image"]) for line in lines] == [
        ("bicubic", "baby"),
        *(("liif", name) for name in ("baby", "bird", "butterfly", "head")),
    ]
    assert lines[1] == {
        **{"method": "liif", "backbone": "edsr-micro", "weights": "abc", "options": "{}", "device": "cpu"},
        **{"dtype": "float32", "acceleration": "none", "dataset": "Set5", "scale": "2.0", "image": "baby"},
        **{"psnr_y": "30.123457", "ssim_y": "", "lpips": "", "dists": "", "psnr_rgb": ""},
    }
    about = json.loads((tmp_path / "base" / "metrics.json").read_text())
    assert about["protocol"] == manifest()["protocol"]
    assert about["datasets"][0]["sha256"] == "d0"
    assert about["environment"]["packages"]["torch"] == "2.9.0"
    assert (about["commit"], about["date"], about["reason"]) == ("c0ffee", manifest()["started"], "the first one")
    assert about["history"] == []


def test_reasons_are_kept(tmp_path):
    run = write_run(tmp_path / "run", quality_rows())
    for reason in ("one", "two", " three "):
        store_metrics(run, tmp_path / "base", reason)
    about = json.loads((tmp_path / "base" / "metrics.json").read_text())
    assert about["reason"] == "three"
    assert [entry["reason"] for entry in about["history"]] == ["two", "one"]
    assert about["history"][0]["commit"] == "c0ffee"


def test_a_subset_replaces_only_what_it_has(tmp_path):
    """One network trained again: on fewer images here, to see the rest of its old results stay, too."""
    bicubic = quality_rows((20.0, 21.0), method="bicubic", backbone="")
    store_metrics(write_run(tmp_path / "all", [*quality_rows(VALUES), *bicubic]), tmp_path / "base", "all")
    file = tmp_path / "base" / "metrics.csv"
    before = file.read_text().splitlines()
    again = write_run(tmp_path / "again", quality_rows((35.0, 36.0), checkpoint_sha256="new"))
    store_metrics(again, tmp_path / "base", "LIIF trained again", subset=True)
    after = file.read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new for _, new in changed] == [
        old.replace("abc", "new").replace(psnr, better)
        for (old, _), psnr, better in zip(changed, ("30.123457", "31.0"), ("35.000000", "36.0"), strict=True)
    ]
    about = json.loads((tmp_path / "base" / "metrics.json").read_text())
    assert [about["reason"], *(entry["reason"] for entry in about["history"])] == ["LIIF trained again", "all"]


def test_a_subset_that_does_not_belong_to_the_rest_is_refused(tmp_path):
    run = write_run(tmp_path / "run", quality_rows())
    with pytest.raises(UserError, match="There is no baseline"):
        store_baseline(run, tmp_path / "base", "x", subset=True)
    store_baseline(run, tmp_path / "base", "x")
    stored = (tmp_path / "base" / "metrics.csv").read_text()
    other = write_run(tmp_path / "other", quality_rows(VALUES), manifest(protocol={"name": "liif"}))
    with pytest.raises(UserError, match="differ in the protocol"):
        store_baseline(other, tmp_path / "base", "x", subset=True)
    with pytest.raises(UserError, match="measure all"):
        store_baseline(speed_run(tmp_path / "cost"), tmp_path / "base", "x", subset=True)
    assert (tmp_path / "base" / "metrics.csv").read_text() == stored


def test_an_unchanged_run_equals_its_baseline(tmp_path):
    run = write_run(tmp_path / "run", quality_rows(VALUES))
    store_metrics(run, tmp_path / "base", "why not")
    found = compare_with_baseline(tmp_path / "base", run)
    assert (found.base, found.notes, found.regressed) == ("the baseline", (), False)
    assert [(line.n, line.equal) for line in found.quality] == [(5, True)]


def test_a_changed_run_does_not(tmp_path):
    store_metrics(write_run(tmp_path / "a", quality_rows(VALUES)), tmp_path / "base", "why not")
    worse = write_run(tmp_path / "b", quality_rows(value - 0.01 for value in VALUES))
    assert compare_with_baseline(tmp_path / "base", worse).regressed
    assert not compare_with_baseline(tmp_path / "base", worse, tolerances={"psnr_y": 0.02}).regressed


@pytest.mark.parametrize(
    ("changes", "about", "sentence"),
    [
        ({"checkpoint_sha256": "z"}, None, "the baseline and now have different weights"),
        ({"options": '{"a":1}'}, None, "the baseline and now differ in the options"),
        ({}, manifest(protocol={"name": "liif"}), "differ in the protocol"),
        ({}, manifest(datasets=[{"name": "Set5", "sha256": "d1"}]), "The images of Set5 differ"),
    ],
)
def test_a_baseline_refuses_what_a_run_refuses(tmp_path, changes, about, sentence):
    store_metrics(write_run(tmp_path / "run", quality_rows()), tmp_path / "base", "why not")
    run = write_run(tmp_path / "now", quality_rows(**changes), about)
    with pytest.raises(UserError, match=sentence):
        compare_with_baseline(tmp_path / "base", run)


def test_a_table_that_was_changed_by_hand_is_refused_and_other_line_ends_are_not(tmp_path):
    run = write_run(tmp_path / "run", quality_rows())
    file = store_metrics(run, tmp_path / "base", "why not")
    text = file.read_text()
    file.write_bytes(text.replace("\n", "\r\n").encode())
    assert not compare_with_baseline(tmp_path / "base", run).regressed
    file.write_text(text.replace("30.0", "29.0"))
    with pytest.raises(UserError, match="not the table that was stored with its reason"):
        compare_with_baseline(tmp_path / "base", run)
    file.unlink()
    with pytest.raises(UserError, match="no readable baseline"):
        compare_with_baseline(tmp_path / "base", run)


@pytest.mark.parametrize(
    ("store", "make", "file"),
    [
        (store_metrics, lambda path, **about: write_run(path, quality_rows(), manifest(**about)), "metrics.json"),
        (store_speed, lambda path, **about: write_run(path, cost_rows([1.0]), manifest(**COST, **about)), "speed.json"),
    ],
)
def test_what_cannot_become_or_be_a_baseline(tmp_path, store, make, file):
    run = make(tmp_path / "run")
    with pytest.raises(UserError, match="There is no baseline"):
        compare_with_baseline(tmp_path / "base", run)
    with pytest.raises(UserError, match="needs a reason"):
        store(run, tmp_path / "base", "  ")
    with pytest.raises(UserError, match="is not finished"):
        store(make(tmp_path / "half", state="interrupted"), tmp_path / "base", "x")
    other = store_speed if store is store_metrics else store_metrics
    with pytest.raises(UserError, match="is a run of kind"):
        other(run, tmp_path / "base", "x")
    assert not (tmp_path / "base").exists()
    store(run, tmp_path / "base", "x")
    (tmp_path / "base" / file).write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema version 99"):
        compare_with_baseline(tmp_path / "base", run)
    (tmp_path / "base" / file).write_text("{")
    with pytest.raises(UserError, match="is not a baseline"):
        compare_with_baseline(tmp_path / "base", run)


def test_a_run_without_results_is_no_baseline(tmp_path):
    rows = quality_rows(status="error", psnr_y=None, reason="x")
    with pytest.raises(UserError, match="holds no result that is ok"):
        store_metrics(write_run(tmp_path / "run", rows), tmp_path / "base", "x")


def test_the_file_of_speed(tmp_path):
    file = store_speed(speed_run(tmp_path / "run"), tmp_path / "base", "the first one")
    about = json.loads(file.read_text())
    (cell,) = about["cells"]
    assert (cell["calibrated_median"], cell["repeats"], cell["memory_mib"]) == (10.1, 12, 100.0)
    assert cell["spread"] == pytest.approx((2 / 3) ** 0.5 / 101)  # of 0, 1, 2, by their mean, of 101
    assert (cell["method"], cell["crop"], cell["conditions"]["CPU threads"]) == ("liif", 720, "1")
    assert (about["cost"], about["reason"]) == (COST["cost"], "the first one")
    assert about["environment"]["cpu"] == "Some CPU"
    assert about["environment"]["torch"]["version"] == "2.9.0"


def test_speed_against_a_baseline(tmp_path):
    store_speed(speed_run(tmp_path / "run"), tmp_path / "base", "why not")
    same = compare_with_baseline(tmp_path / "base", speed_run(tmp_path / "same"))
    assert ([line.verdict for line in same.lines], same.notes) == (["same", "same"], ())
    assert "stored baseline" in same.rule
    slow = compare_with_baseline(tmp_path / "base", speed_run(tmp_path / "slow", 125.0, rss_peak_mib=400.0))
    assert [line.verdict for line in slow.lines] == ["regressed", "regressed"]
    assert slow.speed[0].ratio == pytest.approx(126 / 101)


def test_another_machine_is_not_judged(tmp_path):
    store_speed(speed_run(tmp_path / "run"), tmp_path / "base", "why not")
    found = compare_with_baseline(tmp_path / "base", speed_run(tmp_path / "slow", 500.0, "Other CPU"))
    assert [line.verdict for line in found.lines] == ["not gated", "not gated"]
    assert found.speed[0].note == "other machine"
    assert found.notes == (
        "Not gated: speed and memory, which the baseline has of another machine.",
        "Machines differ: CPU Some CPU and Other CPU.",
    )
    assert not found.regressed


def test_another_calibration_is_refused(tmp_path):
    store_speed(speed_run(tmp_path / "run"), tmp_path / "base", "why not")
    about = manifest(**{**COST, "cost": {**COST["cost"], "calibration": 2}})
    run = write_run(tmp_path / "now", cost_rows([100.0] * 12), about)
    with pytest.raises(UserError, match=r"cost protocol \(calibration: 1 and 2\)"):
        compare_with_baseline(tmp_path / "base", run)
