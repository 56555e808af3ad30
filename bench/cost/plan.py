"""Which cells a cost run measures, and what is tried when memory runs out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from bench.cost.jobs import Job
from bench.cost.rows import Fallback
from bench.cost.settings import CostSettings
from bench.env import cpu_model, likely_device, nvidia_gpus
from bench.keys import image_sha256, numbers_sha256
from bench.plan import Cell, Plan

CHUNKS = (16384, 4096, 1024)
"""Queries at a time that are tried where a method's own choice needs too much memory."""
TILES = (256, 128, 64, 32)
"""Sides of LR tiles that are tried where no chunk is small enough."""


@dataclass(frozen=True)
class CostCell:
    """One network at one scale and size."""

    cell: Cell
    job: Job
    row_key: str


@dataclass(frozen=True)
class Attempt:
    """A job, and what it stands in for."""

    job: Job
    fallback: Fallback
    row_key: str


def cost_cells(plan: Plan, settings: CostSettings) -> list[CostCell]:
    """The cells of a plan that can be measured, at every size."""
    return [_cost_cell(cell, settings, crop) for cell in plan.cells if not cell.problem for crop in settings.crops]


def attempts(cell: CostCell) -> Iterator[Attempt]:
    """The cell as asked for, then with ever less memory; a chunk that the user set is the largest tried."""
    yield Attempt(cell.job, "", cell.row_key)
    chunks = [chunk for chunk in CHUNKS if cell.job.chunk is None or chunk < cell.job.chunk]
    for chunk in chunks:
        yield _attempt(cell, replace(cell.job, chunk=chunk), "chunks")
    for tile in TILES:
        if tile < cell.job.crop / cell.job.scale:
            yield _attempt(cell, replace(cell.job, tile_lr=tile), "tiles")


def _attempt(cell: CostCell, job: Job, fallback: Fallback) -> Attempt:
    text = f"{cell.row_key} {fallback} {job.chunk} {job.tile_lr}"
    return Attempt(job, fallback, hashlib.sha256(text.encode()).hexdigest())


def _cost_cell(cell: Cell, settings: CostSettings, crop: int) -> CostCell:
    run, protocol = settings.run, settings.protocol
    job = Job(
        method=cell.method,
        backbone=cell.backbone,
        weights=_absolute(run.weights.get(cell.method, "shipped")),
        options=cell.options,
        evaluation=run.protocol,
        cell=run.cell,
        dataset=_absolute(_source(cell, settings)),
        data_root=str(run.data_root.absolute()) if run.data_root else None,
        scale=cell.scale,
        crop=crop,
        images=protocol.images,
        metrics=run.metrics or run.evaluation().rules(cell.family).metrics,
        seed=run.seed,
        device=run.device,
        dtype=run.dtype,
        channels_last=run.channels_last,
        compiled=run.compiled,
        tf32=settings.tf32,
        autotune=settings.autotune,
        threads=settings.threads,
        chunk=settings.chunk,
    )
    return CostCell(cell, job, _key(cell, job, settings))


def _source(cell: Cell, settings: CostSettings) -> str:
    """The dataset as the user named it: a folder's name alone would not be found again."""
    for given in settings.run.datasets:
        if given == cell.dataset or Path(given).name == cell.dataset:
            return given
    return cell.dataset


def _absolute(name: str) -> str:
    """Paths as the measuring process finds them, which works in another folder; names as they are."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() and name not in ("shipped", "official", "random") else name


def _key(cell: Cell, job: Job, settings: CostSettings) -> str:
    assert cell.checkpoint is not None
    facts = {
        "protocol": settings.protocol.as_dict(),
        "evaluation": settings.run.evaluation().as_dict(),
        "job": {**asdict(job), "data_root": None, "dataset": cell.dataset, "weights": cell.checkpoint.label},
        "weights": cell.checkpoint.sha256,
        "images": [image_sha256(image) for image in cell.images[: job.images]],
        "machine": machine(job.device),
        "code": [numbers_sha256(), _cost_sha256()],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def machine(device: str) -> str:
    """Model of the GPU or CPU that a device stands for."""
    if not likely_device(device).startswith("cuda"):
        return cpu_model() or "unknown CPU"
    return ", ".join(gpu["name"] for gpu in nvidia_gpus()[0]) or "unknown GPU"


@cache
def _cost_sha256() -> str:
    """The sha256 over the code that measures."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
