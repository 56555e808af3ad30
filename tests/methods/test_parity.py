"""Every method against the outputs of its reference implementation."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.parity import run_parity

PARITY = Path(__file__).parents[1] / "parity"
OTHERS = {"encoders", "metrics", "rasterizer"}
CASES = [path for path in sorted(PARITY.glob("*/*.json")) if path.parent.name not in OTHERS]


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_reference_output(case):
    (result,) = run_parity([case])
    assert result.verdict == "pass", result
