from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from bench.comparison.statistics import mean_interval, rank_sum_p, sign_p, signed_rank_p

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("count", [14, 100])
def test_the_interval_is_scipys_percentile_bootstrap(count):
    values = RNG.normal(0.02, 0.05, count)
    low, high = mean_interval(values.tolist())
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.04 * width)
    assert high == pytest.approx(theirs.high, abs=0.04 * width)
    assert (low, high) == mean_interval(values.tolist())


def test_the_interval_is_that_of_all_resamples():
    values = np.array([0.3, -0.1, 0.05, 0.21, 0.0])
    means = np.array([np.mean(drawn) for drawn in product(values, repeat=5)])
    low, high = mean_interval(values.tolist())
    assert np.quantile(means, 0.018) <= low <= np.quantile(means, 0.032)
    assert np.quantile(means, 0.968) <= high <= np.quantile(means, 0.982)


def test_the_interval_of_equal_values_has_no_width_and_of_one_there_is_none():
    assert mean_interval([0.1] * 7) == (pytest.approx(0.1, abs=1e-15),) * 2
    assert mean_interval([0.0, 0.0]) == (0.0, 0.0)
    assert mean_interval([0.3]) is None
    assert mean_interval([]) is None


def test_wilcoxon_by_hand():
    # All six differ in one direction: two of the 2**6 signs are as extreme.
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    assert signed_rank_p([0.1] * 5) is None
    assert signed_rank_p([0.0] * 6) == 1.0
    values = RNG.normal(0.1, 0.3, 40)
    assert signed_rank_p([*values, 0.0, 0.0]) == pytest.approx(stats.wilcoxon(values).pvalue)


def test_few_values_left_after_zeros_give_no_warning():
    assert signed_rank_p([0.0] * 9 + [0.01]) == pytest.approx(1.0)
    assert 0 < signed_rank_p([0.0] * 4 + [0.01, 0.01, 0.02]) <= 1


def test_mann_whitney_by_hand():
    # No overlap: two of the choose(6, 3) orders are as extreme.
    assert rank_sum_p([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert rank_sum_p([5.0] * 9, [5.0] * 9) == 1.0


def test_sign_test_by_hand():
    assert sign_p([2.0] * 10, 1.0) == pytest.approx(2 / 2**10)
    assert sign_p([0.0, 2.0, 1.0], 1.0) == 1.0
    assert sign_p([1.0], 1.0) == 1.0
