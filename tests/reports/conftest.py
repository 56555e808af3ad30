"""Hand-made runs."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bench.cost.protocols import COST_PROTOCOLS
from bench.cost.rows import CostRow

MANIFEST = {
    "run_id": "hand_made",
    "state": "finished",
    "partial": False,
    "limit": None,
    "protocol": {"name": "gsasr", "title": "PSNR & SSIM on Y"},
    "methods": [
        {"name": "gsasr", "title": "GSASR", "order": 90},
        {"name": "bicubic", "title": "Bicubic", "order": 0},
        {"name": "liif", "title": "LIIF", "order": 20},
    ],
    "backbones": [{"name": "edsr-micro", "title": "EDSR-micro"}, {"name": "rdn", "title": "RDN"}],
}


def row(method, image, scale=2.0, backbone="edsr-micro", dataset="Set5", **values):
    learned = method != "bicubic"
    fixed = {
        "run_id": "hand_made",
        "protocol": "gsasr",
        "method": method,
        "backbone": backbone if learned else "",
        "weights": "shipped" if learned else "none",
        "checkpoint_sha256": f"{len(method):02}cafe" * 8 if learned else None,
        "options": "{}",
        "dataset": dataset,
        "image": image,
        "scale": scale,
        "psnr_y": None,
        "ssim_y": None,
        "lpips": None,
        "dists": None,
        "psnr_rgb": None,
        "status": "ok",
        "reason": None,
    }
    return {"row_key": f"{method}{backbone}{dataset}{image}{scale}"} | fixed | values


@pytest.fixture(name="row")
def row_fixture():
    return row


@pytest.fixture
def make_run(tmp_path):
    """Write a run folder: rows as dicts, changes to the manifest as keywords."""

    def make(rows, **manifest):
        folder = tmp_path / "hand_made"
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        (folder / "rows" / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "manifest.json").write_text(json.dumps(MANIFEST | manifest))
        return folder

    return make


COST_MANIFEST = MANIFEST | {
    "kind": "cost",
    "protocol": {"name": "gsasr", "title": "PSNR & SSIM on Y"},
    "cost": {"protocol": COST_PROTOCOLS["steady"].as_dict(), "crop": 720},
    "methods": [
        {"name": name, "title": title, "order": order}
        for order, (name, title) in enumerate(
            {
                "bicubic": "Bicubic",
                "metasr": "Meta-SR",
                "liif": "LIIF",
                "lte": "LTE",
                "srno": "SRNO",
                "linf": "LINF",
                "lmf": "LMF (LM-CiaoSR)",
                "ciaosr": "CiaoSR",
                "gaussiansr": "GaussianSR",
                "gsasr": "GSASR",
            }.items()
        )
    ],
    "backbones": [{"name": "edsr-baseline", "title": "EDSR-baseline"}, {"name": "rdn", "title": "RDN"}],
    "datasets": [{"name": "DIV2K-GT720", "title": "DIV2K GT720", "order": 0}],
    "counts": {"planned": 1, "done": 1, "skipped": 0, "failed": 0},
}


def cost_row(method="liif", scale=2.0, repeat=0, **values):
    """A row as `bench cost` writes it, on a GPU unless told otherwise."""
    learned = method != "bicubic"
    crop = values.get("crop", 720)
    fixed = {
        "row_key": f"{method}{scale}{crop}{values.get('fallback', '')}{values.get('dtype', '')}",
        "run_id": "hand_made",
        "protocol": "steady",
        "evaluation": "gsasr",
        "method": method,
        "backbone": "edsr-baseline" if learned else "",
        "weights": "official" if learned else "none",
        "checkpoint_sha256": f"{len(method):02}cafe" * 8 if learned else None,
        "dataset": "DIV2K-GT720",
        "image": f"080{repeat % 5}",
        "scale": scale,
        "crop": crop,
        "repeat": repeat,
        "status": "ok",
        "measured_at": 1000.0 + repeat,
        "session": "s",
        "sr_h": crop,
        "sr_w": crop,
        "latency_ms": 100.0,
        "alloc_peak_mib": 1000.0,
        "device": "cuda:0",
        "device_name": "NVIDIA H200",
        "dtype": "float32",
        "tf32": "conv",
        "threads": 8,
    }
    return asdict(CostRow(**(fixed | values)))


def failed_cost_row(method, scale=2.0, status="oom", reason="of 139 GiB, 200 GiB were asked for", **values):
    """The one row of a cell that failed, in a process that did not get to say what it ran on."""
    nothing = dict.fromkeys(("sr_h", "sr_w", "latency_ms", "alloc_peak_mib", "threads"))
    unknown = {"image": "", "status": status, "reason": reason, "device_name": "", "tf32": ""}
    return cost_row(method, scale, **(nothing | unknown | values))


@pytest.fixture(name="cost_row")
def cost_row_fixture():
    return cost_row


@pytest.fixture(name="failed_cost_row")
def failed_cost_row_fixture():
    return failed_cost_row


@pytest.fixture
def make_cost_run(make_run):
    """Write a cost run; changes to the manifest as keywords, those to the protocol as `protocol`."""

    def make(rows, protocol=None, ceilings=None, **manifest):
        cost = {"protocol": COST_MANIFEST["cost"]["protocol"] | (protocol or {}), "ceilings": ceilings}
        return make_run(rows, **(COST_MANIFEST | {"cost": cost} | manifest))

    return make


def published_costs():
    """The paper's Table 3 by (method's name, scale), misprints and all."""
    titles = {entry["title"].partition(" (")[0]: entry["name"] for entry in COST_MANIFEST["methods"]}
    found = {}
    with (Path(__file__).parents[2] / "reports" / "published" / "table3.csv").open() as file:
        for line in csv.DictReader(file):
            place = titles[line["method"]], float(line["scale"])
            found.setdefault(place, {})[line["metric"]] = float(line["value"])
    return found


@pytest.fixture
def full_cost_run(make_cost_run):
    """6 scales, 10 methods, 30 repeats on 5 patches: the paper's numbers, faster, with noise; CiaoSR runs out once."""
    rng = np.random.default_rng(0)
    cells = published_costs()
    for scale, psnr in {2.0: 34.6, 3.0: 31.2, 4.0: 29.4, 6.0: 27.5, 8.0: 26.3, 12.0: 24.8}.items():
        scores = {"psnr": psnr, "ssim": 0.9 - 0.03 * scale, "lpips": 0.2 + 0.03 * scale, "dists": 0.1 + 0.02 * scale}
        cells["bicubic", scale] = scores | {"time_ms": 0.4, "memory_mb": 24.0}
    rows = []
    for (method, scale), cell in cells.items():
        if (method, scale) == ("ciaosr", 2.0):
            rows.append(failed_cost_row(method, scale))
            cell = cell | {"memory_mb": 9000.0, "fallback": "chunks", "tile": 65536}
        rows += [repeated(method, scale, repeat, cell, rng) for repeat in range(30)]
    ceilings = {"matmul_gflops": 51000.0, "copy_gb_s": 4012.0, "exp_g_s": 3100.0, "device": "cuda:0"}
    return make_cost_run(rows, ceilings=ceilings)


