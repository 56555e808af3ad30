"""The gate on quality: the shipped checkpoints score what results/baselines says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bench.comparison import compare_with_baseline
from bench.cost.calibration import VERSION
from bench.runner import run
from bench.settings import make_settings
from methods.checkpoints import list_checkpoints
from methods.registry import list_methods

BASELINES = Path(__file__).resolve().parents[3] / "results" / "baselines"
HELP = "store them anew: `bench baseline update RUN --reason WHY`, see docs/cost.md"


def test_they_are_of_the_shipped_weights():
    with (BASELINES / "metrics.csv").open(encoding="utf-8") as file:
        scored = {(line["method"], line["backbone"]): line["weights"] for line in csv.DictReader(file)}
    for checkpoint in list_checkpoints():
        assert scored[checkpoint.method, checkpoint.backbone] == checkpoint.sha256, HELP
    assert {method for method, _ in scored} == {c.method for c in list_checkpoints()} | {"bicubic"}


def test_times_are_of_all_methods_and_of_the_present_calibration():
    content = json.loads((BASELINES / "speed.json").read_text(encoding="utf-8"))
    timed = {cell["method"] for cell in content["cells"]}
    assert timed == {c.method for c in list_checkpoints()} | {"bicubic"}
    assert timed <= {spec.name for spec in list_methods()}
    assert content["cost"]["calibration"] == VERSION, HELP
    assert content["reason"]


@pytest.mark.slow
def test_quality_is_what_it_was(tmp_path):
    settings = make_settings(methods="all", scales="4,12", metrics="psnr_y,ssim_y", device="cpu", limit=2)
    found = compare_with_baseline(BASELINES, run(settings, tmp_path, "now").path, subset=True)
    assert not found.regressed, list(found.of("regressed"))
    methods = {line.cell.method for line in found.quality}
    assert methods == {c.method for c in list_checkpoints()} | {"bicubic"}
    assert len(found.quality) == len(methods) * 2 * 2  # scales and metrics
