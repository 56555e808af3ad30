from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench.training import verify
from methods.checkpoints import list_checkpoints


def verdicts(data_root=None):
    return {(check.checkpoint, check.what): check.passed for check in verify.verify_zoo(data_root)}


def test_the_zoo_is_what_it_says():
    found = verdicts()
    assert {name for name, _ in found} == {f"{known.method}/{known.backbone}" for known in list_checkpoints()}
    for (_, what), passed in found.items():
        assert passed is (None if what in ("images", "validation") else True)


def test_the_zoo_has_one_budget():
    known = list_checkpoints()
    assert len(known) == 9
    assert all(checkpoint.about["recipe"] == f"{checkpoint.method}-micro" for checkpoint in known)
    for what in ("data_sha256", "torch"):
        assert len({checkpoint.about[what] for checkpoint in known}) == 1
    # GSASR was trained again on a slower machine, for the steps that the others' machine did within the budget.
    elsewhere = [checkpoint for checkpoint in known if "AVX512" not in checkpoint.about["machine"]]
    assert [(checkpoint.method, checkpoint.about["steps"]) for checkpoint in elsewhere] in ([], [("gsasr", 8000)])
    assert all(16 < known.about["cpu_seconds"] / 60 < 24 for known in known if known not in elsewhere)
    assert all(465_000 < checkpoint.about["parameters"] <= 500_000 for checkpoint in known)


@pytest.mark.slow
@pytest.mark.skipif("ASRBENCH_DATA" not in os.environ, reason="the training images lie where ASRBENCH_DATA says")
def test_the_zoos_images_and_scores_are_what_it_says(monkeypatch):
    """Of two networks; `verify --zoo` looks at all, which takes minutes, and the baselines score all."""
    some = [known for known in list_checkpoints() if known.method in ("metasr", "gsasr")]
    assert len(some) == 2
    monkeypatch.setattr(verify, "list_checkpoints", lambda: some)
    assert all(verdicts(Path(os.environ["ASRBENCH_DATA"])).values())


@pytest.fixture
def one(monkeypatch, tmp_path):
    """A zoo of one checkpoint, with changes to its entry or its file."""

    def make(content=None, **changes):
        first = list_checkpoints()[0]
        path = first.paths[0]
        if content is not None:
            path = tmp_path / path.name
            path.write_bytes(content)
        about = {**first.about, **changes}
        changed = replace(first, paths=(path,), about=about)
        monkeypatch.setattr(verify, "list_checkpoints", lambda: [changed])
        return {what for (_, what), passed in verdicts().items() if passed is False}

    return make


def test_what_differs_is_found(one):
    whole = list_checkpoints()[0].paths[0].read_bytes()
    assert one() == set()
    assert one(sha256="0" * 64) == {"file"}
    assert one(bytes=3) == {"size"}
    assert one(parameters=3) == {"network"}
    assert one(recipe="liif-micro") == {"recipe"}
    assert one(recipe="none") == {"recipe"}
    assert one(content=whole[:-1]) == {"file", "size", "network"}