def repeated(method, scale, repeat, cell, rng):
    offset = repeat % 5 - 2
    spread = 0.08 if method == "gaussiansr" else 0.015
    return cost_row(
        method,
        scale,
        repeat,
        latency_ms=0.6 * cell["time_ms"] * rng.lognormal(0, spread),
        device_ms=0.59 * cell["time_ms"],
        alloc_peak_mib=cell["memory_mb"],
        reserved_peak_mib=1.2 * cell["memory_mb"],
        nvml_peak_mib=1.2 * cell["memory_mb"] + 500,
        energy_j=0.6 * cell["time_ms"] * 0.4,
        energy_source="counter",
        gmacs=None if method == "bicubic" else 0.6 * cell["time_ms"] * 6.0,
        psnr_y=cell["psnr"] + offset,
        ssim_y=cell["ssim"] + 0.001 * offset,
        lpips=cell["lpips"] + 0.001 * offset,
        dists=cell["dists"] + 0.001 * offset,
        fallback=cell.get("fallback", ""),
        tile=cell.get("tile"),
    )


def scaling_rows(sizes, laws, scale=4.0, repeats=5, **values):
    """Rows of several patch sizes. laws: {method: (ms per pixel, exponent, MiB per pixel, exponent)}."""
    rng = np.random.default_rng(0)
    return [
        cost_row(
            method,
            scale,
            repeat,
            crop=size,
            latency_ms=a * (size * size) ** b * rng.lognormal(0, 0.005),
            alloc_peak_mib=c * (size * size) ** d,
            **values,
        )
        for size in sizes
        for method, (a, b, c, d) in laws.items()
        for repeat in range(repeats)
    ]


@pytest.fixture(name="scaling_rows")
def scaling_rows_fixture():
    return scaling_rows
