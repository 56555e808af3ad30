"""Plain mappings (TOML, JSON) into frozen dataclasses, with errors that name the field."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from methods.errors import UserError

T = TypeVar("T")


def parse(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `mapping`; nested tables become nested dataclasses, lists become tuples.

    Raises:
        UserError: an unknown key (with the nearest known one), a missing key, or a value of the wrong type in
            `where`.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."
            raise UserError(f"{where} has an unknown key {key!r}: {hint}")
    for name, field in known.items():
        if name not in mapping and field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"{where} lacks the key {name!r}: add it.")
    return cls(**{key: _convert(hints[key], value, f"{key!r} in {where}") for key, value in mapping.items()})


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    """The types of the fields; looked up once, as a run has a row per image and each row is parsed."""
    return get_type_hints(cls)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where)
    if kind is Any or (origin is Literal and value in args):
        return value
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        return parse(kind, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(args[0], item, where) for item in value)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: _convert(args[1], item, where) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise UserError(f"The value of {where} should be {_describe(kind)}, not {value!r}.")


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in options:
        return None
    kinds = [kind for kind in options if kind is not types.NoneType]
    for kind in kinds:
        try:
            return _convert(kind, value, where)
        except UserError:
            if len(kinds) == 1:
                raise
    raise UserError(f"The value of {where} should be {' or '.join(map(_describe, kinds))}, not {value!r}.")


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        return f"a list of {_describe(args[0])}"
    if is_dataclass(kind) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a table"
    return _WORDS.get(kind, str(kind))
