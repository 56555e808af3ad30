"""Run folders made by hand, for the tests of comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.cost.rows import CostRow
from bench.rows import Row, StoredRow

METRICS = ("psnr_y", "ssim_y", "lpips", "dists")
MANIFEST: dict[str, Any] = {
    "schema": 1,
    "state": "finished",
    "partial": False,
    "protocol": {"name": "gsasr", "title": "GSASR's rules", "benchmark": {"border": "scale, at most 8"}},
    "datasets": [{"name": "Set5", "images": 5, "sha256": "d0"}],
    "metrics": [{"name": name, "implementation": f"{name} 1.0", "absent": None} for name in METRICS],
    "environment": {
        "git": {"commit": "c0ffee", "dirty": False},
        "python": "3.12.1",
        "packages": {"torch": "2.9.0", "numpy": "2.3.0"},
        "torch": {"version": "2.9.0", "threads": 1},
        "cpu": "Some CPU",
        "cores": 2,
        "gpus": [],
    },
    "started": "2026-01-02T03:04:05+00:00",
}
ROW = Row(
    row_key="k",
    run_id="r",
    protocol="gsasr",
    method="liif",
    backbone="edsr-micro",
    weights="shipped",
    checkpoint_sha256="abc",
    dataset="Set5",
    image="baby",
    scale=2.0,
    status="ok",
    device="cpu",
    dtype="float32",
)
COST_ROW = CostRow(
    row_key="k",
    run_id="r",
    protocol="steady",
    evaluation="gsasr",
    method="liif",
    backbone="edsr-micro",
    weights="shipped",
    checkpoint_sha256="abc",
    dataset="Set5",
    image="baby",
    scale=2.0,
    crop=720,
    repeat=0,
    status="ok",
    measured_at=1000.0,
    session="s",
    latency_ms=100.0,
    calibration_ms=10.0,
    rss_peak_mib=300.0,
    rss_base_mib=200.0,
    psnr_y=30.0,
    device="cpu",
    device_name="Some CPU",
    dtype="float32",
    threads=1,
)
COST = {"cost": {"protocol": {"name": "steady", "title": "30 repeats"}, "calibration": 1}, "kind": "cost"}
SET5 = ("baby", "bird", "butterfly", "head", "woman")


def manifest(**changes: Any) -> dict[str, Any]:
    """The manifest, with other values of some keys."""
    return {**deepcopy(MANIFEST), **changes}


def write_run(path: Path, rows: Iterable[StoredRow], about: dict[str, Any] | None = None) -> Path:
    """A run folder."""
    (path / "rows").mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps(about or manifest()))
    (path / "rows" / "0.jsonl").write_text("".join(row.to_json() + "\n" for row in rows))
    return path


def quality_rows(values: Iterable[float] = (30.0, 31.0, 32.0, 33.0, 34.0), **changes: Any) -> list[Row]:
    """A row per image of Set5, with these PSNRs."""
    images = [*SET5, *(f"image{i}" for i in range(99))]
    return [
        replace(ROW, **{"image": image, "row_key": f"{image}{changes}", "psnr_y": value} | changes)
        for image, value in zip(images, values, strict=False)
    ]


def cost_rows(latencies: Iterable[float], **changes: Any) -> list[CostRow]:
    """A row per repeat, with these latencies in ms."""
    return [
        replace(COST_ROW, **{"repeat": i, "latency_ms": value, "measured_at": 1000.0 + i} | changes)
        for i, value in enumerate(latencies)
    ]
