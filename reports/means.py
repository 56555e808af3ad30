"""From rows to set scores: means over images, and which of them is best."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.rows import Run


@dataclass(frozen=True)
class Metric:
    """How a score prints: its heading, its direction, and the digits that papers give."""

    name: str
    title: str
    higher_is_better: bool
    digits: int

    def format(self, value: float) -> str:
        """The value as printed, which is also what ranks are decided on."""
        return f"{value:.{self.digits}f}"


METRICS = (
    Metric("psnr_y", "PSNR", True, 2),
    Metric("ssim_y", "SSIM", True, 4),
    Metric("lpips", "LPIPS", False, 4),
    Metric("dists", "DISTS", False, 4),
    Metric("psnr_rgb", "PSNR-RGB", True, 2),
)


def blocks(run: Run) -> dict[str, pd.DataFrame]:
    """Rows by backbone, in the manifest's order; methods without one (bicubic) are in every block."""
    backbones = [name for name in run.titles("backbones") if name] or [""]
    return {name: run.rows[run.rows["backbone"].isin([name, ""])] for name in backbones}


def set_scores(run: Run) -> pd.DataFrame:
    """One line per backbone, dataset, scale, metric and method, in table order.

    `mean` is the plain mean over `images`; it is NaN, and `reason` says why, unless every one of them was scored.
    Images that every method of the block skipped do not count. `mark` is "best", "second" or "": ranks are taken after
    rounding to the printed digits, ties share, and every column competes, bicubic included, so that a network that
    loses to the yardstick is seen to.
    """
    lines = [line for backbone, rows in blocks(run).items() for line in _block_scores(run, backbone, rows)]
    return pd.DataFrame(lines)


def _block_scores(run: Run, backbone: str, rows: pd.DataFrame) -> Iterable[dict[str, Any]]:
    methods = [name for name in run.titles("methods") if name in set(rows["method"])]
    for dataset in run.titles("datasets"):
        for scale, of_scale in rows[rows["dataset"] == dataset].groupby("scale"):
            images = set(of_scale.loc[of_scale["status"] != "skipped", "image"]) or set(of_scale["image"])
            counted = of_scale[of_scale["image"].isin(images)]
            of_method = {method: counted[counted["method"] == method] for method in methods}
            for metric in METRICS:
                key = {"backbone": backbone, "dataset": dataset, "scale": scale, "metric": metric.name}
                scores = [_score(of_method[method], len(images), metric) for method in methods]
                ranks = marks([score["mean"] for score in scores], metric)
                for method, score, mark in zip(methods, scores, ranks, strict=True):
                    yield key | {"method": method} | score | {"mark": mark}


def _score(rows: pd.DataFrame, images: int, metric: Metric) -> dict[str, Any]:
    scored = rows[metric.name].notna() & (rows["status"] == "ok")
    count = int(scored.sum())
    reason = "" if count == images else _why(rows[~scored], metric, images - len(rows), images)
    mean = float("nan") if reason else rows.loc[scored, metric.name].mean()
    return {"mean": mean, "images": images, "scored": count, "reason": reason}


def _why(unscored: pd.DataFrame, metric: Metric, not_run: int, images: int) -> str:
    reasons = Counter(
        (own_reason(reason, metric) if status == "ok" else reason) or f"status {status}"
        for reason, status in zip(unscored["reason"], unscored["status"], strict=True)
    )
    reasons += Counter({"not run": not_run})
    found = ((count, why.rstrip(".")) for why, count in reasons.most_common())
    return "; ".join(f"{count} of {images} image{'s'[: images > 1]}: {why}" for count, why in found)


def own_reason(reason: str, metric: Metric) -> str:
    """A metric's part of the reason of a row that lacks several: "lpips: no trunk; dists: no trunk"."""
    names = "|".join(other.name for other in METRICS)
    found = re.search(rf"(?:^|; ){metric.name}: (.*?)(?=; (?:{names}): |$)", reason)
    return found[1].rstrip(".") if found else ""


def marks(means: Sequence[float], metric: Metric) -> list[str]:
    """Best, second or empty for each value, NaN never; ties in the printed digits share."""
    printed = [float(metric.format(mean)) for mean in means]
    ranked = sorted({value for value in printed if value == value}, reverse=metric.higher_is_better)
    names = dict(zip(ranked, ("best", "second"), strict=False)) if len(printed) > 1 else {}
    return [names.get(value, "") for value in printed]
