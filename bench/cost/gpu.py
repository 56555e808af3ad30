"""The GPU columns of a cost row, from NVML: what is held before the work and what is sampled beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bench.cost.nvml import Gpu, Reading, open_gpu
from bench.cost.sampler import Sampler, Samples

if TYPE_CHECKING:
    import torch

BLOCK_SECONDS = 1.0
"""Work goes on for at least so long while the GPU is sampled: energy counters move every 20 to 100 ms."""
_MANY = 64
"""More GPUs than a machine has."""


def used_by_uuid() -> Mapping[str, float]:
    """Used memory in MiB of every GPU that NVML shows, by UUID as torch writes it; for before CUDA is started."""
    found = {}
    for index in range(_MANY):
        with open_gpu(None, index) as gpu:
            if gpu.absent is not None:
                break
            used, uuid = gpu.used_mib().value, gpu.uuid
            if used is not None and uuid is not None:
                found[plain_uuid(uuid)] = used
    return found


def uuid_of(device: torch.device) -> str:
    """The UUID of a CUDA device, without a prefix."""
    import torch

    return plain_uuid(str(torch.cuda.get_device_properties(device).uuid))


def plain_uuid(uuid: str) -> str:
    """A UUID without the prefix that NVML writes before it."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def sample(device: torch.device, work: Callable[[int], None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Do `work(0)`, `work(1)`, ... for `BLOCK_SECONDS` while the GPU is sampled.

    Timed repeats are left alone: the sampling thread takes Python's lock now and then.

    Returns the columns and, for those that are None, {column: why}.
    """
    with open_gpu(uuid_of(device)) as gpu:
        count, start = 0, perf_counter()
        with Sampler(gpu, os.getpid()) as sampler:
            while count == 0 or perf_counter() - start < BLOCK_SECONDS:
                work(count)
                count += 1
        return columns(sampler.summary(), count, gpu)


def columns(samples: Samples, count: int, gpu: Gpu) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns of a block of `count` inferences, and {column: why it is None}."""
    energy = samples.energy_j
    per_image = energy if energy.value is None else Reading(energy.value / count)
    readings = {
        "used_peak_mib": samples.used_peak_mib,
        "nvml_process_mib": samples.process_peak_mib,
        "sm_clock_mhz": samples.sm_clock_mhz,
        "power_w": samples.power_w,
        "temperature_c": samples.temperature_c,
        "energy_j": per_image,
        "other_processes": gpu.others(),
    }
    found: dict[str, Any] = {name: reading.value for name, reading in readings.items()}
    why = {name: reading.reason or "unknown" for name, reading in readings.items() if reading.value is None}
    if "used_peak_mib" in why:
        why["nvml_peak_mib"] = why.pop("used_peak_mib")
    if samples.throttled is None:
        why["throttled"] = samples.throttled_reason or "unknown"
    found |= {"throttled": samples.throttled, "energy_source": samples.energy_source}
    return found, why


def no_columns(device: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns where there is no NVIDIA GPU."""
    names = ("nvml_peak_mib", "nvml_process_mib", "sm_clock_mhz", "power_w", "temperature_c", "energy_j", "throttled")
    return {}, dict.fromkeys((*names, "other_processes"), f"{device} is no NVIDIA GPU")
