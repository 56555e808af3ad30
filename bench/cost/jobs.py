"""What the measuring process and its client tell each other: lines of JSON, one dataclass each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from bench.rows import Status
from bench.schema import parse

VERSION = 1
"""Of the messages; a checkout that measures for another must speak the same."""


@dataclass(frozen=True)
class Job:
    """One cell to measure, complete: a process that is told it needs nothing else."""

    method: str
    backbone: str
    weights: str
    """shipped, official, random or an absolute path."""
    options: Mapping[str, Any]
    evaluation: str
    """Name of the evaluation protocol."""
    cell: str | None
    """Cell rule that replaces the protocol's."""
    dataset: str
    """Name, or a folder's absolute path."""
    data_root: str | None
    scale: float
    crop: int
    images: int | None
    metrics: tuple[str, ...]
    seed: int
    device: str
    dtype: str
    channels_last: bool = False
    compiled: bool = False
    tf32: str | None = None
    """matmul, conv, both joined by +, "" for neither; None: torch's choice."""
    autotune: bool | None = None
    threads: int | None = None
    chunk: int | None = None
    tile_lr: int | None = None
    count: bool = True
    """Whether to count multiply-adds in the end, which takes seconds and comes out the same for the same cell."""


@dataclass(frozen=True)
class Shape:
    """One input of the cell: (h, w) in pixels of what goes in and of what comes out."""

    image: str
    lr: tuple[int, ...]
    sr: tuple[int, ...]


@dataclass(frozen=True)
class Loaded:
    """A network is ready to be measured; what is known before anything has run."""

    version: int
    options: str
    """In force, as JSON with sorted keys."""
    label: str
    sha256: str | None
    shapes: tuple[Shape, ...]
    device: str
    device_name: str
    dtype: str
    acceleration: str
    tf32: str
    autotune: bool
    compute: Mapping[str, Any]
    """As the manifest describes it."""
    rasterizer: Mapping[str, Any]
    rss_base_mib: float | None
    nvml_base_mib: float | None
    absent: Mapping[str, str]
    """Why numbers are missing, by column."""


@dataclass(frozen=True)
class Repeat:
    """One timed inference."""

    image: str
    measured_at: float
    latency_ms: float
    device_ms: float | None
    cpu_ms: float
    calibration_ms: float
    alloc_peak_mib: float | None
    reserved_peak_mib: float | None
    rss_peak_mib: float | None
    cpu_mhz: float | None
    digest: str
    """Of the output; outputs of equal digests are equal."""


@dataclass(frozen=True)
class Finished:
    """What is found out after the repeats: outputs checked and scored, the GPU as it was meanwhile."""

    drift: Mapping[str, float]
    """By digest: largest difference from the scored output, both cut to [0, 1]."""
    scores: Mapping[str, Mapping[str, float | None]]
    """By image, then metric."""
    gmacs: float | None
    """Multiply-adds of the first input in 1e9."""
    padded: Mapping[str, tuple[int, ...]]
    """By image: (h, w) of what the encoder sees, where there is one."""
    gpu: Mapping[str, Any] = field(default_factory=dict)
    """Columns that are the same in all rows of the cell."""
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The command could not be carried out, for this reason; user: it is a mistake of the user's."""

    status: Status
    reason: str
    user: bool = False


Answer = Loaded | Repeat | Finished | Failed
Command = Literal["load", "warm", "measure", "finish"]
_KINDS: Mapping[str, type[Any]] = {kind.__name__: kind for kind in (Loaded, Repeat, Finished, Failed)}


def to_line(message: Any) -> str:
    """A message as one line, without the newline."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}, allow_nan=False)


def from_line(line: str) -> Any:
    """The answer on a line.

    Raises:
        ValueError: it is none.
    """
    content = json.loads(line)
    kind = _KINDS[content.pop("kind")]
    known = {item.name for item in fields(kind)}  # a newer checkout may say more
    return parse(kind, {key: value for key, value in content.items() if key in known}, "the worker's answer")


def job_from(content: Mapping[str, Any]) -> Job:
    """The job in a command."""
    return parse(Job, content, "the job")
