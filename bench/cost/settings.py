"""What a user asked to be measured, checked: the flags of `cost` as one frozen object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.cost.protocols import DEFAULT_COST_PROTOCOL, CostProtocol, get
from bench.protocol import DEFAULT_PROTOCOL
from bench.settings import RunSettings, make_settings
from methods.errors import UserError
from methods.names import resolve

DEFAULT_SCALES = "2,3,4,6,8,12"
"""Those of the paper's Table 3."""
MIN_SIDE, MAX_SIDE = 16, 8192
MAX_REPEATS = 10_000
MAX_CHUNK = 2**31 - 1
_TF32 = {"none": "", "matmul": "matmul", "conv": "conv", "all": "matmul+conv"}
_RANGE = re.compile(r"([0-9]{1,6})\.\.([0-9]{1,6})")


@dataclass(frozen=True)
class CostSettings:
    """What to measure and how; made by `make_cost_settings`, which checks it."""

    run: RunSettings
    """Networks, images and scales, as for `run`."""
    protocol: CostProtocol
    """As it is followed, with what the user changed of it."""
    crops: tuple[int, ...]
    """Sides of the GT patches in pixels, ascending."""
    tf32: str | None = None
    """matmul, conv, matmul+conv, or "" for neither; None: torch's choice."""
    autotune: bool | None = None
    threads: int | None = None
    chunk: int | None = None
    """Queries at a time; None: the method's own choice."""
    processes: int = 1
    """Over so many fresh processes the repeats of a cell are shared out: on a busy machine, processes that do the same
    differ from each other for as long as they live."""

    def facts(self) -> dict[str, Any]:
        """What a manifest adds to the settings that `run` has, too."""
        own = self.as_dict()
        del own["run"]
        return own

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {**asdict(self), "run": self.run.as_dict(), "protocol": self.protocol.as_dict()}


def make_cost_settings(
    *,
    protocol: str = DEFAULT_COST_PROTOCOL,
    evaluation: str | None = None,
    scales: str = DEFAULT_SCALES,
    crop: int | None = None,
    sizes: str | None = None,
    images: int | None = None,
    warmups: int | None = None,
    repeats: int | None = None,
    tf32: str | None = None,
    autotune: bool | None = None,
    threads: int | None = None,
    chunk: int | None = None,
    processes: int | None = None,
    **flags: Any,
) -> CostSettings:
    """Check the flags of `cost`, as typed.

    Args:
        protocol: name of the cost protocol.
        evaluation: name of the evaluation protocol; None: the usual one.
        scales: as for `run`.
        crop: side of the GT patch; None: the protocol's.
        sizes: several sides, as parse_sizes reads them; instead of `crop`.
        images: different inputs; None: the protocol's.
        warmups: None: the protocol's.
        repeats: None: the protocol's.
        tf32: none, matmul, conv or all; None: torch's choice.
        autotune: whether cuDNN tries its algorithms out; None: torch's choice.
        threads: CPU threads; None: torch's choice.
        chunk: queries at a time; None: the method's own choice.
        processes: fresh processes per cell; None: one.
        flags: as `make_settings` takes them.

    Raises:
        UserError: one of them cannot be meant; the sentence names it.
    """
    named = get(protocol)
    if crop is not None and sizes is not None:
        raise UserError("--crop and --sizes both set the size of the patches: give one of them.")
    crops = parse_sizes(sizes) if sizes else (crop or named.crop,)
    for side in crops:
        _check(side, MIN_SIDE, MAX_SIDE, "A patch of {0}x{0} pixels")
    for value, least, most, what in (
        (images, 1, 10**6, "{} inputs"),
        (warmups, 0, MAX_REPEATS, "{} warm-ups"),
        (repeats, 1, MAX_REPEATS, "{} repeats"),
        (threads, 1, 1024, "{} threads"),
        (chunk, 1, MAX_CHUNK, "A chunk of {} queries"),
        (processes, 1, MAX_REPEATS, "{} processes"),
    ):
        if value is not None:
            _check(value, least, most, what)
    changes = {"images": images, "warmups": warmups, "repeats": repeats, "crop": crops[0] if crop else None}
    run = make_settings(scales=scales, protocol=evaluation or DEFAULT_PROTOCOL, **flags)
    return CostSettings(
        run=run,
        protocol=_changed(named, {name: value for name, value in changes.items() if value is not None}),
        crops=crops,
        tf32=None if tf32 is None else _TF32[resolve(tf32, _TF32, "use of TF32")],
        autotune=autotune,
        threads=threads,
        chunk=chunk,
        processes=processes or 1,
    )


def parse_sizes(text: str) -> tuple[int, ...]:
    """Sides in pixels: a comma list, or `64..1024` for 64 and its doubles up to 1024.

    Raises:
        UserError: it is neither, or not a size.
    """
    if match := _RANGE.fullmatch(text.strip()):
        first, last = int(match[1]), int(match[2])
        if not 0 < first <= last:
            raise UserError(f"The sizes {text!r} run backwards: write the smaller first, as 64..1024.")
        found = [first]
        while found[-1] * 2 <= last:
            found.append(found[-1] * 2)
        return tuple(found if found[-1] == last else [*found, last])
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"{text!r} are not sizes: write a list such as 128,256,512, or 64..1024.") from None


def _check(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise UserError(f"{what.format(value)} is out of range: give a number from {least} to {most}.")


def _changed(protocol: CostProtocol, changes: Mapping[str, Any]) -> CostProtocol:
    """A protocol that was changed does not go by its name alone."""
    differing = {name: value for name, value in changes.items() if value != getattr(protocol, name)}
    if not differing:
        return protocol
    marks = ", ".join(f"{name} {value}" for name, value in differing.items())
    return replace(
        protocol, **differing, name=f"{protocol.name} ({marks})", title=f"{protocol.title}; but here {marks}"
    )
