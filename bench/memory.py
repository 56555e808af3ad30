"""How much memory an inference needs, found without needing it: on the meta device. Chooses chunks to fit a limit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from bench.compute import uncompiled
from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.tracking import Tracker
    from methods.base import SRMethod

CHUNKS = (16384, 8192, 4096, 2048, 1024)
"""Queries at a time that are tried where a method's own choice needs too much; fewer hardly save any more."""
_UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1e3, "mb": 1e6, "gb": 1e9, "b": 1, "": 1}
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([kmg]?i?b?)", re.IGNORECASE)
_needed: WeakKeyDictionary[nn.Module, dict[Any, int]] = WeakKeyDictionary()
"""Per model, by everything else that matters: bytes at the peak."""


class TooLittleMemory(UserError):
    """Not even the smallest chunk stays below a limit."""


class NoEstimate(UserError):
    """A method does not run on the meta device."""


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MiB, 2GiB or 1.5GB.

    Raises:
        UserError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match or match[2].lower() not in _UNITS or not (size := int(float(match[1]) * _UNITS[match[2].lower()])):
        raise UserError(f"{text!r} is not an amount of memory: write it like 512MiB or 2GiB.")
    return size


def format_size(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def peak_bytes(
    model: SRMethod,
    lr: Tensor,
    out_size: tuple[int, int],
    scale: float | tuple[float, float] | None,
    chunk: int | None = None,
    *,
    autocast: bool = False,
) -> int:
    """Most bytes of tensors alive at once during an inference, weights and image included; nothing is computed.

    lr: (B, 3, h, w), of which only size and type matter. autocast: count the weights half again, whose 16-bit copies
    are kept; what networks hold between layers is counted as if it were not halved.

    Raises:
        NoEstimate: the method does not run on the meta device.
    """
    key = lr.shape, lr.dtype, out_size, scale, chunk
    known = _needed.setdefault(model, {})
    if key not in known:
        known[key] = _peak_bytes(model, lr, out_size, scale, chunk)
    return known[key] + autocast * sum(value.nbytes // 2 for value in model.parameters())


def _peak_bytes(model: SRMethod, lr: Tensor, out_size: Any, scale: Any, chunk: int | None) -> int:
    try:
        tracker = _track(model, lr, out_size, scale, chunk)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NoEstimate(f"How much memory it needs cannot be told ({reason}): leave out --max-memory.") from error
    state = (*model.parameters(), *model.buffers())
    peak: int = tracker.peak + lr.nbytes + sum(value.nbytes for value in state)
    return peak


def _track(model: SRMethod, lr: Tensor, out_size: Any, scale: Any, chunk: int | None) -> Tracker:
    """Run on the meta device, where nothing is computed, and count."""
    import torch
    from torch.func import functional_call

    from bench.tracking import tracking

    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    ghosts = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    image = torch.empty_like(lr, device="meta")
    with uncompiled(model), torch.inference_mode(), tracking() as tracker:
        functional_call(model, ghosts, (image, out_size, scale), {"chunk": chunk})
    return tracker


@dataclass(frozen=True)
class Work:
    """What an inference does, as far as it can be told without computing."""

    macs: int
    """Multiply-adds of matrix products and convolutions."""
    encoder_size: tuple[int, int] | None
    """(h, w) of the image that the encoder sees, padding included; None for methods without one."""


def count_work(
    model: SRMethod,
    lr: Tensor,
    out_size: tuple[int, int],
    scale: float | tuple[float, float] | None,
    chunk: int | None = None,
) -> Work:
    """Count an inference on the meta device; arguments and errors as `peak_bytes`."""
    seen: list[tuple[int, int]] = []
    encoder = getattr(model, "encoder", None)
    hook = encoder and encoder.register_forward_pre_hook(lambda _, images: seen.append(tuple(images[0].shape[-2:])))
    try:
        macs = _track(model, lr, out_size, scale, chunk).macs
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NoEstimate(f"What it computes cannot be counted ({reason}).") from error
    finally:
        if hook:
            hook.remove()
    return Work(macs, seen[0] if seen else None)


def choose_chunk(
    model: SRMethod,
    lr: Tensor,
    out_size: tuple[int, int],
    scale: float | tuple[float, float] | None,
    limit: int,
    *,
    autocast: bool = False,
) -> int | None:
    """The most queries at a time that keep an inference below `limit` bytes; None: the method's own choice does.

    Other arguments: as `peak_bytes`.

    Raises:
        TooLittleMemory: not even the smallest chunk fits; the sentence says what would.
        NoEstimate: as `peak_bytes`.
    """

    least = 0
    for chunk in (None, *CHUNKS):  # the largest first: trying takes time for every operator
        least = peak_bytes(model, lr, out_size, scale, chunk, autocast=autocast)
        if least <= limit:
            return chunk
    raise TooLittleMemory(
        f"An image of {lr.shape[-1]}x{lr.shape[-2]} pixels needs at least {format_size(least)} for "
        f"{out_size[1]}x{out_size[0]}, more than {format_size(limit)}: allow more, or cut the image."
    )
