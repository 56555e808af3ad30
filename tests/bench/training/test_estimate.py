from __future__ import annotations

import pytest

from bench.training.estimate import estimate


def test_an_estimate_counts_what_a_step_does(root, capsys):
    """Multiply-adds of LIIF by hand: forwards, and about twice that backwards."""
    queries, pixels = 2 * 64, 2 * 64
    settings = ["val=[]", "scale=[2.0, 2.0]", "queries=64", "steps=7200"]
    found = estimate(root / "tiny.toml", data_root=root, overrides=settings, device="cpu")
    encoder = 3 * 8 * 9 + 3 * 8 * 8 * 9
    first = 72 * 8
    decoder = 4 * (3 * 8 + 8 * 8) + 8 * 3
    forward = pixels * (encoder + first) + queries * decoder
    assert found.macs == pytest.approx(3 * forward, rel=0.1)
    assert found.images == 3
    assert found.hours == pytest.approx(2 * found.step_seconds)
    assert found.state_bytes == 20 * found.parameters
    assert found.peak_bytes > 0
