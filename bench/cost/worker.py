"""The process that measures one cell and does nothing else: commands come on stdin, answers go to stdout.

It is fresh for every cell, so that its peak memory is the cell's and nothing is left over from another network.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cost.jobs import VERSION, Answer, Failed, Finished, Job, Loaded, Repeat, Shape, job_from, to_line
from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from bench.compute import Compute
    from bench.cost.inputs import Input
    from bench.cost.meter import Meter
    from bench.protocol import Protocol
    from methods.base import SRMethod

_PAUSE_SECONDS = 0.01
"""Before each repeat, for threads that still spin after the work of another process."""


@dataclass
class _Cell:
    """A network and its inputs, ready to be measured."""

    job: Job
    compute: Compute
    model: SRMethod
    meter: Meter
    protocol: Protocol
    family: str
    inputs: list[Input]
    batches: list[Tensor]
    outputs: Path
    """Folder of the timed outputs, which in memory would raise the peaks."""
    turn: int = 0
    """Number of the next inference, warm-ups counted."""
    digests: dict[str, str] = field(default_factory=dict)
    """{digest of a timed output: its image}."""

    def infer(self, index: int) -> Tensor:
        """What is inside the clock."""
        lr, out_size, scale = self.batches[index], self.inputs[index].hr.shape[:2], self.job.scale
        if self.job.tile_lr is None:
            sr: Tensor = self.model(lr, out_size, scale, chunk=self.job.chunk)
            return sr
        from bench.cost.tiles import super_resolve_tiles

        return super_resolve_tiles(
            lambda part, size: self.model(part, size, scale, chunk=self.job.chunk), lr, out_size, self.job.tile_lr
        )


class Session:
    """Carries out commands one by one; what goes wrong becomes an answer."""

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._cell: _Cell | None = None
        self._gpus: Mapping[str, float] = {}

    def answer(self, command: Mapping[str, Any]) -> Answer | None:
        """The answer to `load`, `warm`, `measure` or `finish`; None: done, nothing to say."""
        try:
            if command["do"] == "load":
                return self._load(job_from(command["job"]))
            assert self._cell is not None
            if command["do"] == "finish":
                return _finish(self._cell)
            return _measure(self._cell, timed=command["do"] == "measure")
        except Exception as error:
            return _failure(error)

    def _load(self, job: Job) -> Loaded:
        from bench.cost.calibration import calibrate
        from bench.cost.gpu import used_by_uuid
        from bench.cost.meter import Meter

        used_before = used_by_uuid()  # before this process takes its own share of the device
        compute = _prepare(job)
        meter = Meter(compute.device)
        inputs, protocol, family = _inputs(job)
        calibrate(compute.device)  # its buffers are not the network's
        base = meter.resident_mib()
        model, checkpoint = _network(job, compute, protocol)
        cell = _Cell(job, compute, model, meter, protocol, family, inputs, [], self._outputs)
        cell.batches = [_batch(item, compute) for item in inputs]
        self._cell = cell
        return _loaded(cell, checkpoint, base, used_before)


def _prepare(job: Job) -> Compute:
    """Set torch up: the switches of precision first, as everything else may depend on them."""
    import torch

    from bench.compute import allow_tf32, prepare_torch

    if job.tf32 is not None:
        allow_tf32("matmul" in job.tf32, "conv" in job.tf32)
    if job.autotune is not None:
        torch.backends.cudnn.benchmark = job.autotune
    return prepare_torch(
        job.device, job.dtype, threads=job.threads, channels_last=job.channels_last, compiled=job.compiled
    )


def _inputs(job: Job) -> tuple[list[Input], Protocol, str]:
    from dataclasses import replace

    from bench.cost.inputs import make_inputs
    from bench.data import find_dataset
    from bench.protocol import get

    protocol = get(job.evaluation)
    if job.cell:
        protocol = replace(protocol, cell=job.cell)  # type: ignore[arg-type] # checked by the settings
    dataset = find_dataset(job.dataset, Path(job.data_root) if job.data_root else None)
    images = dataset.images(job.scale)
    inputs = make_inputs(images, protocol, job.scale, dataset.family, job.crop, job.images)
    return inputs, protocol, dataset.family


def _network(job: Job, compute: Compute, protocol: Protocol) -> tuple[SRMethod, Any]:
    import torch

    from bench.compute import ready
    from methods.checkpoints import locate

    checkpoint = locate(job.method, job.backbone, job.weights)
    torch.manual_seed(job.seed)
    backbone = job.backbone or None
    model = ready(job.method, backbone, compute, weights=checkpoint, options=job.options, cell=protocol.cell)
    return model, checkpoint


def _batch(item: Input, compute: Compute) -> Tensor:
    from bench.inference import to_batch

    return to_batch(item.lr, compute)


def _loaded(cell: _Cell, checkpoint: Any, rss_base: float | None, used_before: Mapping[str, float]) -> Loaded:
    import torch

    from bench.compute import compute_facts, tf32_allowed
    from kernels import choose

    compute, job = cell.compute, cell.job
    facts = compute_facts(compute)
    nvml_base, absent = _nvml_base(compute, used_before)
    shapes = tuple(Shape(item.image, item.lr.shape[:2], item.hr.shape[:2]) for item in cell.inputs)
    allowed = zip(("matmul", "conv"), tf32_allowed(), strict=True) if compute.device.type == "cuda" else ()
    return Loaded(
        version=VERSION,
        options=json.dumps(cell.model.effective_options(), sort_keys=True),
        label=checkpoint.label,
        sha256=checkpoint.sha256,
        shapes=shapes,
        device=str(compute.device),
        device_name=_device_name(compute),
        dtype=compute.dtype_name,
        acceleration=facts["acceleration"] if job.backbone else "",
        tf32="+".join(name for name, on in allowed if on),
        autotune=bool(torch.backends.cudnn.benchmark),
        compute=facts,
        rasterizer=choose(compute.device, compute.dtype)._asdict(),
        rss_base_mib=rss_base,
        nvml_base_mib=nvml_base,
        absent=absent,
    )


def _device_name(compute: Compute) -> str:
    import torch

    from bench.env import cpu_model

    if compute.device.type == "cuda":
        return str(torch.cuda.get_device_name(compute.device))
    return cpu_model() or ""


def _nvml_base(compute: Compute, used_before: Mapping[str, float]) -> tuple[float | None, dict[str, str]]:
    from bench.cost.gpu import uuid_of

    if compute.device.type != "cuda":
        return None, {"nvml_base_mib": "not an NVIDIA GPU"}
    used = used_before.get(uuid_of(compute.device))
    return used, {} if used is not None else {"nvml_base_mib": "NVML did not report the device's memory"}


def _measure(cell: _Cell, timed: bool) -> Repeat | None:
    """One inference of the next input in turn, as a warm-up or on the clock."""
    import torch

    from bench.cost.calibration import calibrate
    from bench.inference import warm_up_compiler

    index = cell.turn % len(cell.inputs)
    cell.turn += 1
    torch.manual_seed(cell.job.seed)
    with cell.compute.inferring():
        if not timed:
            if cell.compute.compiled:
                warm_up_compiler(cell.model, cell.batches[index])
            cell.infer(index)
            return None
        time.sleep(_PAUSE_SECONDS)
        calibration = calibrate(cell.compute.device)
        torch.manual_seed(cell.job.seed)
        cell.meter.reset_peaks()
        sr, timing = cell.meter.measure(lambda: cell.infer(index))
    meter = cell.meter
    peaks = meter.alloc_peak_mib(), meter.reserved_peak_mib(), meter.peak_resident_mib(), meter.cpu_mhz()
    digest = _keep(cell, index, sr)
    return Repeat(
        image=cell.inputs[index].image,
        measured_at=time.time(),
        latency_ms=timing.latency_ms,
        device_ms=timing.device_ms,
        cpu_ms=timing.cpu_ms,
        calibration_ms=calibration,
        alloc_peak_mib=peaks[0],
        reserved_peak_mib=peaks[1],
        rss_peak_mib=peaks[2],
        cpu_mhz=peaks[3],
        digest=digest,
    )


def _keep(cell: _Cell, index: int, sr: Tensor) -> str:
    """Put a timed output aside to be checked when the clock has stopped; returns its digest."""
    pixels = sr.detach().float().cpu().numpy()
    digest = hashlib.sha256(f"{index} {pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:16]
    if digest not in cell.digests:
        cell.digests[digest] = cell.inputs[index].image
        np.save(cell.outputs / f"{digest}.npy", pixels)
    return digest


def _finish(cell: _Cell) -> Finished:
    """Sample the GPU while it works, check and score the outputs, count what is computed."""
    gpu, absent = _sample(cell)
    scored = {item.image: _scored(cell, index) for index, item in enumerate(cell.inputs)}
    drift = {}
    for digest, image in cell.digests.items():
        timed = np.load(cell.outputs / f"{digest}.npy")[0].transpose(1, 2, 0)
        if timed.shape != scored[image].shape or not np.isfinite(timed).all():
            raise ValueError(f"the timed output of {image} is {timed.shape}, or not finite, unlike the scored one")
        difference = np.abs(timed.clip(0, 1) - scored[image].clip(0, 1))
        drift[digest] = float(difference.max(initial=0))
    gmacs, padded, why = _count(cell) if cell.job.count else (None, {}, {})
    absent = {**cell.meter.absent, **absent, **why}
    return Finished(drift, _scores(cell, scored), gmacs, padded, gpu, absent)


def _count(cell: _Cell) -> tuple[float | None, dict[str, tuple[int, int]], dict[str, str]]:
    """Multiply-adds in 1e9 of the first input, and what the encoder sees of each, without computing anything.

    Not before the repeats: the compiler, which counting imports, takes 150 MiB.
    """
    from bench.memory import NoEstimate, Work, count_work

    model, scale, chunk = cell.model, cell.job.scale, cell.job.chunk
    sizes = [(lr, item.hr.shape[:2]) for lr, item in zip(cell.batches, cell.inputs, strict=True)]
    counted: dict[tuple[int, ...], Work] = {}
    try:
        for lr, size in sizes:  # mostly one
            if (*lr.shape, *size) not in counted:
                counted[*lr.shape, *size] = count_work(model, lr, size, scale, chunk)
    except NoEstimate as error:
        return None, {}, dict.fromkeys(("gmacs", "padded_h", "padded_w"), str(error))
    works = [counted[*lr.shape, *size] for lr, size in sizes]
    seen = zip(cell.inputs, works, strict=True)
    return works[0].macs / 1e9, {item.image: work.encoder_size for item, work in seen if work.encoder_size}, {}


def _scored(cell: _Cell, index: int) -> Any:
    """The output of the path that `run` scores, (H, W, 3); by chunks or tiles, where that is what is measured."""
    from bench.inference import checked, super_resolve

    item = cell.inputs[index]
    if cell.job.chunk is None and cell.job.tile_lr is None:
        out_size = item.hr.shape[:2]
        found = super_resolve(cell.model, item.lr, out_size, cell.job.scale, cell.compute, seed=cell.job.seed)
        if found.chunk is not None:
            raise MemoryError(f"memory ran out when {item.image} was scored")
        return found.sr
    import torch

    torch.manual_seed(cell.job.seed)
    with cell.compute.inferring():
        return checked(cell.infer(index), item.hr.shape[:2])


def _scores(cell: _Cell, scored: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    from bench.scoring import as_scored, score, unavailable

    border = cell.protocol.border(cell.job.scale, cell.family)
    absent = unavailable(cell.job.metrics)
    found = {}
    for item in cell.inputs:
        sr, hr = as_scored(scored[item.image], item.hr, cell.protocol.quantize)
        found[item.image] = score(sr, hr, border, cell.job.metrics, absent, str(cell.compute.device)).values
    return found


def _sample(cell: _Cell) -> tuple[dict[str, Any], dict[str, str]]:
    """What NVML tells of a block of inferences back to back."""
    from bench.cost.gpu import no_columns, sample
    from bench.cost.meter import synchronize

    device = cell.compute.device
    if device.type != "cuda":
        return no_columns(device.type)

    def work(number: int) -> None:
        with cell.compute.inferring():
            cell.infer(number % len(cell.inputs))
        synchronize(device)

    return sample(device, work)


def _failure(error: Exception) -> Failed:
    from bench.inference import MethodFault, OutOfMemory, compiler_failure, is_out_of_memory

    if isinstance(error, UserError):
        return Failed("error", str(error), user=True)
    if isinstance(error, OutOfMemory) or is_out_of_memory(error):
        return Failed("oom", _one_line(error))
    if isinstance(error, MethodFault):
        return Failed("error", str(error))
    return Failed("error", compiler_failure(error) or _one_line(error))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def main() -> None:
    """Answer commands until stdin ends; the argument is the folder for outputs, which whoever started this removes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is not an answer
    session = Session(Path(sys.argv[1]))
    for line in sys.stdin:
        answer = session.answer(json.loads(line))
        print("{}" if answer is None else to_line(answer), file=answers, flush=True)
    sys.stderr.flush()
    os._exit(0)  # taking apart what torch imported would take seconds


if __name__ == "__main__":
    main()
