"""The paper's Table 3 as printed, to stand beside our own numbers; it never enters a mean or a rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

FOLDER = Path(__file__).parent / "published"
CROP, DATASET, DATASET_TITLE = 720, "DIV2K-GT720", "DIV2K"
"""Of the paper's Table 3: side of the patches, and which they are, as `table3.csv` names them and in words."""
_METRICS = {
    "psnr": "psnr_y",
    "ssim": "ssim_y",
    "lpips": "lpips",
    "dists": "dists",
    "time_ms": "latency_ms",
    "memory_mb": "memory_mib",
}
_REMARKS = {"typo": "likely a misprint for {likely}: {why}", "suspect": "doubtful: {why}", "outlier": "doubtful: {why}"}
_PLACE = ["backbone", "dataset", "scale", "metric", "method"]


class Printed(NamedTuple):
    """A value with the digits that the paper gives, and what is odd about it; empty when nothing is."""

    text: str
    remark: str


def table3(backbone: str, dataset: str, crop: int) -> dict[tuple[str, float, str], Printed]:
    """What compares with a block of ours, by (method's title, scale, our metric).

    backbone: title. Other patches than the paper's leave time and memory, other sizes nothing.
    """
    if crop != CROP:
        return {}
    values = pd.read_csv(FOLDER / "table3.csv", dtype={"value": str})
    odd = pd.read_csv(FOLDER / "anomalies.csv", dtype={"table": str})
    odd = odd[(odd["table"] == "3") & odd["kind"].isin(_REMARKS)]
    odd["scale"] = odd["scale"].astype(values["scale"].dtype)
    lines = values[values["backbone"] == backbone].merge(odd[[*_PLACE, "likely", "why", "kind"]], "left", _PLACE)
    return {
        (line["method"], float(line["scale"]), _METRICS[line["metric"]]): Printed(line["value"], _remark(line))
        for line in lines.to_dict("records")
        if dataset == DATASET or line["metric"] in ("time_ms", "memory_mb")
    }


def short_title(title: str) -> str:
    """A method's title as the paper's tables have it: what stands in brackets is ours."""
    return title.partition(" (")[0]


def _remark(line: Mapping[Any, Any]) -> str:
    template = _REMARKS.get(str(line["kind"]), "")
    return template and "the paper's value is " + template.format(**line)
