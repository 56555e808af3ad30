"""Where the time, the multiply-adds and the memory of a method go, part by part."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.compute import Compute, acceleration_name, prepare_torch, ready, uncompiled
from bench.inference import compiler_failure, is_out_of_memory, warm_up_compiler
from bench.memory import choose_chunk, format_size
from bench.selection import MAX_SCALE
from methods.errors import UserError

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from methods.base import SRMethod

MAX_SIDE = 4096
MAX_REPEATS = 1000
_SIDES = re.compile(r"([0-9]{1,9})(?:x([0-9]{1,9}))?")


@dataclass(frozen=True)
class PartCost:
    """One part of a method, `"other"` for what no part was named for; of several blocks of one name, their sum."""

    name: str
    macs: int
    """Multiply-adds of matrix products and convolutions."""
    ms: float
    """Milliseconds, median over the repeats."""
    peak_bytes: int
    """Most bytes of tensors alive at once during it, weights and LR image left out."""

    @property
    def gflops(self) -> float:
        """GFLOP/s reached."""
        return 2 * self.macs / (1e6 * self.ms) if self.ms else 0.0


@dataclass(frozen=True)
class Profile:
    """What an inference costs."""

    parts: tuple[PartCost, ...]
    """In the order in which they first ran."""
    ms: float
    """Milliseconds of the whole, median over the repeats."""
    peak_bytes: int
    """As of the parts."""
    parameters: int
    weight_bytes: int
    matmul_gflops: float
    """GFLOP/s of a product of 4096 x 256 by 256 x 256 numbers here: what can be hoped for."""
    chunk: int | None
    """Queries at a time; None: the method's own choice."""
    device: str
    dtype: str
    acceleration: str
    threads: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all parts."""
        return sum(part.macs for part in self.parts)


def profile(
    method: str,
    backbone: str | None = None,
    *,
    lr_size: tuple[int, int] = (180, 180),
    scale: float = 4.0,
    weights: str = "random",
    options: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    max_memory: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    channels_last: bool = False,
    compiled: bool = False,
    repeats: int = 3,
) -> Profile:
    """Measure a method on a random image of (h, w) pixels, after one warm-up.

    Time is measured without counting anything else. max_memory: bytes below which tensors are kept by the chunk.

    Raises:
        UserError: something of it is unknown or out of range, or memory does not suffice.
    """
    if not all(1 <= side <= MAX_SIDE for side in lr_size):
        raise UserError(f"An LR image of {lr_size[1]}x{lr_size[0]} is out of range: sides go from 1 to {MAX_SIDE}.")
    if not 0 < scale <= MAX_SCALE:
        raise UserError(f"The scale {scale:g} is out of range: it goes up to {MAX_SCALE}.")
    if chunk is not None and (chunk < 1 or max_memory is not None):
        raise UserError(f"A chunk of {chunk} queries cannot be meant: give one from 1, or a limit of memory instead.")
    if not 1 <= repeats <= MAX_REPEATS:
        raise UserError(f"{repeats} repeats are out of range: give a number from 1 to {MAX_REPEATS}.")
    compute = prepare_torch(device, dtype, threads=threads, channels_last=channels_last, compiled=compiled)
    model = ready(method, backbone, compute, weights=weights, options=options)
    try:
        return _profile(model, lr_size, scale, chunk, max_memory, compute, repeats)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise UserError(f"Memory ran out on {compute.device}: choose a smaller image or chunk.") from error
        if failure := compiler_failure(error):
            raise UserError(failure) from error
        raise


def _profile(
    model: SRMethod,
    lr_size: tuple[int, int],
    scale: float,
    chunk: int | None,
    max_memory: int | None,
    compute: Compute,
    repeats: int,
) -> Profile:
    import torch

    from bench.tracking import tracking

    out_size = max(1, round(lr_size[0] * scale)), max(1, round(lr_size[1] * scale))
    image = torch.rand(1, 3, *lr_size, generator=torch.Generator().manual_seed(0))
    lr = compute.arranged(image.to(compute.device, compute.dtype))
    if max_memory is not None:
        chunk = choose_chunk(model, lr, out_size, scale, max_memory, autocast=compute.autocast is not None)

    def run() -> None:
        torch.manual_seed(0)
        model(lr, out_size, scale, chunk=chunk)

    with compute.inferring():
        with uncompiled(model), tracking() as tracker:
            run()
        if compute.compiled:
            warm_up_compiler(model, lr)
        times = [_times(run, compute.device) for _ in range(repeats)]
        rate = matmul_gflops(compute.device, compute.autocast or compute.dtype)
    names = [name for name in tracker.parts if name != "other"] + ["other"]
    parts = tuple(
        PartCost(name, work.macs, 1e3 * median(t.get(name, 0.0) for t in times), work.peak)
        for name in names
        if (work := tracker.parts.get(name))
    )
    weights = list(model.parameters())
    return Profile(
        parts=parts,
        ms=1e3 * median(sum(t.values()) for t in times),
        peak_bytes=tracker.peak,
        parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(weight.nbytes for weight in weights),
        matmul_gflops=rate,
        chunk=chunk,
        device=str(compute.device),
        dtype=compute.dtype_name,
        acceleration=acceleration_name(compute.channels_last, compute.compiled) if hasattr(model, "encoder") else "",
        threads=torch.get_num_threads(),
    )


def _times(run: Callable[[], None], device: torch.device) -> dict[str, float]:
    """Seconds per part of one run, those of inner parts not counted in outer ones."""
    from methods.parts import listening

    clock = _Clock(device)
    with listening(clock.part), clock.part("other"):
        run()
    return clock.seconds


class _Clock:
    """Adds up the time of nested parts."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device, self._names, self._since = device, ["other"], 0.0

    def part(self, name: str) -> AbstractContextManager[None]:
        return self._part(name)

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        self._stop()
        self._names.append(name)
        try:
            yield
        finally:
            self._stop()
            self._names.pop()

    def _stop(self) -> None:
        """Account the time since the last change to the part that was running."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if len(self._names) > 1:
            name = self._names[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a product of 4096 x 256 by 256 x 256 numbers, the best of some repeats."""
    import torch

    from bench.cost.ceilings import best_seconds

    left, right = (torch.rand(n, 256).to(device, dtype) for n in (4096, 256))
    return 2e-9 * 4096 * 256 * 256 / best_seconds(lambda: left @ right, device, 0.25)


