"""The cost row: one repeat of one cell, and what each of its columns means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bench.rows import Status, StoredRow, column

Fallback = Literal["", "chunks", "tiles"]


@dataclass(frozen=True, kw_only=True)
class CostRow(StoredRow):
    """One timed inference; a cell that failed has a single row, of repeat 0, without numbers.

    A missing number is None, and `absent` says why.
    """

    row_key: str = column("sha256 over everything that can change the cost of this cell, the repeat's number aside")
    run_id: str = column("name of the run folder")
    protocol: str = column("name of the cost protocol; its content is in the manifest")
    evaluation: str = column("name of the evaluation protocol that made LR and scored SR")
    method: str = column("method name, as `list methods` prints it")
    backbone: str = column("encoder name; empty for methods without one")
    weights: str = column("shipped, random, official, none, or the checkpoint's file name")
    checkpoint_sha256: str | None = column("hash of the checkpoint; null where there is none", default=None)
    options: str = column("the method's options as they were in force, as JSON with sorted keys", default="{}")
    dataset: str = column("dataset name")
    image: str = column("image name within the dataset; empty in the row of a failed cell")
    scale: float = column("nominal scale, the same for both axes")
    crop: int = column("side of the GT patch that was asked for, in pixels")
    repeat: int = column("number of the timed inference in its cell, from 0")
    fallback: Fallback = column("what was done after memory had run out: nothing, smaller chunks, or tiles", default="")
    status: Status = column("ok, oom (memory ran out) or error")
    reason: str | None = column("why the status is not ok", default=None)
    absent: str = column("JSON: {column: why it is null}", default="{}")
    measured_at: float = column("time of the measurement, Unix seconds")
    session: str = column("id of the process pair or cell that measured; equal in two runs that were interleaved")

    lr_h: int | None = column("height of the LR image in pixels", default=None)
    lr_w: int | None = column("width of the LR image in pixels", default=None)
    padded_h: int | None = column("height that the encoder saw, in pixels", default=None)
    padded_w: int | None = column("width that the encoder saw, in pixels", default=None)
    sr_h: int | None = column("height of the SR image in pixels", default=None)
    sr_w: int | None = column("width of the SR image in pixels", default=None)
    tile: int | None = column("queries rendered at a time where the method's default was replaced", default=None)
    tile_lr: int | None = column("side of the LR tiles, where the fallback is tiles", default=None)

    warmups: int | None = column("inferences that were run and dropped before the first repeat", default=None)
    gmacs: float | None = column("multiply-adds of one inference in 1e9, products and convolutions only", default=None)
    latency_ms: float | None = column("wall clock, synchronised on both sides", default=None)
    device_ms: float | None = column("CUDA events around the same work", default=None)
    cpu_ms: float | None = column("CPU time of the process, all threads", default=None)
    calibration_ms: float | None = column("calibration workload, timed right before the repeat", default=None)
    alloc_peak_mib: float | None = column("peak of torch's CUDA allocator, weights and input in it", default=None)
    reserved_peak_mib: float | None = column("peak of what torch's CUDA allocator held", default=None)
    rss_peak_mib: float | None = column("peak resident memory of the cell's process", default=None)
    rss_base_mib: float | None = column("the same, before the network was loaded", default=None)
    nvml_peak_mib: float | None = column("peak of the device's used memory, less nvml_base_mib", default=None)
    nvml_process_mib: float | None = column("peak of the process's own memory on the device", default=None)
    nvml_base_mib: float | None = column("used memory of the device before the process opened it", default=None)
    sm_clock_mhz: float | None = column("median SM clock over the cell", default=None)
    power_w: float | None = column("mean board power over the cell", default=None)
    temperature_c: float | None = column("highest GPU temperature over the cell", default=None)
    throttled: str | None = column("reasons for throttled clocks over the cell, comma list; empty: none", default=None)
    other_processes: int | None = column("other compute processes on the device", default=None)
    energy_j: float | None = column("energy of the board per image, over a block of back-to-back repeats", default=None)
    energy_source: str | None = column("counter, or samples (power integrated over time)", default=None)

    device: str = column("device the method ran on")
    device_name: str = column("model of the GPU or CPU", default="")
    dtype: str = column("floating-point type, as in the rows of `run`")
    acceleration: str = column("channels-last, compile, both joined by +, or empty", default="")
    tf32: str = column("where TF32 was allowed: matmul, conv, both joined by +, or empty", default="")
    autotune: bool = column("whether cuDNN tried its algorithms out", default=False)
    threads: int | None = column("CPU threads of torch", default=None)
    cpu_mhz: float | None = column("mean frequency of the CPU's cores, read beside the repeat", default=None)
    drift: float | None = column(
        "largest difference between this output and the scored one, in [0, 1] units; 0 on the CPU", default=None
    )
    psnr_y: float | None = column("PSNR on BT.601 luma in dB of the scored output", default=None)
    ssim_y: float | None = column("SSIM on BT.601 luma of the scored output", default=None)
    lpips: float | None = column("LPIPS of the scored output", default=None)
    dists: float | None = column("DISTS of the scored output", default=None)

    def place(self) -> tuple[Any, ...]:
        network = self.method, self.backbone, self.weights, self.options
        precision = self.dtype, self.acceleration, self.tf32, self.autotune, self.threads or 0, self.device
        work = self.dataset, self.scale, self.crop, self.fallback, self.tile or 0
        return (self.protocol, *network, *precision, *work, self.row_key, self.repeat)


def peak_mib(row: CostRow) -> float | None:
    """The memory that tables show: of the allocator on a GPU, else resident memory beyond that of an empty process."""
    if row.alloc_peak_mib is not None:
        return row.alloc_peak_mib
    if row.rss_peak_mib is None or row.rss_base_mib is None:
        return None
    return row.rss_peak_mib - row.rss_base_mib
