from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest

from reports.cost import TIME, cost_blocks, load_cost_run, shown_cells, summarise
from reports.errors import ReportError
from reports.rows import load_run

TIMES = [10.0, 11.0, 12.0, 13.0, 30.0]


def cells_of(folder):
    return summarise(load_cost_run(folder))


@pytest.mark.parametrize(("statistic", "expected"), [("median", 12.0), ("mean", 15.2)])
def test_sums_up_as_the_protocol_says(make_cost_run, cost_row, statistic, expected):
    rows = [cost_row("liif", repeat=i, latency_ms=t, alloc_peak_mib=10 * t) for i, t in enumerate(TIMES)]
    (cell,) = cells_of(make_cost_run(rows, protocol={"statistic": statistic})).to_dict("records")
    assert cell["latency_ms"] == pytest.approx(expected)
    assert cell["memory_mib"] == pytest.approx(10 * expected)
    assert (cell["latency_q1_ms"], cell["latency_q3_ms"]) == (11.0, 13.0)
    assert cell["cv"] == pytest.approx(statistics.stdev(TIMES) / 15.2)
    assert (cell["repeats"], cell["images"]) == (5, 5)


def test_memory_on_the_cpu_is_what_the_process_gained(make_cost_run, cost_row):
    host = {"device": "cpu", "alloc_peak_mib": None, "rss_base_mib": 300.0, "tf32": ""}
    rows = [cost_row("liif", repeat=i, rss_peak_mib=peak, **host) for i, peak in enumerate((500.0, 700.0, 710.0))]
    (cell,) = cells_of(make_cost_run(rows)).to_dict("records")
    assert cell["memory_mib"] == 400.0


def test_scores_count_every_image_once(make_cost_run, cost_row):
    images = ["a", "a", "a", "b"]
    rows = [
        cost_row("liif", repeat=i, image=name, psnr_y={"a": 30.0, "b": 20.0}[name]) for i, name in enumerate(images)
    ]
    assert cells_of(make_cost_run(rows))["psnr_y"].tolist() == [25.0]


def test_a_score_of_fewer_images_than_others_had_is_no_mean(make_cost_run, cost_row):
    rows = [cost_row("liif", repeat=i, image="ab"[i], psnr_y=30.0) for i in range(2)]
    rows.append(cost_row("gsasr", image="a", psnr_y=31.0))
    cells = cells_of(make_cost_run(rows)).set_index("method")
    assert cells.loc["liif", "psnr_y"] == 30.0
    assert math.isnan(cells.loc["gsasr", "psnr_y"])
    assert cells.loc["gsasr", "absent"]["psnr_y"] == "scored on 1 of 2 images"


def test_the_latest_measurement_of_a_cell_counts(make_cost_run, cost_row, failed_cost_row):
    old = [cost_row("liif", repeat=i, row_key="old code", latency_ms=1.0, measured_at=10.0 + i) for i in range(9)]
    new = [cost_row("liif", repeat=i, row_key="new code", latency_ms=2.0, measured_at=50.0 + i) for i in range(3)]
    retried = [failed_cost_row("gsasr", measured_at=1.0), cost_row("gsasr", latency_ms=3.0, measured_at=60.0)]
    cells = cells_of(make_cost_run(new + old + retried)).set_index("method")
    assert cells["latency_ms"].to_dict() == {"liif": 2.0, "gsasr": 3.0}
    assert cells.loc["liif", "repeats"] == 3
    assert set(cells["status"]) == {"ok"}


def test_failed_cells_join_the_block_of_the_others(make_cost_run, cost_row, failed_cost_row):
    run = load_cost_run(make_cost_run([cost_row("liif"), failed_cost_row("gsasr")]))
    (block,) = cost_blocks(run, summarise(run))
    assert block.device == "NVIDIA H200, float32"
    assert block.cells.set_index("method")["status"].to_dict() == {"liif": "ok", "gsasr": "oom"}


def test_what_does_not_compare_is_in_blocks_of_its_own(make_cost_run, cost_row):
    rows = [cost_row("bicubic", dtype=dtype) for dtype in ("float32", "bfloat16")]
    rows += [cost_row("liif", device="cuda:1"), cost_row("liif", dtype="bfloat16"), cost_row("liif", crop=360)]
    rows += [cost_row("liif", backbone="rdn", row_key="rdn"), cost_row("liif", threads=1, row_key="one")]
    run = load_cost_run(make_cost_run(rows))
    found = [
        (
            block.backbone,
            block.crop,
            block.configuration["dtype"],
            block.configuration["threads"],
            *block.cells["method"],
        )
        for block in cost_blocks(run, summarise(run))
    ]
    assert found == [
        ("edsr-baseline", 360, "float32", 8, "liif"),
        ("edsr-baseline", 720, "float32", 8, "bicubic", "liif"),
        ("rdn", 720, "float32", 8, "bicubic", "liif"),
        ("edsr-baseline", 720, "bfloat16", 8, "bicubic", "liif"),
        ("edsr-baseline", 720, "float32", 1, "liif"),
    ]


