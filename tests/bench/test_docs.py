"""The methods' pages and the costs that lists print are those of this code."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.docs import pages
from bench.facts import measure, read_facts
from methods.registry import list_methods, method_spec

ROOT = Path(__file__).resolve().parents[2]


def test_pages_are_up_to_date():
    """If not: `python -m bench docs`."""
    folder = ROOT / "docs" / "methods"
    expected = pages(ROOT / "tests" / "parity")
    assert {path.name for path in folder.iterdir()} == expected.keys()
    for name, text in expected.items():
        assert (folder / name).read_text(encoding="utf-8") == text, name


def test_every_network_has_its_costs():
    networks = {(spec.name, backbone) for spec in list_methods() for backbone in spec.backbones or ("",)}
    assert read_facts().keys() == networks


FAST = [("bicubic", ""), ("metasr", "edsr-baseline"), ("liif", "rdn"), ("gaussiansr", "edsr-micro")]
SLOW = [
    ("lte", "swinir"),
    ("srno", "edsr-baseline"),
    ("linf", "edsr-micro"),
    ("lmf", "edsr-baseline"),
    ("gsasr", "rdn"),
]


@pytest.mark.parametrize(
    ("method", "backbone"), [*FAST, *(pytest.param(*network, marks=pytest.mark.slow) for network in SLOW)]
)
def test_costs_are_up_to_date(method, backbone):
    """If not: `python -c "from bench.facts import write_facts; write_facts()"`."""
    assert measure(method_spec(method), backbone) == read_facts()[method, backbone]