def parse_sides(text: str) -> tuple[int, int]:
    """(h, w) of an image's size as typed: 180, or 180x120, the width first.

    Raises:
        UserError: it is none.
    """
    match = _SIDES.fullmatch(text.strip())
    if not match:
        raise UserError(f"{text!r} is not the size of an image: write it like 180, or 180x120 (width x height).")
    return int(match[2] or match[1]), int(match[1])


def profile_table(found: Profile, title: str) -> Table:
    """A line per part and one for the whole."""
    from bench.console import table

    headings = ("part", "MACs (G)", "time (ms)", "share", "GFLOP/s", "peak (MiB)")
    grid = table(title, *headings, right=headings[1:])
    whole = PartCost("total", found.macs, found.ms, found.peak_bytes)
    for part in (*found.parts, whole):
        grid.add_row(
            part.name,
            f"{part.macs / 1e9:.3f}",
            f"{part.ms:.1f}",
            f"{part.ms / found.ms:.1%}",
            f"{part.gflops:.1f}",
            f"{part.peak_bytes / 2**20:.1f}",
        )
    return grid


def profile_notes(found: Profile) -> tuple[str, str]:
    """Two sentences below the table: what was computed, and what the machine could do."""
    whole = PartCost("total", found.macs, found.ms, found.peak_bytes)
    how = ", ".join(filter(None, (found.device, found.dtype, found.acceleration)))
    chunk = "the method's own choice of" if found.chunk is None else f"{found.chunk:,}"
    return (
        f"{found.parameters:,} parameters, {format_size(found.weight_bytes)} beside the peak; {how}, "
        f"{found.threads} CPU thread{'s' * (found.threads > 1)}, {chunk} queries at a time.",
        f"A matrix product of 4096x256 by 256x256 runs at {found.matmul_gflops:.1f} GFLOP/s here; the whole reaches "
        f"{whole.gflops / found.matmul_gflops:.0%} of that.",
    )
