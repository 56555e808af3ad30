from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from comparison_runs import COST, COST_ROW, SET5, cost_rows, manifest, quality_rows, write_run

from bench.comparison import compare
from bench.comparison.amounts import memory_verdict
from bench.comparison.speed import PINNED, TRIPWIRE
from methods.errors import UserError

VALUES = (30.0, 31.0, 32.0, 33.0, 34.0)


def quality(tmp_path, base, new, **options):
    return compare(write_run(tmp_path / "old", base), write_run(tmp_path / "now", new), **options)


def costs(tmp_path, base, new, **options):
    about = manifest(**COST)
    return compare(write_run(tmp_path / "old", base, about), write_run(tmp_path / "now", new, about), **options)


def repeats(seed, effect=1.0, count=30, **changes):
    """Repeats of a cell with 4 % noise in the work and its calibration, and 3 times slower neighbours in between."""
    rng = np.random.default_rng(seed)
    load = np.where(np.arange(count) % 7 < 3, 3.0, 1.0)
    work, calibration = (load * np.exp(rng.normal(0, 0.04, count)) for _ in range(2))
    rows = cost_rows((100 * effect * work).tolist(), **changes)
    return [replace(row, calibration_ms=10 * c) for row, c in zip(rows, calibration.tolist(), strict=True)]


def verdicts(comparison):
    return [line.verdict for line in comparison.lines]


def test_a_repeat_on_one_cpu_never_alarms(tmp_path):
    found = quality(tmp_path, quality_rows(), quality_rows())
    (line,) = found.quality
    assert (line.n, line.base, line.new, line.difference, line.interval) == (5, 32.0, 32.0, 0.0, (0.0, 0.0))
    assert (line.p, line.verdict, found.regressed, found.improved) == (None, "same", False, False)


def test_a_hundredth_of_a_decibel_is_caught(tmp_path):
    found = quality(tmp_path, quality_rows(), quality_rows(value - 0.01 for value in VALUES))
    (line,) = found.quality
    assert (line.difference, line.verdict, found.regressed) == (-0.01, "regressed", True)
    assert line.interval == (pytest.approx(-0.01), pytest.approx(-0.01))


def test_statistics_of_pairs_by_hand(tmp_path):
    new = quality_rows(value + d for value, d in zip([*VALUES, 35.0], (0.1, -0.3, 0.2, 0.05, 0.4, 0.6), strict=True))
    (line,) = quality(tmp_path, quality_rows([*VALUES, 35.0]), list(reversed(new))).quality
    assert line.difference == pytest.approx(1.05 / 6)
    assert (line.worst, line.worst_difference) == ("bird", -0.3)
    assert line.interval[0] < 1.05 / 6 < line.interval[1]
    assert line.p == pytest.approx(14 / 64)  # rank sum 4 of 21: 7 of the 2**6 signs have at most that
    assert line.verdict == "improved"


def test_one_image_has_no_interval(tmp_path):
    (line,) = quality(tmp_path, quality_rows((30.0,)), quality_rows((29.0,))).quality
    assert (line.n, line.interval, line.p, line.verdict) == (1, None, None, "regressed")


@pytest.mark.parametrize(
    ("metric", "change", "verdict"),
    [
        ("psnr_y", -0.001, "same"),
        ("psnr_y", -0.0011, "regressed"),
        ("psnr_y", 0.0011, "improved"),
        ("psnr_rgb", -0.0011, "regressed"),
        ("ssim_y", -0.0001, "same"),
        ("ssim_y", -0.00011, "regressed"),
        ("lpips", 0.00011, "regressed"),
        ("lpips", -0.00011, "improved"),
        ("dists", 0.00011, "regressed"),
    ],
)
def test_tolerances_and_directions(tmp_path, metric, change, verdict):
    about = manifest()
    about["metrics"].append({"name": "psnr_rgb", "implementation": "psnr_rgb 1.0"})
    base = quality_rows(**{"psnr_y": None, metric: 0.5})
    new = quality_rows(**{"psnr_y": None, metric: 0.5 + change})
    paths = (write_run(tmp_path / "a", base, about), write_run(tmp_path / "b", new, about))
    assert verdicts(compare(*paths)) == [verdict]
    assert verdicts(compare(*paths, tolerances={metric: 1.0})) == ["same"]
    with pytest.raises(UserError, match="no metric called 'psnr'"):
        compare(*paths, tolerances={"psnr": 1.0})


