"""One image through one method, guarded: memory, shape, finiteness. Shared by `run` and `upscale`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from methods.errors import UserError
from methods.names import resolve

if TYPE_CHECKING:
    import torch

    from methods.base import SRMethod

DTYPES = ("float32", "float64", "bfloat16", "float16")
MAX_THREADS = 1024
_CHUNKS = (None, 16384, 4096, 1024)
"""Queries rendered at a time: the method's own choice, then ever fewer while memory runs out."""


class MethodFault(RuntimeError):
    """A method broke its contract: wrong shape or type, or numbers that are not finite."""


class OutOfMemory(RuntimeError):
    """Not even the smallest chunk fits into memory."""


@dataclass(frozen=True)
class Inference:
    """What a method made of one image."""

    sr: npt.NDArray[np.float32]
    """(H, W, 3), neither clamped nor rounded."""
    chunk: int | None
    """Queries rendered at a time after memory ran out; None when the method's default did."""
    seconds: float
    """Wall clock of the successful try, device synchronised, image transfer excluded."""


def resolve_device(name: str) -> torch.device:
    """The device called `name`: "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        UserError: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"The device {name!r} is not usable here: choose auto or cpu, and see `doctor`.") from error
    if device.type == "meta":
        raise UserError("The device 'meta' computes nothing: choose auto or cpu.")
    return device


def resolve_dtype(name: str) -> torch.dtype:
    """The floating-point type called `name`, one of `DTYPES`."""
    import torch

    dtype = getattr(torch, resolve(name, DTYPES, "dtype"))
    assert isinstance(dtype, torch.dtype)
    return dtype


def prepare_torch(
    device: str, dtype: str, *, deterministic: bool = False, threads: int | None = None
) -> tuple[torch.device, torch.dtype]:
    """Set torch up for a run and return where and in what type it computes.

    deterministic: only algorithms that repeat bit by bit, at a cost on GPUs; on the CPU all of ours do. threads: CPU
    threads; None: torch's choice.

    Raises:
        UserError: the device or type is not usable here, or the number of threads is out of range.
    """
    import torch

    if threads is not None:
        if not 1 <= threads <= MAX_THREADS:
            raise UserError(f"{threads} threads are out of range: give a number from 1 to {MAX_THREADS}, or none.")
        torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses determinism without it
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(deterministic)
    return resolve_device(device), resolve_dtype(dtype)


def super_resolve(
    model: SRMethod,
    lr: npt.NDArray[np.uint8],
    out_size: tuple[int, int],
    scale: float | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
) -> Inference:
    """Run `model` on an 8-bit LR image.

    Args:
        model: in eval mode, on `device` in `dtype`.
        lr: (h, w, 3).
        out_size: (H, W) of the result.
        scale: nominal factor of both axes; None: the ratio of the sizes, per axis.
        device: where the image goes.
        dtype: what it is converted to.
        seed: for methods that draw random numbers; set before every image, so that a resumed run repeats them.

    Raises:
        OutOfMemory: memory ran out at every chunk size.
        MethodFault: the result has another shape or type, or is not finite.
    """
    import torch

    batch = torch.tensor(lr, device=device).permute(2, 0, 1)[None].to(dtype) / 255
    for chunk in _CHUNKS:
        torch.manual_seed(seed)
        try:
            with torch.inference_mode():
                sr, seconds = _timed(partial(model, batch, out_size, scale, chunk=chunk), device)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            del error  # its traceback holds the tensors that did not fit
            if device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            return Inference(_checked(sr, out_size), chunk, seconds)
    raise OutOfMemory(f"Memory ran out on {device} even with {_CHUNKS[-1]} queries at a time.")


def _timed(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    _synchronize(device)
    start = time.perf_counter()
    result = function()
    _synchronize(device)
    return result, time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return any(words in str(error).lower() for words in ("out of memory", "not enough memory", "can't allocate memory"))


def _checked(sr: Any, out_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    import torch

    expected = (1, 3, *out_size)
    if not isinstance(sr, torch.Tensor) or not sr.is_floating_point():
        raise MethodFault(f"The method returned {getattr(sr, 'dtype', type(sr).__name__)}, not floating-point numbers.")
    if tuple(sr.shape) != expected:
        raise MethodFault(f"The method returned shape {tuple(sr.shape)}, not {expected}.")
    if not bool(torch.isfinite(sr).all()):
        raise MethodFault("The method returned numbers that are not finite (NaN or infinity).")
    image: npt.NDArray[np.float32] = sr[0].permute(1, 2, 0).float().cpu().numpy()
    return image
