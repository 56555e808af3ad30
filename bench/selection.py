"""The grammar of `--scales`, `--set` and `--weights`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence

from methods.errors import UserError
from methods.names import select

ALL_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 18.0, 24.0, 30.0)
"""The ten scales of the GSASR paper's tables 1 and 2."""
MAX_SCALE = 64
"""Twice the largest published scale and more; beyond it a 480-pixel image has an LR side of 7 pixels and less."""

Scalar = str | int | float | bool

_NUMBER = re.compile(r"[xX×]?([0-9]{1,9}(?:\.[0-9]{1,9})?)")
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_OPTION = re.compile(r"([A-Za-z0-9_*?\[\]-]+)\.([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PER_METHOD = re.compile(r"[A-Za-z0-9_*?\[\]-]+=")


def parse_scales(text: str) -> tuple[float, ...]:
    """Read a comma list of scales: numbers (`2`, `3.5`, `x4`), ranges of whole numbers (`2-4`) and `all`.

    Returns the scales in ascending order, each once; all lie above 1 and up to `MAX_SCALE`.

    Raises:
        UserError: a part is not a scale.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UserError("No scale was named: write numbers above 1 such as 2,3.5,12, a range such as 2-4, or all.")
    return tuple(sorted({scale for part in parts for scale in _expand(part)}))


def _expand(part: str) -> Sequence[float]:
    if part == "all":
        return ALL_SCALES
    if match := _RANGE.fullmatch(part):
        first, last = (int(_checked(float(bound), part)) for bound in match.groups())
        if first > last:
            raise UserError(f"The range of scales {part!r} runs backwards: write {last}-{first}.")
        return [float(scale) for scale in range(first, last + 1)]
    if match := _NUMBER.fullmatch(part):
        return [_checked(float(match[1]), part)]
    raise UserError(f"{part!r} is not a scale: write numbers above 1 such as 2,3.5,12, a range such as 2-4, or all.")


def _checked(scale: float, part: str) -> float:
    if not 1 < scale <= MAX_SCALE:
        raise UserError(f"The scale {part!r} is out of range: super-resolution here goes from above 1 to {MAX_SCALE}.")
    return scale


def parse_options(items: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Scalar]]:
    """Read `--set` items, `METHOD.NAME=VALUE`, into {method: {name: value}}.

    METHOD may be a wildcard over `methods`. VALUE is a TOML number, true, false or quoted text; anything else is text.

    Raises:
        UserError: an item has another form or names none of `methods`.
    """
    options: dict[str, dict[str, Scalar]] = {}
    for item in items:
        match = _OPTION.fullmatch(item.strip())
        if not match:
            raise UserError(f"{item!r} does not set an option: write METHOD.NAME=VALUE, such as gsasr.dmax=0.05.")
        for method in select(match[1], methods, "chosen method"):
            options.setdefault(method, {})[match[2]] = _scalar(match[3].strip(), item)
    return options


def _scalar(text: str, item: str) -> Scalar:
    if not text:
        raise UserError(f"{item!r} sets no value: write METHOD.NAME=VALUE, such as gsasr.dmax=0.05.")
    try:
        value = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    single = value["value"] if len(value) == 1 else None
    return single if isinstance(single, (str, int, float)) else text


def parse_weights(text: str, methods: Sequence[str]) -> Mapping[str, str]:
    """Read `--weights` into {method: "shipped", "random" or a path}.

    One value holds for all of `methods`; `gsasr=FILE,liif=shipped` names them (wildcards too), the rest stay "shipped".

    Raises:
        UserError: an item names none of `methods`, has no value, or one file is meant for several methods.
    """
    text = text.strip()
    if not _PER_METHOD.match(text):
        if text not in ("", "shipped", "random") and len(methods) > 1:
            each = ",".join(f"{method}=FILE" for method in methods)
            raise UserError(f"The weights {text!r} cannot fit {len(methods)} methods at once: write --weights {each}.")
        return dict.fromkeys(methods, text or "shipped")
    chosen = dict.fromkeys(methods, "shipped")
    for item in filter(None, (item.strip() for item in text.split(","))):
        pattern, _, value = item.partition("=")
        if not value:
            raise UserError(f"{item!r} names no weights: write METHOD=shipped, METHOD=random or METHOD=FILE.")
        chosen.update(dict.fromkeys(select(pattern, methods, "chosen method with weights"), value))
    return chosen
