"""The methods' parity cases on another device and in other precisions: how far from the reference in each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench.compute import allow_tf32, tf32_allowed
from bench.parity.cases import CannotRun, Case, find_cases, method_name
from bench.parity.networks import method_arrays, method_model
from methods.registry import method_spec

PRECISIONS = ("float32", "tf32", "bfloat16")
"""float32 without TF32; float32 with TF32 in products and convolutions; autocast to bfloat16."""
FLOAT32_TOLERANCE = 1e-4
"""Of the largest difference relative to the reference's largest value, on a GPU."""


@dataclass(frozen=True)
class DeviceParity:
    """One case on one device in one precision."""

    case: str
    method: str
    title: str
    """The method's."""
    precision: str
    error: float | None
    """Largest difference relative to the reference's largest value; None where the case could not run."""
    snr_db: float | None
    """Largest value of the reference over the root mean square of the differences, in dB; None also if all are 0."""
    reason: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether float32 is within its tolerance; None for the other precisions, which are reported only."""
        if self.precision != "float32":
            return None
        return self.error is not None and self.error <= FLOAT32_TOLERANCE


def device_parity(
    paths: Iterable[str | Path], device: str | torch.device, precisions: Iterable[str] = PRECISIONS
) -> Iterator[DeviceParity]:
    """Compare every method's case with the reference; TF32 is left out on devices that are no GPUs.

    Raises:
        UserError: before the first result: a path holds no case, or a broken one.
    """
    cases = [case for case in find_cases(paths) if method_name(case)]
    kinds = [kind for kind in precisions if kind != "tf32" or torch.device(device).type == "cuda"]
    return (check_on(case, device, kind) for case in cases for kind in kinds)


def check_on(case: Case, device: str | torch.device, precision: str) -> DeviceParity:
    """Compare one case's image; what goes wrong becomes the reason."""
    name = method_name(case) or ""
    about = case.name, name, method_spec(name).title if name else "", precision
    try:
        with _precision(torch.device(device), precision):
            ours = method_arrays(case, method_model(case).to(device), device)["out"].float().cpu().numpy()
    except CannotRun as reason:
        return DeviceParity(*about, None, None, str(reason))
    except Exception as error:
        return DeviceParity(*about, None, None, " ".join(f"{type(error).__name__}: {error}".split())[:300])
    reference = case.arrays["out"].astype(np.float64)
    if ours.shape != reference.shape or not np.isfinite(ours).all():
        return DeviceParity(*about, None, None, f"the output is {ours.shape}, or not finite, unlike the reference")
    difference, peak = np.abs(ours - reference), np.abs(reference).max() or 1.0
    noise = float(np.sqrt(np.mean(difference**2)))
    snr = 20 * float(np.log10(peak / noise)) if noise else None
    return DeviceParity(*about, float(difference.max() / peak), snr)


@contextmanager
def _precision(device: torch.device, name: str) -> Iterator[None]:
    before = tf32_allowed()
    allow_tf32(name == "tf32", name == "tf32")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        allow_tf32(*before)


def main() -> None:
    """For another process, whose memory on the device goes with it: DEVICE PATH...; a line of JSON per result."""
    device, *paths = sys.argv[1:]
    for result in device_parity(paths, device):
        print(json.dumps(asdict(result), allow_nan=False), flush=True)


if __name__ == "__main__":
    main()
