from __future__ import annotations

import json
from dataclasses import replace

import pytest
from comparison_runs import COST, COST_ROW, METRICS, cost_rows, manifest, quality_rows, write_run

from bench.comparison import compare
from methods.errors import UserError


def both(tmp_path, base, new, base_about=None, new_about=None, **options):
    """Compare two runs that are written first."""
    write_run(tmp_path / "old", base, base_about)
    return compare(tmp_path / "old", write_run(tmp_path / "now", new, new_about), **options)


def changed(**environment):
    about = manifest()
    return {**about, "environment": {**about["environment"], **environment}}


@pytest.mark.parametrize(
    ("rows", "about", "sentence"),
    [
        (quality_rows(), manifest(protocol={"name": "liif"}), r"differ in the protocol \(name: 'gsasr' and 'liif'\)"),
        (
            quality_rows(),
            manifest(protocol={**manifest()["protocol"], "benchmark": {"border": "scale"}}),
            r"protocol \(benchmark.border: 'scale, at most 8' and 'scale'\).*: run both by one protocol",
        ),
        (quality_rows(), manifest(datasets=[{"name": "Set5", "sha256": "d1"}]), "The images of Set5 differ between"),
        (quality_rows(checkpoint_sha256="xyz"), None, r"different weights of liif/edsr-micro \(abc and xyz\)"),
        (quality_rows(options='{"cell":1}'), None, "the options of liif/edsr-micro x2 Set5, baby"),
        (quality_rows(device="cuda:1"), None, "the device of .* 'cpu' and 'cuda'"),
        (quality_rows(dtype="float16"), None, "the dtype of .* 'float32' and 'float16'"),
        (quality_rows(acceleration="compile"), None, "the acceleration of .* 'none' and 'compile'"),
        (quality_rows()[1:3], None, "now lacks 3 images of old, first liif/edsr-micro x2 Set5, baby: .*--subset"),
        (quality_rows(scale=3.0), None, "have no result in common"),
        (quality_rows(), manifest(metrics=manifest()["metrics"][:3]), "was not asked for dists.*--metrics"),
        (
            quality_rows(),
            manifest(metrics=[{"name": name, "implementation": f"{name} 2.0"} for name in METRICS]),
            r"implementation of dists \(dists: 'dists 1.0' and 'dists 2.0'\)",
        ),
        (cost_rows([1.0]), manifest(**COST), r"differ in the kind of run \(kind: 'run' and 'cost'\)"),
        (quality_rows(), manifest(kind="party"), "unknown kind 'party'"),
        ([], None, "holds no rows"),
        (
            [*quality_rows(), *quality_rows(options='{"a":1}', row_key="b")],
            None,
            "holds two results of liif.*--fresh",
        ),
        (quality_rows(), manifest(schema=99), "schema version 99, not 1: name the folder of a run"),
    ],
)
def test_runs_of_quality_that_cannot_be_compared(tmp_path, rows, about, sentence):
    with pytest.raises(UserError, match=sentence) as refused:
        both(tmp_path, quality_rows(), rows, None, about)
    assert "\n" not in str(refused.value)
    assert "--run-id" not in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "about", "sentence"),
    [
        (cost_rows([1.0]), manifest(**{**COST, "cost": {**COST["cost"], "calibration": 2}}), "calibration: 1 and 2"),
        (
            cost_rows([1.0]),
            {**changed(cpu="Other CPU"), **COST},
            r"differ in the machine \(CPU: 'Some CPU' and 'Other CPU'\).*: measure both on one machine",
        ),
        (cost_rows([1.0]), {**changed(gpus=[{"name": "A100"}]), **COST}, r"machine \(GPU: None and 'A100'\)"),
        (cost_rows([1.0], device_name="Other"), None, "the machine of .* 'Some CPU' and 'Other'"),
        (cost_rows([1.0], threads=2), None, "the CPU threads of liif/edsr-micro x2 Set5 720 px"),
        (cost_rows([1.0], tf32="conv"), None, "the TF32 of"),
        (cost_rows([1.0], autotune=True), None, "the autotune of"),
        (cost_rows([1.0], image="bird"), None, "the images of"),
        (cost_rows([1.0], crop=360), None, "no result in common"),
        ([*cost_rows([1.0]), *cost_rows([1.0], threads=2, row_key="b")], None, "two results of .* settings"),
    ],
)
def test_runs_of_cost_that_cannot_be_compared(tmp_path, rows, about, sentence):
    with pytest.raises(UserError, match=sentence):
        both(tmp_path, [COST_ROW], rows, manifest(**COST), about or manifest(**COST))


