"""What must be known to read numbers of cost, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports import paper
from reports.cost import COST_METRICS, MEMORY, TIME, CostBlock, cost_protocol
from reports.documents import weights_text
from reports.means import Metric
from reports.rows import Run

CUDA_MEMORY = "peak of torch's CUDA allocator, weights and input in it"
HOST_MEMORY = "peak resident memory of the process less that before the network was loaded"
_PAPER = (
    "After the slash: the paper's values, measured on one NVIDIA A100 under the paper's protocol (every patch once, "
    "the first two dropped, mean; memory in MB of the allocator's peak with weights and input). They do not rank."
)
_NO_PAPER = (
    f"The paper, which measured {paper.CROP}×{paper.CROP} crops of {paper.DATASET_TITLE} with EDSR-baseline on one "
    "NVIDIA A100, has no values for these cells."
)


def describe(
    run: Run,
    block: CostBlock,
    cells: pd.DataFrame,
    shown: Sequence[Metric],
    printed: dict[tuple[str, float, str], paper.Printed] | None,
) -> str:
    """A table's caption without its title: protocol, clock, device, settings, weights, what is missing.

    printed: the paper's values that stand beside ours; None where they were not asked for.
    """
    protocol = cost_protocol(run)
    images = int(cells["images"].max())
    sentences = [
        f"Cost protocol {run.protocol} ({protocol.get('title') or 'untitled'}).",
        f"Inside the clock: {protocol.get('inside') or 'unknown'}; outside: {protocol.get('outside') or 'unknown'}.",
        *([f"Settings: {settings}."] if (settings := settings_text(block)) else []),
        f"{images} patch{'es' if images != 1 else ''}.",
        f"{protocol['statistic'].capitalize()} of the repeats: time, and memory ({memory_text(block)}).",
        *([f"Evaluation protocol {evaluation}."] if (evaluation := run.rows["evaluation"].iloc[0]) else []),
        f"Weights: {weights_text(cells, run.titles('methods'))}.",
        *_missing(cells, shown),
    ]
    if printed is not None:
        sentences.append(_beside(run, cells, printed))
    return " ".join(sentences)


def memory_text(block: CostBlock) -> str:
    """What a block's memory is."""
    return CUDA_MEMORY if block.cuda else HOST_MEMORY


def settings_text(block: CostBlock) -> str:
    """What was set that changes speed, beside device and type."""
    found = block.configuration
    parts = []
    if block.cuda:
        kinds = {"matmul": "matrix products", "conv": "convolutions"}
        allowed = [kinds.get(kind, kind) for kind in str(found["tf32"]).split("+") if kind]
        parts.append(f"TF32 in {' and '.join(allowed)}" if allowed else "no TF32")
        parts += ["cuDNN autotuned"] if found["autotune"] else []
    elif found["threads"]:
        parts.append(f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}")
    names = {"compile": "compiled encoders", "channels-last": "channels-last"}
    parts += [names.get(name, name) for name in str(found["acceleration"]).split("+") if name]
    return ", ".join(parts)


def random_weights(cells: pd.DataFrame) -> bool:
    """Whether no network was trained."""
    return "random" in set(cells["weights"]) and set(cells["weights"]) <= {"random", "none", ""}


def _missing(cells: pd.DataFrame, shown: Sequence[Metric]) -> list[str]:
    """Sentences on the scores that have no value anywhere; the remedy, behind the colon, is of no use to readers."""
    if random_weights(cells):
        return ["Scores of random weights mean nothing and are left out; cost does not depend on weights."]
    sentences = []
    for metric in COST_METRICS:
        if metric not in shown and metric not in (TIME, MEMORY):
            reasons = [str(absent.get(metric.name, "")).partition(": ")[0] for absent in cells["absent"]]
            why = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
            sentences.append(f"{metric.title} not computed" + (f": {why}." if why else "."))
    return sentences


def _beside(run: Run, cells: pd.DataFrame, printed: dict[tuple[str, float, str], Any]) -> str:
    titles = run.titles("methods")
    ours = {
        (paper.short_title(titles[method]), scale)
        for method, scale in zip(cells["method"], cells["scale"], strict=True)
    }
    return _PAPER if any((method, scale) in ours for method, scale, _ in printed) else _NO_PAPER
