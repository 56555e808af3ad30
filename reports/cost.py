"""What a cost run measured: its rows, checked, and one line per cell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.errors import ReportError
from reports.means import METRICS, Metric
from reports.rows import Run, read_run, refuse_other_networks, refuse_several, require, with_numbers, with_text

CONFIGURATION = ("device", "device_name", "dtype", "acceleration", "tf32", "autotune", "threads")
"""What a method ran on and how; numbers of different ones never stand in one table. `device` without its index."""
CELL = ("backbone", "dataset", "crop", "scale", "method", "fallback")
FALLBACKS = ("", "chunks", "tiles")
NOISY = 0.05
"""A coefficient of variation above it is remarked on."""
_NUMBERS = (
    *("scale", "measured_at", "sr_h", "sr_w", "tile", "tile_lr", "gmacs", "latency_ms", "device_ms", "cpu_ms"),
    *("alloc_peak_mib", "reserved_peak_mib", "rss_peak_mib", "rss_base_mib", "nvml_peak_mib", "nvml_process_mib"),
    *("energy_j", "other_processes", "psnr_y", "ssim_y", "lpips", "dists"),
)
_TEXT = (
    *("protocol", "evaluation", "method", "backbone", "weights", "checkpoint_sha256", "options", "dataset", "image"),
    *("fallback", "status", "reason", "absent", "throttled", "device", "device_name", "dtype", "acceleration", "tf32"),
)
_REQUIRED = (
    *("row_key", "protocol", "method", "backbone", "weights", "options", "dataset", "image", "scale", "crop"),
    *("repeat", "fallback", "status", "measured_at", "latency_ms", "device", "dtype"),
)


@dataclass(frozen=True)
class Quantity(Metric):
    """A positive number of any size, lower is better: `digits` significant digits, integers whole."""

    higher_is_better: bool = False
    digits: int = 3

    def format(self, value: float) -> str:
        rounded = float(f"{value:.{self.digits}g}")
        decimals = next((n for n in range(self.digits) if rounded >= 10 ** (self.digits - 1 - n)), self.digits)
        return f"{value:.{decimals}f}"


TIME, MEMORY = Quantity("latency_ms", "Time (ms)"), Quantity("memory_mib", "Memory (MiB)")
COST_METRICS = (*METRICS[:4], TIME, MEMORY)
"""Of Table 3, in its order."""


@dataclass(frozen=True)
class CostBlock:
    """The cells that one table or figure compares: all but scale, method and fallback are the same."""

    configuration: Mapping[str, Any]
    backbone: str
    dataset: str
    crop: int
    cells: pd.DataFrame

    @property
    def device(self) -> str:
        """The device's model and the floating-point type."""
        return f"{self.configuration['device_name'] or self.configuration['device']}, {self.configuration['dtype']}"

    @property
    def cuda(self) -> bool:
        """Whether memory is that of torch's CUDA allocator."""
        return bool(self.configuration["device"] == "cuda")


def load_cost_run(path: str | Path) -> Run:
    """Read `results/<run_id>/` of a cost run: the latest measurement of every cell.

    Raises:
        ReportError: there is no such run, it holds scores, a file is damaged, or the rows mix protocols or weights.
    """
    run = read_run(path, "cost")
    require(run.rows, _REQUIRED, run.path)
    rows = _tidy(run.rows)
    for column in ("protocol", "evaluation"):
        refuse_several(rows, column, run.path)
    refuse_other_networks(rows[rows["status"] == "ok"], run.path)
    run = replace(run, rows=rows)
    cost_protocol(run)
    return run


def cost_protocol(run: Run) -> dict[str, Any]:
    """The content of the run's cost protocol.

    Raises:
        ReportError: the manifest has none.
    """
    cost = run.manifest.get("cost")
    found = cost.get("protocol") if isinstance(cost, dict) else None
    if not isinstance(found, dict) or found.get("statistic") not in ("median", "mean"):
        raise ReportError(f"The manifest of {str(run.path)!r} holds no cost protocol: repeat the run.")
    return found


def summarise(run: Run) -> pd.DataFrame:
    """One line per configuration and cell: what was measured, summed up as the protocol says.

    `cv` is the coefficient of variation of the times, `memory_mib` the allocator's peak, or on the CPU resident memory
    beyond that before loading. Scores are means over the distinct images; `absent` says why a column is NaN.
    """
    statistic = cost_protocol(run)["statistic"]
    rows, keys = run.rows, [*CONFIGURATION, *CELL]
    measured = rows[rows["status"] == "ok"]
    wanted = measured.groupby(["dataset", "crop", "scale"])["image"].nunique().to_dict()
    lines = []
    for key, group in rows.groupby(keys, sort=False):
        line = dict(zip(keys, key, strict=True))
        images = int(wanted.get((line["dataset"], line["crop"], line["scale"]), 0))
        lines.append(line | _cell(group, statistic, images))
    return pd.DataFrame(lines)


def cost_blocks(run: Run, cells: pd.DataFrame) -> Iterator[CostBlock]:
    """The summary in comparable parts, in the manifest's order; methods without a backbone are in all of theirs."""
    titles = run.titles("backbones")
    for key, of_device in cells.groupby(list(CONFIGURATION), sort=False):
        present = set(of_device["backbone"])
        for backbone in [name for name in titles if name and name in present] or [""]:
            of_backbone = of_device[of_device["backbone"].isin([backbone, ""])]
            for dataset in run.titles("datasets"):
                own = of_backbone[of_backbone["dataset"] == dataset]
                for crop in sorted(own["crop"].unique()):
                    place = dict(zip(CONFIGURATION, key, strict=True))
                    yield CostBlock(place, backbone, dataset, int(crop), own[own["crop"] == crop])


