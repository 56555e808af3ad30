from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from reports.errors import ReportError
from reports.rows import load_run


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and not re.search(r"\.\s", text.rstrip(".")) and text.endswith(".")


def test_reads_lines_and_parquet_alike(make_run, row):
    folder = make_run([row("liif", "a", psnr_y=30.5, reason="lpips: no trunk"), row("bicubic", "a", psnr_y=29.0)])
    from_lines = load_run(folder).rows
    raw = [json.loads(line) for line in (folder / "rows" / "0.jsonl").read_text().splitlines()]
    pd.DataFrame(raw).to_parquet(folder / "rows.parquet")
    (folder / "rows" / "0.jsonl").unlink()
    pd.testing.assert_frame_equal(load_run(folder).rows, from_lines)
    assert from_lines["psnr_y"].tolist() == [30.5, 29.0]
    assert from_lines["lpips"].isna().all()


def test_a_torn_last_line_does_not_count(make_run, row):
    folder = make_run([row("liif", "a", psnr_y=30.5)])
    with (folder / "rows" / "0.jsonl").open("a") as file:
        file.write('{"row_key": "liif')
    assert len(load_run(folder).rows) == 1


def test_a_damaged_line_is_named(make_run, row):
    folder = make_run([row("liif", "a", psnr_y=30.5)])
    log = folder / "rows" / "0.jsonl"
    log.write_text("{oops\n" + log.read_text())
    with pytest.raises(ReportError, match=r"Line 1 of .*0\.jsonl") as error:
        load_run(folder)
    assert one_sentence(error)


def test_the_last_attempt_counts(make_run, row):
    failed = row("liif", "a", status="oom", reason="out of memory")
    run = load_run(make_run([failed, row("liif", "a", psnr_y=30.5)]))
    assert run.rows["status"].tolist() == ["ok"]
    assert run.rows["psnr_y"].tolist() == [30.5]


def test_the_last_attempt_counts_also_where_the_first_did_not_know_the_options(make_run, row):
    failed = row("liif", "a", status="error", reason="cannot be loaded")
    run = load_run(make_run([failed, row("liif", "a", psnr_y=30.5, options='{"cell": "true"}')]))
    assert run.rows["status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"protocol": "liif"}, "protocols gsasr and liif"),
        ({"weights": "random"}, "liif edsr-micro .* weights 'shipped' and 'random'"),
        ({"checkpoint_sha256": "beef" * 16}, "checkpoint_sha256"),
        ({"options": '{"cell":"clipped"}'}, "options '{}' and '{\"cell\":\"clipped\"}'"),
    ],
)
def test_mixtures_are_refused(make_run, row, changes, named):
    with pytest.raises(ReportError, match=named) as error:
        load_run(make_run([row("liif", "a", psnr_y=30.5), row("liif", "b", **changes)]))
    assert one_sentence(error)


def test_what_is_not_a_run_is_named(make_run, row, tmp_path):
    folder = make_run([])
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    cases = {tmp_path / "none": "no run folder", lacking: "no manifest", folder: "no rows"}
    for path, named in cases.items():
        with pytest.raises(ReportError, match=named) as error:
            load_run(path)
        assert one_sentence(error)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ReportError, match="not a JSON object"):
        load_run(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ReportError, match="cannot be read"):
        load_run(folder)


def test_rows_of_something_else_are_refused(make_run):
    with pytest.raises(ReportError, match="lack protocol, dataset"):
        load_run(make_run([{"row_key": "1", "method": "liif"}]))


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({}, None),
        ({"partial": True, "limit": 2}, "--limit 2 left images out"),
        ({"state": "interrupted"}, "has not finished"),
        ({"counts": {"planned": 5, "done": 1, "skipped": 1, "failed": 1}}, "3 of 5 planned images were run"),
        ({"counts": {"planned": 2, "done": 1, "skipped": 0, "failed": 1}}, None),
    ],
)
def test_partial_runs_say_so(make_run, row, manifest, said):
    partial = load_run(make_run([row("liif", "a", psnr_y=30.5)], **manifest)).partial
    assert (said in partial) if said else partial is None


def test_titles_fall_back_on_names(make_run, row):
    run = load_run(make_run([row("liif", "a"), row("new", "a"), row("bicubic", "a")]))
    assert run.titles("methods") == {"bicubic": "Bicubic", "liif": "LIIF", "new": "new"}
    assert run.titles("datasets") == {"Set5": "Set5"}
