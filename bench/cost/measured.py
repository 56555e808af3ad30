"""From what a measuring process answered to rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.cost.jobs import Failed, Finished, Loaded, Repeat
from bench.cost.plan import Attempt, CostCell
from bench.cost.rows import CostRow
from bench.cost.settings import CostSettings

MAX_DRIFT = {"float64": 1e-9, "float32": 1e-3}
"""How far a timed output may lie from the scored one, in [0, 1] units; TF32 and other algorithms are within it."""
MAX_DRIFT_HALF = 0.1
"""The same for 16-bit types."""


def cost_rows(
    run_id: str,
    settings: CostSettings,
    cell: CostCell,
    attempt: Attempt,
    session: str,
    loaded: Loaded,
    repeats: Sequence[Repeat],
    finished: Finished,
    *,
    first: int = 0,
) -> list[CostRow]:
    """One row per repeat, numbered from `first`; where an output is not the scored one, its row is an error."""
    shapes = {shape.image: shape for shape in loaded.shapes}
    found = {
        "checkpoint_sha256": loaded.sha256,
        "weights": loaded.label,
        "options": loaded.options,
        "gmacs": finished.gmacs,
        "device": loaded.device,
        "device_name": loaded.device_name,
        "dtype": loaded.dtype,
        "acceleration": loaded.acceleration,
        "tf32": loaded.tf32,
        "autotune": loaded.autotune,
        "threads": loaded.compute["threads"],
        "rss_base_mib": loaded.rss_base_mib,
        **_nvml(loaded, finished),
        "warmups": settings.protocol.warmups,
        "absent": json.dumps({**loaded.absent, **finished.absent}, sort_keys=True),
    }
    rows = []
    for number, repeat in enumerate(repeats, first):
        shape = shapes[repeat.image]
        sizes = {"lr": shape.lr, "sr": shape.sr, "padded": finished.padded.get(repeat.image, (None, None))}
        sides = {f"{name}_{side}": size[axis] for name, size in sizes.items() for axis, side in enumerate("hw")}
        timed = {name: value for name, value in vars(repeat).items() if name != "digest"}
        scores = finished.scores.get(repeat.image, {})
        known = {name: scores.get(name) for name in ("psnr_y", "ssim_y", "lpips", "dists")}
        own = {"repeat": number, **sides, **timed, **known, **_checked(finished.drift[repeat.digest], loaded.dtype)}
        rows.append(CostRow(**(_about(run_id, settings, cell, attempt, session) | found | own)))
    return rows


def failed_row(
    run_id: str, settings: CostSettings, cell: CostCell, attempt: Attempt, session: str, failed: Failed
) -> CostRow:
    """The single row of an attempt that failed."""
    checkpoint = cell.cell.checkpoint
    assert checkpoint is not None
    known = {
        "weights": checkpoint.label,
        "checkpoint_sha256": checkpoint.sha256,
        "options": json.dumps(dict(cell.job.options), sort_keys=True),
        "image": "",
        "repeat": 0,
        "status": failed.status,
        "reason": failed.reason,
        "measured_at": time.time(),
        "device": cell.job.device,
        "dtype": cell.job.dtype,
        "acceleration": settings.run.acceleration(cell.job.backbone),
        "threads": settings.threads,
    }
    return CostRow(**(_about(run_id, settings, cell, attempt, session) | known))


def _about(run_id: str, settings: CostSettings, cell: CostCell, attempt: Attempt, session: str) -> dict[str, Any]:
    """What a row is about."""
    job = attempt.job
    return {
        "row_key": attempt.row_key,
        "run_id": run_id,
        "protocol": settings.protocol.name,
        "evaluation": job.evaluation,
        "method": job.method,
        "backbone": job.backbone,
        "dataset": cell.cell.dataset,
        "scale": job.scale,
        "crop": job.crop,
        "fallback": attempt.fallback,
        "tile": job.chunk,
        "tile_lr": job.tile_lr,
        "session": session,
    }


def _checked(drift: float, dtype: str) -> dict[str, Any]:
    """The verdict on a timed output."""
    allowed = MAX_DRIFT.get(dtype, MAX_DRIFT_HALF)
    if drift <= allowed:
        return {"drift": drift, "status": "ok"}
    reason = f"the timed output is up to {drift:.2g} away from the scored one, more than {allowed:g}"
    return {"drift": drift, "status": "error", "reason": reason}


def _nvml(loaded: Loaded, finished: Finished) -> Mapping[str, Any]:
    """NVML's columns; the peak is what the device held beyond what it did before."""
    columns = dict(finished.gpu)
    used = columns.pop("used_peak_mib", None)
    base = loaded.nvml_base_mib
    columns["nvml_base_mib"] = base
    columns["nvml_peak_mib"] = None if used is None or base is None else used - base
    return columns