@pytest.mark.parametrize("value", [None, "NaN"])
def test_a_value_that_got_lost_is_a_regression(tmp_path, value):
    new = write_run(tmp_path / "now", [*quality_rows()[:4], *[replace(r, psnr_y=None) for r in quality_rows()[4:]]])
    if value:
        file = new / "rows" / "0.jsonl"
        file.write_text(file.read_text().replace('"psnr_y":null', f'"psnr_y":{value}'))
    (line,) = compare(write_run(tmp_path / "old", quality_rows()), new).quality
    assert (line.n, line.lost, line.first_lost, line.difference, line.verdict) == (4, 1, "woman", 0.0, "regressed")


def test_all_values_lost(tmp_path):
    (line,) = quality(tmp_path, quality_rows(), quality_rows(psnr_y=None)).quality
    assert (line.n, line.lost, line.base, line.new, line.verdict) == (0, 5, None, None, "regressed")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ("ok", "oom", "regressed"),
        ("ok", "error", "regressed"),
        ("ok", "skipped", "regressed"),
        ("skipped", "error", "regressed"),
        ("error", "ok", "improved"),
        ("oom", "error", "same"),
    ],
)
def test_what_could_not_be_computed(tmp_path, before, after, verdict):
    def rows(status):
        lost = {} if status == "ok" else {"psnr_y": None, "reason": "it broke", "options": "{}"}
        rest = quality_rows(options='{"a":1}')
        return [*rest[:3], *(replace(row, status=status, **lost) for row in rest[3:])]

    found = quality(tmp_path, rows(before), rows(after))
    (line,) = found.failures
    assert (line.base, line.new, line.count, line.first) == (before, after, 2, SET5[3])
    assert (line.reason, line.verdict) == ("it broke", verdict)
    assert [(other.n, other.verdict) for other in found.quality] == [(3, "same")]


def test_twenty_costs_without_change_and_a_quarter_more(tmp_path):
    for seed in range(20):
        found = costs(tmp_path / str(seed), repeats(seed), repeats(seed + 100))
        assert [line.verdict for line in found.speed] == ["same"]
        assert not found.regressed
        slower = costs(tmp_path / f"slow{seed}", repeats(seed), repeats(seed + 200, 1.25))
        assert [line.verdict for line in slower.speed] == ["regressed"]


def test_a_line_of_speed(tmp_path):
    found = costs(tmp_path, cost_rows([100.0] * 20), cost_rows([130.0] * 20, calibration_ms=5.0))
    (line,) = found.speed
    assert (line.base, line.new, line.ratio, line.repeats) == (10.0, 26.0, 2.6, (20, 20))
    assert (line.base_ms, line.new_ms, line.unit, line.verdict) == (100.0, 130.0, "calibrations", "regressed")
    assert line.p < 1e-6
    assert "interleaved" in found.rule


def test_runs_of_different_times_are_said_to_be(tmp_path):
    found = costs(tmp_path, repeats(1), repeats(2, session="t"))
    assert found.rule.endswith("the runs were made at different times, 1 process per cell.")
    assert verdicts(found)[:1] == ["same"]


def test_a_faster_cell_is_an_improvement(tmp_path):
    found = costs(tmp_path, repeats(1), repeats(2, 0.7))
    assert (found.speed[0].verdict, found.improved, found.regressed) == ("improved", True, False)


def test_too_few_repeats_and_no_calibration(tmp_path):
    few = costs(tmp_path / "a", repeats(1, count=9), repeats(2, 2.0, count=9))
    assert (few.speed[0].verdict, few.regressed) == ("too few", False)
    blind = costs(tmp_path / "b", repeats(1), cost_rows([500.0] * 30, calibration_ms=None))
    assert (blind.speed[0].verdict, blind.speed[0].note) == ("not gated", "no calibration")


def test_each_process_counts_once(tmp_path):
    def side(latencies):
        rows = [row for i, value in enumerate(latencies) for row in cost_rows([value] * (10 + 20 * i), session=str(i))]
        return [replace(row, repeat=i) for i, row in enumerate(rows)]

    found = costs(tmp_path, side([100.0, 100.0]), side([90.0, 160.0]))
    (line,) = found.speed
    assert (line.base, line.new, line.verdict) == (pytest.approx(10.0), pytest.approx(12.0), "regressed")
    assert line.new_ms == 160.0


def test_a_pinned_device_sees_a_tenth(tmp_path):
    def side(seed, effect):
        noise = np.random.default_rng(seed).normal(0, 0.02, 30)
        return cost_rows((100 * effect * np.exp(noise)).tolist(), device="cuda:0", calibration_ms=None)

    for seed in range(20):
        same = costs(tmp_path / f"a{seed}", side(seed, 1.0), side(seed + 50, 1.0), pinned=True)
        assert [line.verdict for line in same.speed] == ["same"]
        slower = costs(tmp_path / f"b{seed}", side(seed, 1.0), side(seed + 50, 1.1), pinned=True)
        assert [(line.unit, line.verdict) for line in slower.speed] == [("ms", "regressed")]


