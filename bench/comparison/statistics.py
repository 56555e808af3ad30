"""Is a difference more than chance: paired for quality, unpaired for times. Every answer is the same each time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 5000
MIN_WILCOXON = 6
"""With 5 pairs, the smallest two-sided p that the signed-rank test can give is 0.0625."""
_SEED = 0

FloatArray = npt.NDArray[np.floating[Any]]


def mean_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None for fewer than two values."""
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2:
        return None
    centre = values.mean()  # resampled around it, so that the interval of a constant has no width by rounding
    means = _weights(values.size) @ (values - centre)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(centre + low), float(centre + high)


@lru_cache(maxsize=4)
def _weights(count: int) -> FloatArray:
    """How often each of `count` values is drawn, by their number: (RESAMPLES, count)."""
    rng = np.random.default_rng(_SEED)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count


def signed_rank_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, zeros left out; None below MIN_WILCOXON values, 1 if all are 0."""
    if len(differences) < MIN_WILCOXON:
        return None
    values = np.asarray(differences, dtype=np.float64)
    if not np.any(values):
        return 1.0
    from scipy.stats import wilcoxon

    with warnings.catch_warnings():  # that few values are left once zeros are out shows in the p
        warnings.simplefilter("ignore")
        return float(wilcoxon(values[values != 0]).pvalue)


def rank_sum_p(base: Sequence[float], new: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney U test; 1 if all values are equal."""
    if len({*base, *new}) == 1:
        return 1.0
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(base, new, alternative="two-sided").pvalue)


def sign_p(values: Sequence[float], centre: float) -> float:
    """Two-sided p of the sign test that the median of `values` is `centre`; values equal to it are left out."""
    above = sum(value > centre for value in values)
    decided = above + sum(value < centre for value in values)
    if not decided:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(above, decided).pvalue)
