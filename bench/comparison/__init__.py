"""Comparing two runs, or a run with a stored baseline, and deciding whether NEW regressed. Needs no torch."""

from __future__ import annotations

from bench.comparison.baseline import compare_with_baseline, is_baseline, store_baseline
from bench.comparison.judge import compare
from bench.comparison.lines import Comparison
from bench.comparison.text import markdown, screen_tables, sentences

__all__ = [
    "Comparison",
    "compare",
    "compare_with_baseline",
    "is_baseline",
    "markdown",
    "screen_tables",
    "sentences",
    "store_baseline",
]
