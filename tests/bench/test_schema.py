from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bench.schema import parse
from methods.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 10


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    kind: Literal["a", "b"] = "a"
    files: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    limit: int | None = None
    mixed: str | tuple[str, ...] = ""
    anything: Any = None
    flag: bool = False


def test_nested_tables_lists_and_whole_numbers_for_floats():
    got = parse(
        Outer,
        {
            "name": "n",
            "inner": {"rate": 1},
            "files": ["x", "y"],
            "sizes": {"a": 3},
            "limit": 2,
            "mixed": ["p"],
            "kind": "b",
        },
        "here",
    )
    assert got == Outer("n", Inner(1.0), "b", ("x", "y"), {"a": 3}, 2, ("p",))
    assert isinstance(got.inner.rate, float)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nmae": 1}, "recipe.toml has an unknown key 'nmae': did you mean 'name'?"),
        ({"inner": {}}, "'inner' in recipe.toml lacks the key 'rate': add it."),
        ({"inner": {"rate": "x"}}, "The value of 'rate' in 'inner' in recipe.toml should be a number, not 'x'."),
        ({"kind": "c"}, "The value of 'kind' in recipe.toml should be one of 'a', 'b', not 'c'."),
        ({"files": "x"}, "The value of 'files' in recipe.toml should be a list of text, not 'x'."),
        ({"limit": True}, "The value of 'limit' in recipe.toml should be a whole number, not True."),
        ({"limit": 2.5}, "The value of 'limit' in recipe.toml should be a whole number, not 2.5."),
        ({"flag": 1}, "The value of 'flag' in recipe.toml should be true or false, not 1."),
        ({"sizes": 3}, "The value of 'sizes' in recipe.toml should be a table, not 3."),
        ({"mixed": 4}, "The value of 'mixed' in recipe.toml should be text or a list of text, not 4."),
    ],
)
def test_errors_name_the_field_and_the_remedy(change, sentence):
    with pytest.raises(UserError) as error:
        parse(Outer, {"name": "n", "inner": {"rate": 1.0}, **change}, "recipe.toml")
    assert str(error.value) == sentence
