"""Comparing two runs, or a run with a stored baseline, and deciding whether NEW regressed. Needs no torch."""

from __future__ import annotations

from bench.comparison.baseline import compare_with_baseline, store_metrics, store_speed
from bench.comparison.judge import compare
from bench.comparison.lines import Comparison
from bench.comparison.text import markdown, screen_tables

__all__ = [
    "Comparison",
    "compare",
    "compare_with_baseline",
    "markdown",
    "screen_tables",
    "store_metrics",
    "store_speed",
]
