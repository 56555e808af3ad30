"""The small grammars of the command line: what they accept, and that they refuse everything else in a sentence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.selection import ALL_SCALES, MAX_SCALE, parse_options, parse_scales, parse_weights
from methods.errors import UserError

GRAMMAR = st.text(alphabet="0123456789.,-x× aleinf+_eE\x00٣", max_size=24)
METHODS = ("gsasr", "liif")


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("2", (2.0,)),
        ("2,3.5,12", (2.0, 3.5, 12.0)),
        ("2-4", (2.0, 3.0, 4.0)),
        (" x4 , ×3,X2", (2.0, 3.0, 4.0)),
        ("4,2-4,2,4.0", (2.0, 3.0, 4.0)),
        ("1.1", (1.1,)),
        ("2-2", (2.0,)),
        (str(MAX_SCALE), (float(MAX_SCALE),)),
        ("all", (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 18.0, 24.0, 30.0)),
        ("all,2.5", (2.0, 2.5, *ALL_SCALES[1:])),
    ],
)
def test_scales(text: str, scales: tuple[float, ...]) -> None:
    assert parse_scales(text) == scales


OUT_OF_RANGE = ("0.5", "1", "0", "1-3", "2-999999999", "64.01", "999999999")
BACKWARDS = ("4-2",)
JUNK = (
    "",
    " , ",
    "-2",
    "nan",
    "inf",
    "-inf",
    "1e3",
    "two",
    "2-3.5",
    "2;3",
    "2..5",
    "0x4",
    "٣",
    "2_0",
    "2-",
    "x",
    "2\n3",
)


@pytest.mark.parametrize("text", [*OUT_OF_RANGE, *BACKWARDS, *JUNK, "2,nan", "9" * 30])
def test_wrong_scales_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_scales(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", "all.")) or str(MAX_SCALE) in str(caught.value)


@given(st.one_of(st.text(max_size=24), GRAMMAR))
def test_any_text_gives_scales_or_a_user_error(text: str) -> None:
    try:
        scales = parse_scales(text)
    except UserError:
        return
    assert scales == tuple(sorted(set(scales)))
    assert all(math.isfinite(scale) and 1 < scale <= MAX_SCALE for scale in scales)


@pytest.mark.parametrize(
    ("items", "options"),
    [
        (["gsasr.dmax=0.05"], {"gsasr": {"dmax": 0.05}}),
        (["gsasr.canvas=floor"], {"gsasr": {"canvas": "floor"}}),
        (['liif.cell="clipped"'], {"liif": {"cell": "clipped"}}),
        (["*.exact=true", "liif.n=3"], {"gsasr": {"exact": True}, "liif": {"exact": True, "n": 3}}),
        (["liif.n=1", "liif.n=2"], {"liif": {"n": 2}}),
        (["liif.when=[1, 2]"], {"liif": {"when": "[1, 2]"}}),
        ([], {}),
    ],
)
def test_options(items: list[str], options: dict[str, dict[str, object]]) -> None:
    assert parse_options(items, METHODS) == options


@pytest.mark.parametrize("item", ["", "dmax=1", "gsasr.dmax", "gsasr.dmax=", "gsar.dmax=1", "x*.n=1", "gsasr..n=1"])
def test_wrong_options_are_refused(item: str) -> None:
    with pytest.raises(UserError):
        parse_options([item], METHODS)


@given(st.lists(st.text(max_size=20).map("gsasr.x=".__add__) | st.text(max_size=20), max_size=3))
def test_any_option_is_scalar_or_refused(items: list[str]) -> None:
    try:
        options = parse_options(items, METHODS)
    except UserError:
        return
    assert all(isinstance(value, (str, int, float)) for values in options.values() for value in values.values())


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("shipped", {"gsasr": "shipped", "liif": "shipped"}),
        ("random", {"gsasr": "random", "liif": "random"}),
        ("gsasr=a b/c.pth", {"gsasr": "a b/c.pth", "liif": "shipped"}),
        ("gsasr=a.pth,liif=random", {"gsasr": "a.pth", "liif": "random"}),
        ("*=random,liif=l.pth", {"gsasr": "random", "liif": "l.pth"}),
        ("gsasr=dir=1/x.pth", {"gsasr": "dir=1/x.pth", "liif": "shipped"}),
    ],
)
def test_weights(text: str, weights: dict[str, str]) -> None:
    assert parse_weights(text, METHODS) == weights


def test_one_file_serves_one_method() -> None:
    assert parse_weights("runs/a=b.pth", ["liif"]) == {"liif": "runs/a=b.pth"}
    with pytest.raises(UserError, match="gsasr=FILE,liif=FILE"):
        parse_weights("x.pth", METHODS)


@pytest.mark.parametrize("text", ["gsar=x.pth", "gsasr=", "gsasr=a.pth,b.pth"])
def test_wrong_weights_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_weights(text, METHODS)
