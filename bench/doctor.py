"""Is this installation fit to run? Each check answers with a verdict and a sentence."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from bench.data import DATA_ROOT_VARIABLE, find_dataset
from bench.descriptors import list_datasets
from bench.env import DEPENDENCIES, OPTIONAL, nvidia_gpus, package_version, shadowed_packages
from bench.metrics import METRICS
from methods.checkpoints import list_checkpoints
from methods.errors import UserError

Verdict = Literal["ok", "note", "problem"]
"""A note is something that the main job does without."""
OLDEST_PYTHON = (3, 11)
_SPEED_SECONDS = 0.03
"""For each of the rates that tell the machine's speed, which here need not be exact."""


class Finding(NamedTuple):
    """One line of `doctor`."""

    check: str
    verdict: Verdict
    sentence: str


def doctor(data_root: Path | None = None, out: Path = Path("results")) -> list[Finding]:
    """Examine Python, packages, weights, images, metrics, data, GPU, rasterizer, speed, results folder, import names.

    Imports torch, on which the rasterizer's backends depend. Whatever is found, nothing is raised.
    """
    findings: list[Finding] = []
    for check in (_python, _packages, _names, _weights, _metrics, _gpu, _rasterizer, _speed):
        findings.extend(_guarded(check))
    findings.extend(_guarded(lambda: _datasets(data_root)))
    findings.extend(_guarded(lambda: _writable(out)))
    return findings


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # A broken installation fails in any way; saying how is what this is for.
        name = getattr(check, "__name__", "check").strip("_<>")
        return [Finding(name, "problem", f"{type(error).__name__}: {error}")]


def _python() -> Iterator[Finding]:
    found, needed = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, OLDEST_PYTHON))
    fit = sys.version_info >= OLDEST_PYTHON
    yield Finding("python", "ok" if fit else "problem", f"{found}; {needed} or newer is needed.")


def _packages() -> Iterator[Finding]:
    missing = [name for name in DEPENDENCIES if package_version(name) is None]
    if missing:
        yield Finding("packages", "problem", f"{', '.join(missing)} not installed: pip install asrbench.")
    else:
        yield Finding("packages", "ok", ", ".join(f"{name} {package_version(name)}" for name in DEPENDENCIES) + ".")
    absent = [name for name in OPTIONAL if package_version(name) is None]
    if absent:
        yield Finding("optional packages", "note", f"{', '.join(absent)} not installed; `run` works without.")


def _names() -> Iterator[Finding]:
    foreign = shadowed_packages()
    for name, where in foreign.items():
        yield Finding("import names", "problem", f"`import {name}` does not (only) find ours: {where}.")
    if not foreign:
        yield Finding("import names", "ok", "No other package shadows bench, methods, kernels or reports.")


def _weights() -> Iterator[Finding]:
    checkpoints = list_checkpoints()
    if not checkpoints:
        yield Finding("weights", "problem", "No weights are shipped: `run` needs --weights.")
    for checkpoint in checkpoints:
        name = f"{checkpoint.method} on {checkpoint.backbone}"
        try:
            content = b"".join(path.read_bytes() for path in checkpoint.paths)
        except OSError as error:
            yield Finding("weights", "problem", f"{name}: {error.filename} cannot be read ({error.strerror}).")
            continue
        fit = hashlib.sha256(content).hexdigest() == checkpoint.sha256
        yield Finding("weights", "ok" if fit else "problem", f"{name}: sha256 {'as shipped' if fit else 'differs'}.")


def _metrics() -> Iterator[Finding]:
    for metric in METRICS.values():
        absent = metric.availability()
        yield Finding(f"metric {metric.name}", "note" if absent else "ok", absent or f"{metric.identity()}.")


def _datasets(data_root: Path | None) -> Iterator[Finding]:
    root = data_root or (Path(os.environ[DATA_ROOT_VARIABLE]) if os.environ.get(DATA_ROOT_VARIABLE) else None)
    if root is None:
        yield Finding("data root", "note", f"Not set: benchmark sets need --data-root FOLDER or {DATA_ROOT_VARIABLE}.")
    for name, known in list_datasets().items():
        if root is None and not known.package:
            continue
        try:
            dataset = find_dataset(name, root)
            scale = next(iter(dataset.place.scales()), 2.0)
            damage = next((image.damage for image in dataset.images(scale) if image.damage), None)
            yield Finding(name, "problem" if damage else "ok", damage or f"complete in {dataset.folder}.")
        except UserError as error:
            yield Finding(name, "problem" if known.package else "note", str(error))


def _gpu() -> Iterator[Finding]:
    gpus, reason = nvidia_gpus()
    for gpu in gpus:
        yield Finding("gpu", "ok", f"{gpu['name']}, {gpu['memory_mib']} MiB, driver {gpu['driver']}.")
    if not gpus:
        yield Finding("gpu", "note", f"None ({reason}); everything runs on the CPU.")


def _rasterizer() -> Iterator[Finding]:
    import torch

    yield from _rasterizer_on("cpu", "rasterizer")
    if torch.cuda.is_available():
        yield from _rasterizer_on("cuda", "rasterizer on the GPU")


def _rasterizer_on(device: str, check: str) -> Iterator[Finding]:
    from kernels import BackendError, BackendWarning, available_backends, choose
    from kernels.backends import missing_backends

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BackendWarning)  # the note below says the same
            chosen = choose(device)
    except BackendError as error:
        yield Finding(check, "problem", f"{error}")
        return
    missing = missing_backends(device)
    sentence = f"{chosen.name} ({chosen.reason}); here are {', '.join(available_backends(device))}."
    yield Finding(check, "note" if missing else "ok", sentence)
    for name, why in missing.items():
        if f"{name} {why}" not in f"{chosen.reason}.":
            yield Finding(check, "note", f"{name} {why}")


def _speed() -> Iterator[Finding]:
    import torch

    from bench.cost.ceilings import ceilings_sentence, measure_ceilings

    for device, check in (("cpu", "speed"), ("cuda", "speed on the GPU")):
        if device == "cpu" or torch.cuda.is_available():
            ceilings = measure_ceilings(torch.device(device), _SPEED_SECONDS)
            yield Finding(check, "ok", f"{ceilings_sentence(ceilings)}.")


def _writable(out: Path) -> Iterator[Finding]:
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Finding("results folder", "ok", f"{out} can be written.")
    except OSError as error:
        yield Finding("results folder", "problem", f"{out} cannot be written ({error.strerror}): choose another --out.")
