"""From a method's output to the numbers of a row, by the rules of a protocol."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.metrics import METRICS
from bench.resize import to_uint8
from methods.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Metric values by name; None where there is none, with the reasons."""

    values: dict[str, float | None]
    reasons: dict[str, str]

    @property
    def reason(self) -> str | None:
        """All reasons as one line; None when every metric has a value."""
        return "; ".join(f"{name}: {why}" for name, why in self.reasons.items()) or None


def as_scored(
    sr: npt.NDArray[np.float32], hr: npt.NDArray[np.uint8], quantize: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(SR, GT) in the type the metrics get: both 8-bit, or both floating in [0, 1]."""
    if quantize:
        return to_uint8(sr), hr
    return np.clip(sr, 0, 1), hr / np.float32(255)


def unavailable(names: Iterable[str]) -> dict[str, str]:
    """The metrics that cannot be computed here, each with the reason."""
    return {name: reason for name in names if (reason := METRICS[name].availability())}


def score(
    sr: npt.NDArray[Any],
    hr: npt.NDArray[Any],
    border: int,
    names: Iterable[str],
    absent: Mapping[str, str],
    device: str = "cpu",
) -> Scores:
    """Compute the metrics called `names`, but for those in `absent` ({name: reason}).

    sr, hr: (H, W, 3) as `as_scored` gives them. device: for the metrics that are networks.
    """
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in names:
        values[name], reason = (None, absent[name]) if name in absent else _value(name, sr, hr, border, device)
        if reason:
            reasons[name] = reason
    return Scores(values, reasons)


def _value(
    name: str, sr: npt.NDArray[Any], hr: npt.NDArray[Any], border: int, device: str
) -> tuple[float | None, str | None]:
    metric = METRICS[name]
    try:
        value = metric.function(sr, hr, border, **({"device": device} if metric.perceptual else {}))
    except UserError as error:
        return None, str(error)
    if math.isinf(value):
        return None, "infinite, SR and GT are identical"
    if math.isnan(value):
        return None, "the metric is not a number"
    return value, None