def test_folders_that_are_no_runs(tmp_path):
    run = write_run(tmp_path / "run", quality_rows())
    with pytest.raises(UserError, match="is not the folder of a run, it has no manifest"):
        compare(run, tmp_path / "nowhere")
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not the manifest of a run: name the folder"):
        compare(run, run)


def test_other_weights_are_compared_where_that_is_wanted(tmp_path):
    new = quality_rows(checkpoint_sha256=None, weights="mine.pth")
    found = both(tmp_path, quality_rows(), new, allow_weights=True)
    assert "Weights of liif/edsr-micro differ: abc before, mine.pth now." in found.notes
    assert not found.regressed


def test_a_renamed_checkpoint_is_the_same_one(tmp_path):
    assert not both(tmp_path, quality_rows(), quality_rows(weights="copy.pth")).notes


def test_a_subset_is_compared_where_that_is_wanted(tmp_path):
    about = manifest(datasets=[{"name": "Set5", "sha256": "d1"}], metrics=manifest()["metrics"][:1], partial=True)
    rows = quality_rows((30.0, 31.0))
    with pytest.raises(UserError, match="lacks 3 images"):
        both(tmp_path / "a", quality_rows(), rows, None, about)
    found = both(tmp_path / "b", quality_rows(), rows, None, about, subset=True)
    assert [(line.metric, line.n, line.verdict) for line in found.quality] == [("psnr_y", 2, "same")]
    assert found.notes == (
        "now is partial: images were left out on purpose.",
        "Different parts of Set5 were used: that common images have equal content was not checked.",
        "Left out: 3 images that now lacks.",
        "Left out: dists, lpips, ssim_y, which now was not asked for.",
    )


def test_more_images_in_new_are_no_reason_to_refuse_unless_the_hashes_differ(tmp_path):
    found = both(tmp_path / "a", quality_rows((30.0,)), quality_rows())
    assert found.notes == ("Not compared: 4 images that only now has.",)
    about = manifest(datasets=[{"name": "Set5", "sha256": "d1"}])
    with pytest.raises(UserError, match=r"different parts of Set5, whose hashes cannot be compared.*--subset"):
        both(tmp_path / "b", quality_rows((30.0,)), quality_rows(), None, about)


def test_what_else_differs_is_noted(tmp_path):
    about = {**changed(packages={"torch": "2.10.0", "numpy": "2.3.0"}, cpu="Other CPU"), "state": "interrupted"}
    assert both(tmp_path, quality_rows(), quality_rows(), None, about).notes == (
        "now is not complete: its state is interrupted.",
        "Packages differ: torch 2.9.0 and 2.10.0.",
        "Machines differ: CPU Some CPU and Other CPU.",
    )


def test_folders_of_one_name_are_told_apart(tmp_path):
    sides = [write_run(tmp_path / side / "results" / "run", quality_rows()) for side in ("main", "branch")]
    found = compare(*sides)
    assert (found.base, found.new) == ("main/results/run", "branch/results/run")


def test_the_last_measurement_of_a_cell_counts(tmp_path):
    older = [replace(row, row_key="old", measured_at=1.0, latency_ms=1e6) for row in cost_rows([1.0] * 12)]
    about = manifest(**COST)
    found = both(tmp_path, cost_rows([100.0] * 12), [*cost_rows([100.0] * 12), *older], about, about)
    assert [line.new_ms for line in found.speed] == [100.0]


def test_rows_are_read_as_strictly_as_ever(tmp_path):
    run = write_run(tmp_path / "run", quality_rows())
    with (run / "rows" / "0.jsonl").open("a") as file:
        file.write(json.dumps({"a": 1}) + "\n")
    with pytest.raises(UserError, match=r"Line 6 of .* is not a result row"):
        compare(run, run)