def shown_cells(block: CostBlock) -> pd.DataFrame:
    """One line per scale and method: where it was measured with several fallbacks, the least of those that worked.

    `failed` is why memory had run out before, or empty.
    """
    cells = block.cells.assign(
        failed="",
        rank=block.cells["fallback"].map(FALLBACKS.index) + len(FALLBACKS) * (block.cells["status"] != "ok"),
    ).sort_values("rank", kind="stable")
    plain = cells[(cells["fallback"] == "") & (cells["status"] != "ok")].set_index(["scale", "method"])["reason"]
    chosen = cells.drop_duplicates(["scale", "method"])
    failed = [plain.get((line.scale, line.method), "") for line in chosen.itertuples()]
    return chosen.assign(failed=failed).drop(columns="rank").reset_index(drop=True)


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Types, and of every cell the rows of its latest key, one per repeat."""
    rows = with_numbers(with_text(rows, _TEXT), _NUMBERS)
    rows["autotune"] = rows["autotune"].eq(True) if "autotune" in rows else False
    rows["threads"] = rows["threads"].fillna(0).astype("int64") if "threads" in rows else 0
    rows["device"] = rows["device"].str.partition(":")[0]
    rows = _adopt_configuration(rows)
    place = [*CONFIGURATION, *CELL, "protocol", "weights", "options"]
    rows = rows.sort_values("measured_at", kind="stable")
    latest = rows.groupby(place, sort=False)["row_key"].transform("last")
    rows = rows[rows["row_key"] == latest]
    return rows.drop_duplicates([*place, "repeat"], keep="last", ignore_index=True)


def _adopt_configuration(rows: pd.DataFrame) -> pd.DataFrame:
    """Complete the rows of cells that failed before they could say what they ran on, where that is clear."""
    known, rest = ["device", "dtype", "acceleration"], ["device_name", "tf32", "autotune", "threads"]
    told = rows.loc[rows["device_name"] != "", [*known, *rest]].drop_duplicates().drop_duplicates(known, keep=False)
    found = {tuple(line[: len(known)]): line[len(known) :] for line in told.to_numpy().tolist()}
    silent = rows.index[(rows["status"] != "ok") & (rows["device_name"] == "")]
    for index in silent:
        place = tuple(rows.loc[index, known].tolist())
        for column, value in zip(rest, found.get(place, ()), strict=False):
            rows.loc[index, column] = value
    return rows


def _cell(rows: pd.DataFrame, statistic: str, images: int) -> dict[str, Any]:
    last = rows.iloc[-1]
    ok = rows[rows["status"] == "ok"] if last["status"] == "ok" else rows.iloc[:0]
    times = ok["latency_ms"].dropna()
    low, high = np.percentile(times, [25, 75]) if len(times) else (np.nan, np.nan)
    mean, memory = times.mean(), _memory(ok)
    absent = _absent(last["absent"], last["device"])
    return {
        "status": last["status"],
        "reason": "" if last["status"] == "ok" else last["reason"] or f"status {last['status']}",
        "weights": last["weights"],
        "checkpoint_sha256": last["checkpoint_sha256"],
        "repeats": len(times),
        "images": ok["image"].nunique(),
        "latency_ms": times.agg(statistic),
        "latency_q1_ms": low,
        "latency_q3_ms": high,
        "cv": times.std() / mean if len(times) > 1 and mean > 0 else np.nan,
        "memory_mib": memory.agg(statistic),
        "memory_iqr_mib": memory.quantile(0.75) - memory.quantile(0.25),
        "reserved_mib": ok["reserved_peak_mib"].agg(statistic),
        "nvml_mib": ok["nvml_peak_mib"].agg(statistic),
        "energy_j": ok["energy_j"].agg(statistic),
        "device_ms": ok["device_ms"].agg(statistic),
        "gmacs": ok["gmacs"].median(),
        "pixels": (ok["sr_h"] * ok["sr_w"]).median(),
        "tile": last["tile"],
        "tile_lr": last["tile_lr"],
        "others": ok["other_processes"].max(),
        "throttled": ", ".join(sorted({why for text in ok["throttled"] for why in text.split(",") if why})),
        **_scores(ok, images, absent),
        "absent": absent,
    }


def _memory(rows: pd.DataFrame) -> pd.Series[float]:
    if (rows["device"] == "cuda").all():
        return rows["alloc_peak_mib"]
    return rows["rss_peak_mib"] - rows["rss_base_mib"]


def _scores(rows: pd.DataFrame, images: int, absent: dict[str, str]) -> dict[str, float]:
    """Means over images, each once however often it was timed; NaN unless all have the score."""
    found = {}
    for metric in METRICS[:4]:
        of_image = rows.groupby("image")[metric.name].first().dropna()
        found[metric.name] = of_image.mean() if len(of_image) == images else float("nan")
        if 0 < len(of_image) < images:
            absent[metric.name] = f"scored on {len(of_image)} of {images} images"
    return found


def _absent(text: str, device: str) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {}
    absent = {str(column): str(why).rstrip(".") for column, why in found.items()} if isinstance(found, dict) else {}
    for column in ("alloc_peak_mib",) if device == "cuda" else ("rss_peak_mib", "rss_base_mib"):
        if column in absent:
            absent.setdefault("memory_mib", absent[column])
    return absent
