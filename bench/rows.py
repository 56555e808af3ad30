"""The result row: one image of one cell, and what each of its columns means."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, Self

Status = Literal["ok", "skipped", "oom", "error"]
FAILED: frozenset[str] = frozenset({"oom", "error"})
SETTLED: frozenset[str] = frozenset({"ok", "skipped"})
"""A resumed run does not repeat rows of these statuses."""
METRIC_COLUMNS = ("psnr_y", "ssim_y", "lpips", "dists", "psnr_rgb")


def column(doc: str, **default: Any) -> Any:
    """A field of a row, with what it means."""
    return field(metadata={"doc": doc}, **default)


@dataclass(frozen=True, kw_only=True)
class StoredRow(ABC):
    """What a run folder stores a line of."""

    @abstractmethod
    def place(self) -> tuple[Any, ...]:
        """What the row is about; the last row appended for a place is the one that counts."""

    def to_json(self) -> str:
        """The row as one line of strict JSON, without the newline."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def columns(cls) -> tuple[Field[Any], ...]:
        """The columns of the rows, in order; `metadata["doc"]` documents each."""
        return fields(cls)

    @classmethod
    def latest(cls, rows: Iterable[Self]) -> list[Self]:
        """One row per place, the last one appended, in an order that does not depend on how the run was interrupted."""
        return sorted({row.place(): row for row in rows}.values(), key=lambda row: row.place())


@dataclass(frozen=True, kw_only=True)
class Row(StoredRow):
    """One image, super-resolved by one method at one scale; a missing number is None with a reason."""

    row_key: str = column("sha256 over everything that can change a number of this row")
    run_id: str = column("name of the run folder")
    protocol: str = column("name of the evaluation protocol; its content is in the manifest")
    method: str = column("method name, as `list methods` prints it")
    backbone: str = column("encoder name; empty for methods without one")
    weights: str = column("shipped, random, none, or the checkpoint's file name")
    checkpoint_sha256: str | None = column("hash of the checkpoint; null where there is none", default=None)
    options: str = column("the method's options as they were in force, as JSON with sorted keys", default="{}")
    dataset: str = column("dataset name")
    image: str = column("image name within the dataset")
    scale: float = column("nominal scale, the same for both axes")
    lr_h: int | None = column("height of the LR image in pixels", default=None)
    lr_w: int | None = column("width of the LR image in pixels", default=None)
    hr_h: int | None = column("height of the ground truth, and of the SR image, in pixels", default=None)
    hr_w: int | None = column("width of the ground truth, and of the SR image, in pixels", default=None)
    psnr_y: float | None = column("PSNR on BT.601 luma in dB; higher is better", default=None)
    ssim_y: float | None = column("SSIM on BT.601 luma, at most 1; higher is better", default=None)
    lpips: float | None = column("LPIPS with AlexNet, version 0.1; lower is better", default=None)
    dists: float | None = column("DISTS; lower is better", default=None)
    psnr_rgb: float | None = column("PSNR over RGB in dB; higher is better", default=None)
    status: Status = column("ok, skipped (does not apply to this image), oom (memory ran out) or error")
    reason: str | None = column("why the status is not ok, or why a metric is null", default=None)
    device: str = column("device the method ran on")
    dtype: str = column("floating-point type the method ran in; autocast-*: torch chose, per operation, it or float32")
    acceleration: str = column("channels-last, compile, both joined by +, or empty", default="")
    tile: int | None = column(
        "queries rendered at a time, as --max-memory or memory that ran out made it; null: the method's default",
        default=None,
    )
    seconds: float | None = column("wall-clock seconds of the inference alone", default=None)

    def place(self) -> tuple[Any, ...]:
        network = self.method, self.backbone, self.weights, self.options
        return (self.protocol, self.dataset, *network, self.scale, self.image)

    @classmethod
    def latest(cls, rows: Iterable[Self]) -> list[Self]:
        # Where a network could not be loaded and later could, the options of its rows, and so their places, may differ;
        # the key does not.
        return super().latest({row.row_key: row for row in rows}.values())


def count_by_status(rows: Iterable[Row]) -> Mapping[str, int]:
    """How many rows have each status, zero included."""
    counts = dict.fromkeys(("ok", "skipped", "oom", "error"), 0)
    for row in rows:
        counts[row.status] += 1
    return counts