def test_the_least_fallback_that_worked_is_shown(make_cost_run, cost_row, failed_cost_row):
    rows = [failed_cost_row("liif"), cost_row("liif", fallback="tiles"), cost_row("liif", fallback="chunks")]
    rows += [cost_row("gsasr"), cost_row("gsasr", fallback="tiles")]
    rows += [failed_cost_row("lte"), failed_cost_row("lte", fallback="chunks")]
    run = load_cost_run(make_cost_run(rows))
    (block,) = cost_blocks(run, summarise(run))
    shown = shown_cells(block).set_index("method")
    assert shown["fallback"].to_dict() == {"liif": "chunks", "gsasr": "", "lte": ""}
    assert shown["status"].to_dict() == {"liif": "ok", "gsasr": "ok", "lte": "oom"}
    assert "200 GiB" in shown.loc["liif", "failed"]
    assert shown.loc["gsasr", "failed"] == ""


def test_lines_and_parquet_are_alike(make_cost_run, cost_row, failed_cost_row):
    folder = make_cost_run([cost_row("liif"), failed_cost_row("gsasr")])
    from_lines = load_cost_run(folder).rows
    raw = [json.loads(line) for line in (folder / "rows" / "0.jsonl").read_text().splitlines()]
    pd.DataFrame(raw).to_parquet(folder / "rows.parquet")
    (folder / "rows" / "0.jsonl").unlink()
    pd.testing.assert_frame_equal(load_cost_run(folder).rows, from_lines)


def test_every_kind_of_run_is_named_where_the_other_was_wanted(make_run, make_cost_run, row, cost_row):
    with pytest.raises(ReportError, match="holds scores, not cost: make one with `bench cost`"):
        load_cost_run(make_run([row("liif", "a", psnr_y=30.0)]))
    with pytest.raises(ReportError, match="holds cost, not scores: make one with `bench run`"):
        load_run(make_cost_run([cost_row()]))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"protocol": "table3"}, "mix the protocols steady and table3"),
        ({"evaluation": "liif"}, "mix the evaluations gsasr and liif"),
        ({"options": '{"a":1}'}, "mix the options"),
        ({"checkpoint_sha256": "x"}, "mix the checkpoint_sha256"),
    ],
)
def test_mixtures_are_refused(make_cost_run, cost_row, changes, named):
    other = cost_row("liif", 3.0, **changes)
    with pytest.raises(ReportError, match=named):
        load_cost_run(make_cost_run([cost_row("liif", 2.0), other]))


def test_a_network_that_could_not_be_loaded_is_no_mixture(make_cost_run, cost_row, failed_cost_row):
    broken = failed_cost_row("liif", 3.0, "error", "no such file", checkpoint_sha256=None, options="{}")
    assert len(load_cost_run(make_cost_run([cost_row("liif", 2.0, options='{"a":1}'), broken])).rows) == 2


def test_what_is_missing_is_named(make_cost_run, cost_row):
    with pytest.raises(ReportError, match="holds no cost protocol"):
        load_cost_run(make_cost_run([cost_row()], cost={}))
    with pytest.raises(ReportError, match="lack latency_ms"):
        load_cost_run(make_cost_run([{k: v for k, v in cost_row().items() if k != "latency_ms"}]))
    with pytest.raises(ReportError, match="no rows yet: let `bench cost`"):
        load_cost_run(make_cost_run([]))


@pytest.mark.parametrize(
    ("value", "text"),
    [(13367.4, "13367"), (99.96, "100"), (99.94, "99.9"), (9.996, "10.0"), (4.724, "4.72"), (0.0514, "0.051")],
)
def test_costs_have_three_digits(value, text):
    assert TIME.format(value) == text


def test_the_coefficient_of_variation_of_a_known_spread(make_cost_run, cost_row):
    rng = np.random.default_rng(3)
    times = 100 * (1 + 0.08 * rng.standard_normal(4000))
    rows = [cost_row("liif", repeat=i, latency_ms=t) for i, t in enumerate(times)]
    assert cells_of(make_cost_run(rows))["cv"].item() == pytest.approx(0.08, rel=0.03)
