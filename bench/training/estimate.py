"""What a training would take: a few steps of it are done, and thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.memory import format_size
from bench.tracking import tracking
from bench.training.loop import data_folder, make_accelerator
from bench.training.patches import PatchSampler
from bench.training.pool import open_pool
from bench.training.recipe import load_recipe
from bench.training.run import Run

STEPS = 3
"""That are timed, after one for warming up."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a training on this machine."""

    name: str
    steps: int
    parameters: int
    macs: int
    """Multiply-adds per step, forwards and backwards."""
    images: int
    windows: int
    """Places that patches are cut from."""
    state_bytes: int
    """Weights, gradients, the optimiser's two moments, the average."""
    peak_bytes: int
    """Most bytes of other tensors alive at once during a step."""
    step_seconds: float
    data_share: float

    @property
    def hours(self) -> float:
        """Of all steps, validation left out."""
        return self.steps * self.step_seconds / 3600


def estimate(
    source: str | Path, *, data_root: str | Path | None = None, overrides: Iterable[str] = (), device: str = "auto"
) -> Estimate:
    """Measure some steps of a recipe.

    Raises:
        UserError: as `train`.
    """
    recipe = load_recipe(source, overrides)
    torch.set_num_threads(recipe.threads)
    accelerator = make_accelerator(recipe, device)
    pool, _ = open_pool(data_folder(data_root), recipe)
    sampler, run = PatchSampler(pool.images, recipe), Run(recipe, accelerator)
    with FlopCounterMode(display=False) as counter, tracking() as tracker:
        run.update(sampler)
    found, data = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        sampler(run.step, device=accelerator.device)
        data.append(time.perf_counter() - start)
        run.update(sampler)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize(accelerator.device)
        found.append(time.perf_counter() - start - data[-1])
    weights = sum(parameter.nbytes for parameter in run.model.parameters())
    return Estimate(
        name=Path(source).stem,
        steps=recipe.steps,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        macs=counter.get_total_flops() // 2,
        images=len(pool.images),
        windows=len(sampler.windows),
        state_bytes=5 * weights,
        peak_bytes=tracker.peak,
        step_seconds=median(found),
        data_share=median(data) / median(found),
    )


def print_estimate(found: Estimate) -> None:
    """Print an estimate as a table."""
    from rich.table import Table

    from bench.console import console

    table = Table(title=found.name, title_justify="left", show_header=False, box=None)
    rows: list[tuple[str, Any]] = [
        ("parameters", f"{found.parameters:,}"),
        ("multiply-adds per step", f"{found.macs / 1e9:.1f} G, forwards and backwards"),
        ("memory", f"{format_size(found.state_bytes)} of state, {format_size(found.peak_bytes)} during a step"),
        ("images", f"{found.images:,}, {found.windows:,} places to cut patches from"),
        ("a step", f"{found.step_seconds:.3f} s, of which data {found.data_share:.1%}"),
        ("all steps", f"{found.steps:,}: {found.hours:.2f} hours here, without validation"),
    ]
    for row in rows:
        table.add_row(*row)
    console().print(table)
