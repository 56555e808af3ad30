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
    """Authors, and where the text is."""
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
    """Whether the default options draw no random numbers."""
    venue: str = ""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters that differ from the class's defaults."""
    reference_names: tuple[str, ...] = ()
    """What official checkpoints and parity cases call this network."""


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder (backbone): RGB in, `hparams["channels"]` (default 64) feature channels out, same resolution."""

    name: str
    title: str
    target: str
    hparams: Mapping[str, Any] = field(default_factory=dict)


_METHODS: dict[str, MethodSpec] = {}
_CNN = ("edsr-baseline", "rdn", "edsr-micro")
_ALL = ("edsr-baseline", "rdn", "swinir", "edsr-micro")

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


for _spec in (
    MethodSpec("bicubic", "Bicubic", "Keys, IEEE TASSP 1981", "methods.bicubic:Bicubic", (), 0, learned=False),
    MethodSpec(
        "metasr",
        "Meta-SR",
        "Hu et al., arXiv 1903.00875",
        "methods.metasr:MetaSR",
        _ALL,
        10,
        venue="CVPR 2019",
        reference_names=("metasr",),
    ),
    MethodSpec(
        "liif",
        "LIIF",
        "Chen et al., arXiv 2012.09161",
        "methods.liif:LIIF",
        _ALL,
        20,
        venue="CVPR 2021",
        reference_names=("liif",),
    ),
    MethodSpec(
        "lte",
        "LTE",
        "Lee and Jin, arXiv 2111.08918",
        "methods.lte:LTE",
        _ALL,
        30,
        venue="CVPR 2022",
        reference_names=("lte", "lte-fast"),
    ),
    MethodSpec(
        "srno",
        "SRNO",
        "Wei and Zhang, arXiv 2303.02584",
        "methods.srno:SRNO",
        _CNN,
        40,
        venue="CVPR 2023",
        reference_names=("sronet", "srno"),
    ),
    MethodSpec(
        "linf",
        "LINF",
        "Yao et al., arXiv 2303.05156",
        "methods.linf:LINF",
        _ALL,
        50,
        venue="CVPR 2023",
        reference_names=("linf",),
    ),
    MethodSpec(
        "linf-patch",
        "LINF, 3x3 patches",
        "Yao et al., arXiv 2303.05156",
        "methods.linf:LINF",
        _ALL,
        51,
        venue="CVPR 2023",
        hparams={"patch": 3},
        reference_names=("linf-patch",),
    ),
    MethodSpec(
        "lmf",
        "LMF (LM-CiaoSR)",
        "He and Jin, arXiv 2404.16451",
        "methods.lmf:LMCiaoSR",
        _ALL,
        60,
        venue="CVPR 2024",
        reference_names=("lmciaosr",),
    ),
    MethodSpec(
        "lm-liif",
        "LM-LIIF",
        "He and Jin, arXiv 2404.16451",
        "methods.lmf:LMLIIF",
        _ALL,
        61,
        venue="CVPR 2024",
        reference_names=("lmliif",),
    ),
    MethodSpec(
        "lm-lte",
        "LM-LTE",
        "He and Jin, arXiv 2404.16451",
        "methods.lmf:LMLTE",
        _ALL,
        62,
        venue="CVPR 2024",
        reference_names=("lmlte",),
    ),
    MethodSpec(
        "ciaosr",
        "CiaoSR",
        "Cao et al., arXiv 2212.04362",
        "methods.ciaosr:CiaoSR",
        _ALL,
        70,
        venue="CVPR 2023",
        reference_names=("ciaosr",),
    ),
    MethodSpec(
        "gaussiansr",
        "GaussianSR",
        "Hu et al., arXiv 2407.18046",
        "methods.gaussiansr:GaussianSR",
        _CNN,
        80,
        square_scale_only=True,
        venue="AAAI 2025",
        reference_names=("gaussian-splatter", "gaussiansr"),
    ),
    MethodSpec(
        "gsasr",
        "GSASR",
        "Chen et al., arXiv 2501.06838",
        "methods.gsasr:GSASR",
        _ALL,
        90,
        square_scale_only=True,
        venue="arXiv 2025",
        reference_names=("gsasr",),
    ),
):
    register(_spec)


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


def by_reference_name(name: str) -> MethodSpec | None:
    """The method that official checkpoints call `name`; None if there is none."""
    return next((spec for spec in list_methods() if name in spec.reference_names), None)
