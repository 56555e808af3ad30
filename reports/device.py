"""The page of a device: parity of all methods on it, and Table 3 with networks of full size, from one cost run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from reports import paper
from reports.cost import load_cost_run, summarise
from reports.errors import ReportError
from reports.files import write_atomic
from reports.markup import escape_markdown
from reports.rows import Run
from reports.table3 import markdown

PARITY = "parity.json"
"""In the run's folder: what `bench.parity.devices` found on the device that the run measured."""
GOALS_MS = {2.0: 60.0, 4.0: 20.0, 12.0: 6.0}
"""Of GSASR on an A100-class card, at 720x720."""
MEMORY_SHARE = 0.2
"""Of the paper's peak memory, that GSASR is to stay within."""
_CELLS = (
    *("method", "backbone", "dataset", "crop", "scale", "fallback", "status", "reason", "weights", "repeats"),
    *("latency_ms", "latency_q1_ms", "latency_q3_ms", "cv", "device_ms", "memory_mib", "reserved_mib", "nvml_mib"),
    *("energy_j", "gmacs", "throttled"),
)


def write_device_page(run_dir: str | Path, out: str | Path) -> list[Path]:
    """Write `<device>.json` and `<device>.md` into the folder `out` from a cost run that has `PARITY` beside its rows.

    Raises:
        ReportError: there is no such run, its parity is missing, nothing was measured, or the folder cannot be written.
    """
    run = load_cost_run(run_dir)
    cells, parity = summarise(run), _read_parity(run.path)
    measured = cells[cells["status"] == "ok"]
    if measured.empty:
        raise ReportError(f"Nothing of {run.name} could be measured: see the reasons in its rows.")
    device = str(measured["device_name"].iloc[0])
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"
    folder = Path(out)
    content = json.dumps(_record(run, cells, parity, device), indent=1, ensure_ascii=False, default=str)
    return [
        write_atomic(folder / f"{name}.json", (content + "\n").encode()),
        write_atomic(folder / f"{name}.md", _page(run, cells, parity, device).encode()),
    ]


def _read_parity(folder: Path) -> pd.DataFrame:
    try:
        found = json.loads((folder / PARITY).read_text(encoding="utf-8"))
        return pd.DataFrame(found)[["case", "title", "precision", "error", "snr_db", "reason"]]
    except (OSError, ValueError, KeyError) as error:
        raise ReportError(f"{str(folder / PARITY)!r} cannot be read ({error}): run `bench device` again.") from None


def _record(run: Run, cells: pd.DataFrame, parity: pd.DataFrame, device: str) -> dict[str, Any]:
    manifest = run.manifest
    lines = cells[list(_CELLS)].astype(object).where(cells[list(_CELLS)].notna(), None).to_dict("records")
    return {
        "device": device,
        "started": manifest.get("started"),
        "ended": manifest.get("ended"),
        "environment": manifest.get("environment"),
        "compute": manifest.get("compute"),
        "rasterizer": manifest.get("rasterizer"),
        "cost": manifest.get("cost"),
        "cells": lines,
        "parity": parity.astype(object).where(parity.notna(), None).to_dict("records"),
    }


def _page(run: Run, cells: pd.DataFrame, parity: pd.DataFrame, device: str) -> str:
    environment = run.manifest.get("environment") or {}
    torch = (environment.get("torch") or environment.get("packages", {}).get("torch")) or {}
    version = torch.get("version") if isinstance(torch, Mapping) else torch
    git = environment.get("git") or {}
    facts = (
        f"torch {version}, commit {str(git.get('commit', 'unknown'))[:10]}, {run.manifest.get('ended') or 'running'}."
    )
    table = re.sub(r"^#", "##", markdown(run, cells, published=True).split("\n", 2)[2], flags=re.MULTILINE)
    parts = [
        f"# {escape_markdown(device)}",
        f"Written by `python -m bench device`: {escape_markdown(facts)}",
        "## Agreement with the reference implementations",
        _parity_text(parity),
        _parity_table(parity),
        *_failures(parity),
        "## Goals",
        _goals(cells),
        "## Table 3",
        table.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _parity_text(parity: pd.DataFrame) -> str:
    count = parity["case"].nunique()
    return (
        f"{count} cases with regenerable weights. float32: largest difference relative to the reference's largest "
        "value, at most 1e-4 to pass. Others: largest value of the reference over the root mean square of the "
        "differences, in dB, of the worst case; reported, not judged."
    )


def _parity_table(parity: pd.DataFrame) -> str:
    others = [kind for kind in parity["precision"].unique() if kind != "float32"]
    lines = []
    for title, own in parity.groupby("title", sort=False):
        full = own[own["precision"] == "float32"]
        line = [escape_markdown(str(title)), str(full["case"].nunique())]
        line.append("failed" if full["error"].isna().any() else f"{full['error'].max():.1e}")
        for kind in others:
            ratios = own.loc[own["precision"] == kind, "snr_db"]
            line.append("failed" if ratios.isna().any() else f"{ratios.min():.1f} dB")
        lines.append(line)
    heads = ["Method", "Cases", "float32", *others]
    return tabulate(lines, heads, "pipe", disable_numparse=True, colalign=["left", *["right"] * (len(heads) - 1)])


def _failures(parity: pd.DataFrame) -> Iterable[str]:
    bad = parity[parity["error"].isna() | ((parity["precision"] == "float32") & (parity["error"] > 1e-4))]
    for line in bad.to_dict("records"):
        why = line["reason"] if isinstance(line["reason"], str) else f"differs by {line['error']:.1e}"
        yield f"- {escape_markdown(line['case'])}, {line['precision']}: {escape_markdown(str(why))}"


def _goals(cells: pd.DataFrame) -> str:
    """GSASR against what it is to reach, where it was measured as the goals are meant."""
    own = cells[(cells["method"] == "gsasr") & (cells["crop"] == paper.CROP) & (cells["fallback"] == "")]
    own = own[(own["status"] == "ok") & (own["device"] == "cuda") & (own["backbone"] == "edsr-baseline")]
    printed = paper.table3("EDSR-baseline", "", paper.CROP)
    lines = []
    for cell in own.sort_values("scale").to_dict("records"):
        scale, time, memory = float(cell["scale"]), cell["latency_ms"], cell["memory_mib"]
        paper_time = printed.get(("GSASR", scale, "latency_ms"))
        paper_memory = printed.get(("GSASR", scale, "memory_mib"))
        goal, most = GOALS_MS.get(scale), MEMORY_SHARE * float(paper_memory.text) if paper_memory else None
        lines.append(
            [
                f"×{scale:g}",
                f"{time:.2f}",
                "" if goal is None else f"{goal:g} ({'reached' if time <= goal else 'missed'})",
                paper_time.text if paper_time else "",
                f"{memory:.0f}",
                "" if most is None else f"{most:.0f} ({'reached' if memory <= most else 'missed'})",
                paper_memory.text if paper_memory else "",
            ]
        )
    if not lines:
        return "GSASR with EDSR-baseline was not measured at 720×720 on a GPU, which the goals are for."
    heads = ["GSASR", "Time (ms)", "Goal", "Paper, A100", "Memory (MiB)", "Goal", "Paper, A100"]
    return tabulate(lines, heads, "pipe", disable_numparse=True, colalign=["left", *["right"] * 6])
