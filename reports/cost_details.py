"""What stands below a table of costs in Markdown: spread and other measures, and shares of the machine's ceilings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from tabulate import tabulate

from reports.cost import MEMORY, NOISY, TIME, CostBlock
from reports.markup import escape_markdown
from reports.rows import Run

_COLUMNS: dict[str, Callable[[dict[Any, Any]], str]] = {
    "Repeats": lambda cell: str(cell["repeats"]),
    "Time (ms)": lambda cell: TIME.format(cell["latency_ms"]),
    "Middle half (ms)": lambda cell: f"{TIME.format(cell['latency_q1_ms'])} to {TIME.format(cell['latency_q3_ms'])}",
    "Variation": lambda cell: _percent(cell["cv"]) if not cell["cv"] > NOISY else f"**{_percent(cell['cv'])}**",
    "CUDA events (ms)": lambda cell: _number(cell["device_ms"]),
    "Memory (MiB)": lambda cell: _number(cell["memory_mib"]),
    "Reserved (MiB)": lambda cell: _number(cell["reserved_mib"]),
    "Device, NVML (MiB)": lambda cell: _number(cell["nvml_mib"]),
    "Energy (J)": lambda cell: _number(cell["energy_j"]),
}


def details_section(run: Run, cells: pd.DataFrame) -> tuple[str, ...]:
    """Every measured cell with its spread; columns without any number are left out."""
    titles = run.titles("methods")
    order = {name: index for index, name in enumerate(titles)}
    ok = cells[cells["status"] == "ok"].sort_values(
        ["scale", "method"], key=lambda c: c.map(order) if c.name == "method" else c
    )
    lines = [
        {
            "Scale": f"×{cell['scale']:g}",
            "Method": escape_markdown(titles[cell["method"]]) + (f" ({cell['fallback']})" if cell["fallback"] else ""),
            **{heading: text(cell) for heading, text in _COLUMNS.items()},
        }
        for cell in ok.to_dict("records")
    ]
    frame = pd.DataFrame(lines)
    if frame.empty:
        return ()
    frame = frame.loc[:, (frame != "").any()]
    frame.loc[frame["Scale"].eq(frame["Scale"].shift()), "Scale"] = ""
    align = ["left", "left", *["right"] * (frame.shape[1] - 2)]
    table = tabulate(
        frame.to_numpy().tolist(), [str(heading) for heading in frame], "pipe", disable_numparse=True, colalign=align
    )
    text = f"Variation is the coefficient of variation of the times, bold above {NOISY * 100:g} %."
    return ("### Spread and other measures", text, table)


def ceilings_section(run: Run, block: CostBlock, cells: pd.DataFrame) -> tuple[str, ...]:
    """Which share of the machine's measured matrix-product rate the methods reach, if both are known."""
    ceilings = (run.manifest.get("cost") or {}).get("ceilings")
    counted = cells[(cells["status"] == "ok") & cells["gmacs"].gt(0)]
    if not isinstance(ceilings, dict) or not ceilings.get("matmul_gflops") or counted.empty:
        return ()
    device = str(ceilings.get("device") or "")
    if (
        device.partition(":")[0] not in (block.configuration["device"], "")
        and device != block.configuration["device_name"]
    ):
        return ()
    ceiling = float(ceilings["matmul_gflops"])
    shares = counted.assign(share=2 * counted["gmacs"] / (counted["latency_ms"] / 1000) / ceiling)
    titles = run.titles("methods")
    methods = [name for name in titles if name in set(shares["method"])]
    table = shares.pivot(index="scale", columns="method", values="share")[methods]
    lines = [[f"×{scale:g}", *map(_percent, row)] for scale, row in zip(table.index, table.to_numpy(), strict=True)]
    heads = ["Scale", *(escape_markdown(titles[name]) for name in methods)]
    text = tabulate(lines, heads, "pipe", disable_numparse=True, colalign=["left", *["right"] * len(methods)])
    return ("### Achieved share of this machine's ceilings", _ceilings_text(ceilings), text)


def _ceilings_text(ceilings: dict[str, Any]) -> str:
    matmul = float(ceilings["matmul_gflops"])
    rates = [f"{matmul:.3g} GFLOP/s" if matmul < 1000 else f"{matmul / 1000:.3g} TFLOP/s"]
    rates[0] += " in matrix products"
    if ceilings.get("copy_gb_s"):
        rates.append(f"{ceilings['copy_gb_s']:.4g} GB/s copied")
    if ceilings.get("exp_g_s"):
        rates.append(f"{ceilings['exp_g_s']:.4g} × 10⁹ exponentials per second")
    return (
        f"Measured on this machine: {', '.join(rates)}. Share: twice the multiply-adds of products and convolutions, "
        "divided by the time and by the first of these. Other work, such as rasterization, counts for nothing."
    )


def _percent(share: float) -> str:
    return "" if share != share else f"{share:.1%}"


def _number(value: float) -> str:
    return "" if value != value else MEMORY.format(value)