def test_a_pinned_comparison_needs_pairs_and_repeats(tmp_path):
    with pytest.raises(UserError, match=r"runs that took turns, and those of .* did not: .*--pinned"):
        costs(tmp_path / "a", repeats(1), repeats(2, session="t"), pinned=True)
    with pytest.raises(UserError, match=r"needs 30 repeats, and .* has 29"):
        costs(tmp_path / "b", repeats(1), repeats(2, count=29), pinned=True)
    with pytest.raises(UserError, match="leave --pinned out"):
        quality(tmp_path / "c", quality_rows(), quality_rows(), pinned=True)


@pytest.mark.parametrize(
    ("rule", "ratio", "p", "repeats", "verdict"),
    [
        (PINNED, 1.06, 0.001, 30, "regressed"),
        (PINNED, 1.05, 0.001, 30, "same"),
        (PINNED, 1.06, 0.002, 30, "same"),
        (PINNED, 0.94, 0.001, 30, "improved"),
        (TRIPWIRE, 1.16, 0.009, 10, "regressed"),
        (TRIPWIRE, 1.14, 0.0, 10, "same"),
        (TRIPWIRE, 9.0, 0.0, 9, "too few"),
    ],
)
def test_rules_at_their_limits(rule, ratio, p, repeats, verdict):
    assert rule.verdict(ratio, p, repeats) == verdict


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        (100.0, 200.0, "regressed"),
        (100.0, 104.0, "same"),
        (20.0, 24.0, "same"),
        (20.0, 24.1, "regressed"),
        (1000.0, 1050.0, "same"),
        (1000.0, 1051.0, "regressed"),
        (200.0, 100.0, "improved"),
        (None, 100.0, "not gated"),
    ],
)
def test_memory(base, new, verdict):
    assert memory_verdict(base, new) == verdict


def test_peaks_are_taken_from_the_device_that_ran(tmp_path):
    cpu = costs(tmp_path / "cpu", cost_rows([1.0] * 10), cost_rows([1.0] * 10, rss_peak_mib=400.0))
    assert [(a.base, a.new, a.ratio, a.verdict) for a in cpu.amounts] == [(100.0, 200.0, 2.0, "regressed")]
    cuda = {"device": "cuda", "rss_peak_mib": 1.0, "energy_j": 2.0}
    sides = (cost_rows([1.0] * 10, alloc_peak_mib=peak, **cuda) for peak in (80.0, 160.0))
    found = costs(tmp_path / "cuda", *sides)
    assert [(a.quantity, a.base, a.new, a.verdict) for a in found.amounts] == [
        ("peak memory", 80.0, 160.0, "regressed"),
        ("energy per image", 2.0, 2.0, "not gated"),
    ]


def test_memory_that_runs_out_in_new_is_a_regression(tmp_path):
    chunks = costs(tmp_path / "a", repeats(1), repeats(2, 3.0, fallback="chunks"))
    assert [(f.base, f.new, f.verdict) for f in chunks.failures] == [("ok", "ok in chunks", "regressed")]
    assert (chunks.speed[0].verdict, chunks.speed[0].note) == ("not gated", "memory ran out differently")
    gone = replace(COST_ROW, status="oom", reason="out of memory", image="", latency_ms=None)
    failed = costs(tmp_path / "b", repeats(1), [gone])
    assert [(f.new, f.count, f.reason) for f in failed.failures] == [("oom", 1, "out of memory")]
    assert (failed.speed, failed.amounts, failed.quality, failed.regressed) == ((), (), (), True)


def test_a_cost_run_that_became_fast_and_wrong_is_a_regression(tmp_path):
    found = costs(tmp_path, repeats(1), repeats(2, 0.5, psnr_y=29.0))
    assert [(line.metric, line.n, line.verdict) for line in found.quality] == [("psnr_y", 1, "regressed")]


def test_nothing_depends_on_the_order_of_rows(tmp_path):
    rows = [*quality_rows(), *quality_rows(method="lte"), *quality_rows(scale=3.0)]
    first = quality(tmp_path / "a", rows, rows)
    again = quality(tmp_path / "b", rows[::-1], rows[::-1])
    assert first == again
    assert json.dumps(verdicts(first)) == json.dumps(["same"] * 3)
