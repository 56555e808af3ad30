"""One image through one method, guarded: memory, shape, finiteness. Shared by `run` and `upscale`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.memory import NoEstimate, TooLittleMemory, choose_chunk

if TYPE_CHECKING:
    import torch

    from bench.compute import Compute
    from methods.base import SRMethod

_CHUNKS = (None, 16384, 4096, 1024)
"""Queries rendered at a time: the method's own choice, then ever fewer while memory runs out."""


class MethodFault(RuntimeError):
    """A method broke its contract: wrong shape or type, numbers that are not finite, nothing to compile or estimate."""


class OutOfMemory(RuntimeError):
    """Not even the smallest chunk fits into memory, or into what of it was allowed."""


@dataclass(frozen=True)
class Inference:
    """What a method made of one image."""

    sr: npt.NDArray[np.float32]
    """(H, W, 3), neither clamped nor rounded."""
    chunk: int | None
    """Queries rendered at a time, by the limit or after memory ran out; None when the method's default did."""
    seconds: float
    """Wall clock of the successful try, device synchronised, image transfer excluded."""


def super_resolve(
    model: SRMethod,
    lr: npt.NDArray[np.uint8],
    out_size: tuple[int, int],
    scale: float | None,
    compute: Compute,
    *,
    seed: int = 0,
    max_memory: int | None = None,
) -> Inference:
    """Run `model` on an 8-bit LR image.

    Args:
        model: in eval mode, made ready for `compute`.
        lr: (h, w, 3).
        out_size: (H, W) of the result.
        scale: nominal factor of both axes; None: the ratio of the sizes, per axis.
        compute: where and how.
        seed: for methods that draw random numbers; set before every image, so that a resumed run repeats them.
        max_memory: bytes below which live tensors, weights among them, are kept by rendering fewer queries at a time.

    Raises:
        OutOfMemory: memory ran out at every chunk size, or no chunk is small enough for `max_memory`.
        MethodFault: the result has another shape or type, or is not finite, or the method cannot be compiled or tried
            on the meta device as asked.
    """
    import torch

    batch = to_batch(lr, compute)
    chunks = _chunks(model, batch, out_size, scale, compute, max_memory)
    for chunk in chunks:
        torch.manual_seed(seed)
        try:
            with compute.inferring():
                if compute.compiled:
                    warm_up_compiler(model, batch)
                sr, seconds = _timed(partial(model, batch, out_size, scale, chunk=chunk), compute.device)
        except (RuntimeError, MemoryError) as error:
            if failure := compiler_failure(error):
                raise MethodFault(failure) from error
            if not is_out_of_memory(error):
                raise
            del error  # its traceback holds the tensors that did not fit
            if compute.device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            return Inference(checked(sr, out_size), chunk, seconds)
    raise OutOfMemory(f"Memory ran out on {compute.device} even with {chunks[-1]} queries at a time.")


def to_batch(lr: npt.NDArray[np.uint8], compute: Compute) -> torch.Tensor:
    """An 8-bit image (h, w, 3) as networks take it: (1, 3, h, w) in [0, 1], on the device, in its type."""
    import torch

    batch = torch.tensor(lr, device=compute.device).permute(2, 0, 1)[None].to(compute.dtype) / 255
    return compute.arranged(batch)


def _chunks(
    model: SRMethod,
    batch: torch.Tensor,
    out_size: tuple[int, int],
    scale: float | None,
    compute: Compute,
    max_memory: int | None,
) -> list[int | None]:
    """Queries to render at a time, first choice first."""
    if max_memory is None:
        return list(_CHUNKS)
    try:
        chosen = choose_chunk(model, batch, out_size, scale, max_memory, autocast=compute.autocast is not None)
    except TooLittleMemory as error:
        raise OutOfMemory(str(error)) from error
    except NoEstimate as error:
        raise MethodFault(str(error)) from error
    return [chosen, *(chunk for chunk in _CHUNKS if chunk and (chosen is None or chunk < chosen))]


def warm_up_compiler(model: SRMethod, batch: torch.Tensor) -> None:
    """Have the encoder compiled for this size of images, so that it does not happen while the clock runs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")  # ours are pure
        model.encode(batch)


def compiler_failure(error: Exception) -> str | None:
    """A sentence if an error comes from `torch.compile`."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    return f"The encoder cannot be compiled ({' '.join(str(error).split())[:200]}): leave out --compile."


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


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that an allocation failed."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return any(words in str(error).lower() for words in ("out of memory", "not enough memory", "can't allocate memory"))


def checked(sr: Any, out_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A method's output (1, 3, H, W) as an array (H, W, 3).

    Raises:
        MethodFault: it has another shape or type, or is not finite.
    """
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
