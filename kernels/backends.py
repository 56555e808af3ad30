"""Which backend draws: what there is, what can run here, and which one is taken."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import warnings
from typing import Any, NamedTuple

import torch

from kernels.cache import BuildError

BACKEND_VARIABLE = "ASRBENCH_RASTERIZER"
"""Environment variable that replaces `backend="auto"`."""
_log = logging.getLogger(__name__)
_warned: set[str] = set()


class BackendError(ValueError):
    """A backend that was asked for does not exist, does not fit the inputs, or cannot run here; says which and why."""


class BackendWarning(RuntimeWarning):
    """A slower backend takes the place of one that cannot run here."""


class Choice(NamedTuple):
    """A backend and why it was taken."""

    name: str
    reason: str


class _Backend(NamedTuple):
    """A module with `render(scene)` and `gradients(scene, grad_image)`."""

    module: str
    """Imported when it is needed."""
    title: str
    device: str | None = None
    """The type of device that native code, which computes in float32, serves; None: any device and type."""


_BACKENDS = {
    "nvrtc": _Backend("kernels.cuda", "CUDA C++, compiled by NVRTC when first needed", "cuda"),
    "host": _Backend("kernels.host", "the same C++, compiled for the CPU", "cpu"),
    "torch": _Backend("kernels.tiled", "tiled PyTorch, any device"),
    "reference": _Backend("kernels.reference", "dense PyTorch, the specification, small images only"),
}
"""Fastest first."""


def available_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """The backends that can draw tensors of a device here, each with a line on what it is, fastest first.

    Builds those that need it, which takes a few seconds once per machine.
    """
    return {name: _BACKENDS[name].title for name in _fitting(device) if _obstacle(name) is None}


def missing_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """The backends made for a device that cannot run here, each with a sentence that says why."""
    return {name: f"cannot run here: {why}." for name in _fitting(device) if (why := _obstacle(name))}


def choose(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, backend: str = "auto") -> Choice:
    """Say which backend `rasterize` takes for inputs of this device and dtype; builds it if it needs that.

    "auto" is the reference for float64, nvrtc for NVIDIA GPUs, host for CPUs, and torch elsewhere. Where native code
    cannot run, torch takes its place, and a warning says why. ASRBENCH_RASTERIZER replaces "auto", save that float64
    still goes to the reference where native code is named.

    Raises:
        BackendError: the backend, or the one that ASRBENCH_RASTERIZER names, does not exist, does not fit the device or
            dtype, or cannot run here.
    """
    kind = torch.device(device).type
    if backend != "auto":
        return _named(backend, "backend", "asked for by the caller", kind, dtype)
    forced = os.environ.get(BACKEND_VARIABLE) or "auto"
    if forced == "auto":
        exact = Choice("reference", "float64 inputs ask for the specification")
        return exact if dtype == torch.float64 else _fastest(kind)
    if dtype == torch.float64 and _find(forced, BACKEND_VARIABLE).device is not None:
        return Choice("reference", f"float64 inputs, {forced} of {BACKEND_VARIABLE} computes in float32")
    return _named(forced, BACKEND_VARIABLE, f"forced by {BACKEND_VARIABLE}", kind, dtype)


def load(choice: Choice) -> Any:
    """The module of a chosen backend. What is chosen is logged once."""
    _announce(choice)
    return importlib.import_module(_BACKENDS[choice.name].module)


@functools.cache
def _obstacle(name: str) -> str | None:
    """Why a backend cannot run in this process, in words without a full stop; None if it can. Builds it."""
    if name == "nvrtc" and torch.version.hip:
        return "this PyTorch is made for ROCm, and NVRTC for CUDA"
    module = importlib.import_module(_BACKENDS[name].module)
    try:
        if name == "host":
            module.library()
        reason = module.available() if name == "nvrtc" else None
    except BuildError as error:
        reason = str(error)
    return reason.strip().rstrip(".") if reason else None


def _fitting(device: torch.device | str) -> list[str]:
    kind = torch.device(device).type
    return [name for name, backend in _BACKENDS.items() if backend.device in (None, kind)]


def _find(name: str, source: str) -> _Backend:
    if name not in _BACKENDS:
        raise BackendError(f"{source} names the rasterizer {name!r}; there are auto, {', '.join(_BACKENDS)}.")
    return _BACKENDS[name]


def _named(name: str, source: str, reason: str, kind: str, dtype: torch.dtype) -> Choice:
    """A backend that someone wants, and no other."""
    wanted = _find(name, source).device
    if wanted not in (None, kind):
        raise BackendError(f"{source} names the rasterizer {name}, which draws {wanted} tensors, not {kind} ones.")
    if wanted is not None and dtype == torch.float64:
        raise BackendError(f"{source} names the rasterizer {name}, which computes in float32, not float64.")
    if why := _obstacle(name):
        raise BackendError(f"{source} names the rasterizer {name}, which cannot run here: {why}.")
    return Choice(name, f"{reason}; {_origin(name)}" if wanted else reason)


def _fastest(kind: str) -> Choice:
    """The best float32 backend for a type of device."""
    native = next((name for name, backend in _BACKENDS.items() if backend.device == kind), None)
    if native is None or (kind == "cuda" and torch.version.hip):  # where "cuda" means ROCm
        return Choice("torch", f"serves every device, here {'ROCm' if native else kind}")
    why = _obstacle(native)
    if why is None:
        return Choice(native, _origin(native))
    _warn(f"The {native} rasterizer cannot run here, so a slower one in PyTorch replaces it: {why}.")
    return Choice("torch", f"{native} cannot run here: {why}")


@functools.cache
def _origin(name: str) -> str:
    """What native code was loaded."""
    return str(importlib.import_module(_BACKENDS[name].module).origin())


def _warn(sentence: str) -> None:
    """Say it once, also where the first time raised an error."""
    if sentence not in _warned:
        _warned.add(sentence)
        warnings.warn(sentence, BackendWarning, stacklevel=2)


@functools.cache
def _announce(choice: Choice) -> None:
    _log.info("rasterizer: %s (%s)", *choice)
