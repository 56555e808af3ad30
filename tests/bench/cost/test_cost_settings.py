"""The flags of `cost`."""

from __future__ import annotations

import pytest

from bench.cost.protocols import COST_PROTOCOLS, get
from bench.cost.settings import make_cost_settings, parse_sizes
from methods.errors import UserError


def test_the_default_keeps_the_promises_of_steady():
    settings = make_cost_settings(methods="bicubic")
    protocol = settings.protocol
    assert protocol == COST_PROTOCOLS["steady"]
    assert protocol.warmups >= 10
    assert protocol.repeats >= 30
    assert protocol.images > 1
    assert protocol.statistic == "median"
    assert settings.run.scales == (2, 3, 4, 6, 8, 12)
    assert settings.crops == (720,)


def test_table3_is_the_papers():
    protocol = get("table3")
    assert (protocol.crop, protocol.warmups, protocol.statistic) == (720, 2, "mean")
    assert (protocol.images, protocol.repeats) == (None, None)


def test_a_changed_protocol_says_so_in_its_name():
    settings = make_cost_settings(methods="bicubic", crop=240, repeats=5, warmups=10)
    assert settings.protocol.name == "steady (repeats 5, crop 240)"
    assert settings.crops == (240,)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("64..1024", (64, 128, 256, 512, 1024)), ("64..200", (64, 128, 200)), ("96", (96,)), ("256, 64", (64, 256))],
)
def test_sizes(text, sizes):
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"protocol": "stedy"}, "did you mean"),
        ({"crop": 8}, "out of range"),
        ({"crop": 99999}, "out of range"),
        ({"sizes": "64..32"}, "backwards"),
        ({"sizes": "64;32"}, "not sizes"),
        ({"sizes": "64", "crop": 64}, "one of them"),
        ({"repeats": 0}, "0 repeats"),
        ({"warmups": -1}, "-1 warm-ups"),
        ({"images": 0}, "0 inputs"),
        ({"threads": 0}, "0 threads"),
        ({"chunk": 0}, "chunk of 0"),
        ({"tf32": "some"}, "TF32"),
        ({"evaluation": "gsars"}, "protocol"),
        ({"methods": "nope"}, "nope"),
    ],
)
def test_what_cannot_be_meant_is_named(flags, words):
    with pytest.raises(UserError, match=words):
        make_cost_settings(**{"methods": "bicubic", **flags})
