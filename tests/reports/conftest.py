"""Hand-made runs."""

from __future__ import annotations

import json

import pytest

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
