"""Row keys: a hash over everything that can change a number, so that a resumed run repeats exactly what it must."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.env import package_version

if TYPE_CHECKING:
    from bench.data import ImageRef

_PACKAGES = ("torch", "numpy", "scipy", "pillow")
_VARIABLES = ("ASRBENCH_RASTERIZER",)
_BENCH_SOURCES = (
    *("protocol", "pairs", "resize", "images", "data", "cache"),
    *("compute", "inference", "runner", "scoring", "metrics", "perceptual"),
)
_SUFFIXES = frozenset({".py", ".cu", ".cuh", ".cpp", ".h"})


@dataclass(frozen=True)
class Facts:
    """What a row is about and what its numbers depend on, its image aside."""

    protocol: Mapping[str, Any]
    """The protocol's whole content."""
    method: str
    backbone: str
    weights: str | None
    """The checkpoint's sha256; where there is no file, its label."""
    options: Mapping[str, Any]
    dataset: str
    """Keeps rows of equal images in two datasets apart."""
    family: str
    scale: float
    device: str
    """Type of the device, without its number."""
    dtype: str
    acceleration: str
    metrics: Mapping[str, str]
    """Per metric: whose implementation, version and weights, or why it cannot be computed."""
    seed: int | None
    """None for methods that draw no random numbers."""


def row_keys(facts: Facts, images: Iterable[ImageRef]) -> tuple[str, ...]:
    """The sha256 per image that names its row."""
    common = _digest({**asdict(facts), "code": numbers_sha256()})
    return tuple(_digest({"common": common, "name": image.name, "image": image_sha256(image)}) for image in images)


def image_sha256(image: ImageRef) -> str:
    """The sha256 over an image's file, the part of it that is used, and its ready LR file."""
    lr = file_sha256(image.lr) if image.lr else None
    return _digest({"file": file_sha256(image.path), "crop": image.crop, "lr": lr})


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, read once as long as its size and time of change stay; of no readable file: why."""
    try:
        status = path.stat()
        return _file_sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        return f"unreadable: {error.strerror}"


@cache
def metric_identity(name: str) -> str:
    """Whose implementation of a metric there is, or why there is none."""
    from bench.metrics import METRICS

    metric = METRICS[name]
    absent = metric.availability()
    return "unavailable" if absent else metric.identity()


@cache
def _file_sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def numbers_sha256() -> str:
    """The sha256 over the code that makes numbers: ours, by content; the packages below it, by version."""
    sources = {name: path.read_bytes() for name, path in _sources()}
    code = {name: hashlib.sha256(content).hexdigest() for name, content in sources.items()}
    packages = {name: package_version(name) for name in _PACKAGES}
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    return _digest({"code": code, "packages": packages, "variables": variables})


def _sources() -> Iterator[tuple[str, Path]]:
    bench = Path(__file__).resolve().parent
    for package in ("kernels", "methods"):
        for path in sorted((bench.parent / package).rglob("*")):
            if path.suffix in _SUFFIXES:
                yield path.relative_to(bench.parent).as_posix(), path
    for name in _BENCH_SOURCES:
        yield f"bench/{name}", bench / f"{name}.py"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
