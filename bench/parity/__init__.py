"""Comparing this suite with the outputs of reference implementations, case by case.

A case is a JSON file and an npz file of arrays. Weights are in neither: `weights.fill` makes them from the keys and
shapes of the reference's state dict, which the JSON lists, so that its output can be reproduced anywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

from bench.parity.cases import CannotRun, Case, CaseResult, Check, Verdict, find_cases, method_name
from methods.errors import UserError

__all__ = ["CaseResult", "run_parity"]

_KINDS = {
    "method": "bench.parity.networks:check_method",
    "encoder": "bench.parity.networks:check_encoder",
    "rasterizer": "bench.parity.networks:check_rasterizer",
    "scores": "bench.parity.pixels:check_scores",
    "imresize": "bench.parity.pixels:check_imresize",
    "matlab": "bench.parity.pixels:check_matlab",
    "perceptual": "bench.parity.pixels:check_perceptual",
    "bicubic": "bench.parity.sets:check_bicubic",
}


def run_parity(paths: Iterable[str | Path]) -> Iterator[CaseResult]:
    """Run the cases that files and folders name, one result after the other, on the CPU in the cases' precision.

    A case that the suite cannot compute fails; one that needs a method this version does not have is skipped.

    Raises:
        UserError: before the first result: a path holds no case, or a broken one.
    """
    return map(run_case, find_cases(paths))


def run_case(case: Case) -> CaseResult:
    """Compare with one case; see `run_parity`."""
    module, _, function = _KINDS[case.kind].partition(":")
    start = time.perf_counter()
    verdict: Verdict
    try:
        checks: list[Check] = getattr(import_module(module), function)(case)
        worst = max(checks, key=lambda check: check.strain)
        verdict = "pass" if worst.passed else "fail"
    except CannotRun as reason:
        worst, verdict = Check(str(reason), math.nan, math.nan), "skip"
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        worst, verdict = Check(" ".join(f"{kind}{error}".split())[:300], math.nan, math.nan), "fail"
    seconds = time.perf_counter() - start
    about = case.name, case.kind, worst.error, worst.tolerance
    return CaseResult(*about, verdict, seconds, worst.name, method_name(case))
