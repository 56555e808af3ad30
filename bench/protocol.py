"""Frozen, named evaluation protocols: how LR and GT are made from an HR image, what is scored, on which pixels.

PSNR moves by up to 2 dB with choices that papers rarely spell out, so every result carries its protocol in full and
tables never mix two of them. Importing this module costs nothing: it is data and integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import floor, isfinite
from types import MappingProxyType
from typing import Any, Literal, get_args

from methods.errors import UserError
from methods.names import resolve

Size = tuple[int, int]
BorderRule = Literal["scale, at most 8", "scale", "scale + 6"]
SizeRule = Literal["gt = floor(floor(hr / scale) * scale)", "gt = round(lr * scale)"]
CellRule = Literal["published", "true", "clipped"]
CELL_RULES: tuple[CellRule, ...] = get_args(CellRule)


@dataclass(frozen=True)
class FamilyRules:
    """What depends on the kind of dataset."""

    metrics: tuple[str, ...]
    """Names of `bench.metrics.METRICS`, in table order."""
    border: BorderRule
    """Pixels cut from all four sides before any metric; the scale is truncated to an integer."""
    ready_lr_scales: tuple[int, ...] = ()
    """Scales at which the dataset's own LR files are used; where it has none, MATLAB's bicubic makes them again."""


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate super-resolution, complete enough to repeat it."""

    name: str
    title: str
    source: str
    resampler: Literal["basicsr", "matlab", "pillow"]
    """Variant of `bench.resize.resize` that makes LR images."""
    size_rule: SizeRule
    quantize: bool
    """Whether SR is rounded to 8 bits (half to even) before scoring; it is clamped to [0, 1] either way."""
    benchmark: FamilyRules
    """For Set5, Set14, BSDS100, Urban100 and the like."""
    div2k: FamilyRules
    """For DIV2K and LSDIR."""
    cell: CellRule = "published"
    """What size of pixel methods with a cell input are told beyond the scales they were trained on: the true one, one
    clipped to these scales, or as each method's authors evaluate."""

    def rules(self, family: str = "benchmark") -> FamilyRules:
        """The rules of a dataset family, "benchmark" or "div2k".

        Raises:
            UserError: there is no such family.
        """
        known = {"benchmark": self.benchmark, "div2k": self.div2k}
        return known[resolve(family, known, "dataset family")]

    def border(self, scale: float, family: str = "benchmark") -> int:
        """Pixels to cut from each side of SR and GT."""
        border = int(scale)
        match self.rules(family).border:
            case "scale, at most 8":
                return min(border, 8)
            case "scale + 6":
                return border + 6
            case "scale":
                return border

    def sizes(self, hr_size: Size, scale: float) -> tuple[Size, Size]:
        """(GT size, LR size) that an HR image of (H, W) pixels gives; no image is needed, so plans can ask.

        Raises:
            UserError: the scale is below 1 or not finite, or the image holds no LR pixel at this scale.
        """
        if not (isfinite(scale) and scale >= 1):
            raise UserError(f"Scale {scale:g} is not super-resolution: give a finite number of at least 1.")
        lr_size = _lr_side(hr_size[0], scale, self.size_rule), _lr_side(hr_size[1], scale, self.size_rule)
        if min(lr_size) < 1:
            raise UserError(
                f"An image of {hr_size[1]}x{hr_size[0]} pixels is too small for scale {scale:g}, "
                "its LR would be empty: leave out this scale or this image."
            )
        return self.gt_size(lr_size, scale), lr_size

    def gt_size(self, lr_size: Size, scale: float) -> Size:
        """The size of the GT, and of every SR image, that belongs to an LR of `lr_size` (h, w)."""
        whole = round if self.size_rule == "gt = round(lr * scale)" else floor
        return whole(lr_size[0] * scale), whole(lr_size[1] * scale)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, for the manifest."""
        return asdict(self)


def _lr_side(hr: int, scale: float, rule: SizeRule) -> int:
    # The margin is LIIF's, against quotients that fall just short of an integer.
    return floor(hr / scale + (1e-9 if rule == "gt = round(lr * scale)" else 0.0))


_GSASR_RULES = FamilyRules(metrics=("psnr_y", "ssim_y", "lpips", "dists"), border="scale, at most 8")
_GSASR = Protocol(
    name="gsasr",
    title="GSASR: Y channel, 8-bit SR, BasicSR bicubic LR, border min(scale, 8)",
    source="ChrisDud0257/GSASR @ 9d2eb64, XPixelGroup/BasicSR @ 8d56e3a",
    resampler="basicsr",
    size_rule="gt = floor(floor(hr / scale) * scale)",
    quantize=True,
    benchmark=_GSASR_RULES,
    div2k=_GSASR_RULES,
)
_LIIF = Protocol(
    name="liif",
    title="LIIF: unrounded SR, MATLAB LR to x4, then Pillow; benchmarks Y, border scale; DIV2K RGB, border scale + 6",
    source="yinboc/liif @ 4c833f8",
    resampler="pillow",
    size_rule="gt = round(lr * scale)",
    quantize=False,
    benchmark=FamilyRules(metrics=("psnr_y",), border="scale", ready_lr_scales=(2, 3, 4)),
    div2k=FamilyRules(metrics=("psnr_rgb",), border="scale + 6", ready_lr_scales=(2, 3, 4)),
)

DEFAULT_PROTOCOL = "gsasr"
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            _GSASR,
            replace(
                _GSASR,
                name="gsasr-matlab",
                title="GSASR's rules on LR images as MATLAB makes them",
                source="GSASR's rules; resampler of jbhuang0604/SelfExSR @ 8f6dd8c",
                resampler="matlab",
            ),
            replace(
                _GSASR,
                name="gsasr-pillow",
                title="GSASR's rules on LR images as Pillow makes them",
                source="GSASR's rules; resampler of Pillow",
                resampler="pillow",
            ),
            _LIIF,
        )
    }
)


def get(name: str = DEFAULT_PROTOCOL) -> Protocol:
    """The protocol called `name`.

    Raises:
        UserError: there is none.
    """
    return PROTOCOLS[resolve(name, PROTOCOLS, "protocol")]
