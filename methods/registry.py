"""What the suite knows about its methods and encoders without importing torch.

Adding a method means one file with an `SRMethod` subclass, its parity cases, and one `MethodSpec` below (or, outside
this repository, an entry point of the group `asrbench.methods` that names a `MethodSpec`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from methods.errors import UserError
from methods.names import resolve

ENTRY_POINT_GROUP = "asrbench.methods"


@dataclass(frozen=True)
class MethodSpec:
    """One super-resolution method: what lists print, what tables order by, where its class is."""

    name: str
    title: str
    """As tables print it."""
    paper: str
    target: str
    """Where the `SRMethod` subclass is, as `"module:Class"`; imported only when the method is loaded."""
    backbones: tuple[str, ...]
    """Encoders that it runs on; empty when it needs none."""
    order: int
    """Column order in tables: the paper's."""
    learned: bool = True
    square_scale_only: bool = False
    """Whether the two axes must share one scale."""
    deterministic: bool = True


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder (backbone): RGB in, `hparams["channels"]` (default 64) feature channels out, same resolution."""

    name: str
    title: str
    target: str
    hparams: Mapping[str, Any] = field(default_factory=dict)


_METHODS: dict[str, MethodSpec] = {}
_FULL = ("edsr-baseline", "rdn", "edsr-micro")

ENCODERS: Mapping[str, EncoderSpec] = {
    spec.name: spec
    for spec in (
        EncoderSpec("edsr-baseline", "EDSR-baseline", "methods.encoders.edsr:EDSR", {"blocks": 16, "channels": 64}),
        EncoderSpec("rdn", "RDN", "methods.encoders.rdn:RDN"),
        EncoderSpec("swinir", "SwinIR", "methods.encoders.swinir:SwinIR"),
        EncoderSpec("edsr-micro", "EDSR-micro", "methods.encoders.edsr:EDSR", {"blocks": 6, "channels": 48}),
    )
}


def register(spec: MethodSpec) -> MethodSpec:
    """Add a method.

    Raises:
        UserError: another method has this name.
    """
    if _METHODS.get(spec.name, spec) != spec:
        targets = f"{_METHODS[spec.name].target} and {spec.target}"
        raise UserError(f"Two methods are called {spec.name!r} ({targets}): rename one.")
    _METHODS[spec.name] = spec
    return spec


register(MethodSpec("bicubic", "Bicubic", "Keys, IEEE TASSP 1981", "methods.bicubic:Bicubic", (), 0, learned=False))
register(MethodSpec("liif", "LIIF", "Chen et al., CVPR 2021, arXiv 2012.09161", "methods.liif:LIIF", _FULL, 20))
register(
    MethodSpec(
        "gsasr",
        "GSASR",
        "Chen et al., 2025, arXiv 2501.06838",
        "methods.gsasr:GSASR",
        _FULL,
        90,
        square_scale_only=True,
    )
)


@cache
def _load_plugins() -> None:
    for point in entry_points(group=ENTRY_POINT_GROUP):
        found = point.load()
        if not isinstance(found, MethodSpec):
            raise UserError(f"The plug-in {point.name!r} ({point.value}) is not a MethodSpec: point it at one.")
        register(found)


def list_methods(pattern: str = "*") -> list[MethodSpec]:
    """The methods whose names match a wildcard, in table order."""
    _load_plugins()
    return sorted((s for s in _METHODS.values() if fnmatchcase(s.name, pattern)), key=lambda s: (s.order, s.name))


def method_spec(name: str) -> MethodSpec:
    """The method called `name`.

    Raises:
        UserError: there is none.
    """
    _load_plugins()
    return _METHODS[resolve(name, [s.name for s in list_methods()], "method")]


def encoder_spec(name: str) -> EncoderSpec:
    """The encoder called `name`.

    Raises:
        UserError: there is none.
    """
    return ENCODERS[resolve(name, ENCODERS, "backbone")]
