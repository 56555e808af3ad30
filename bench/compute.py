"""Where and how networks compute: device, floating-point type, autocast, memory format, compilation."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.errors import UserError
from methods.names import resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from methods.base import SRMethod
    from methods.checkpoints import Checkpoint

DTYPES = ("float32", "float64", "bfloat16", "float16", "autocast-bfloat16", "autocast-float16")
"""Of weights and images. With autocast, these are float32, and torch computes in the smaller type where it is safe."""
MAX_THREADS = 1024
COMPILER = "inductor"
"""The backend of `torch.compile`."""
_AUTOCAST = "autocast-"


@dataclass(frozen=True)
class Compute:
    """Where and how an image is super-resolved; made by `prepare_torch`."""

    device: torch.device
    dtype: torch.dtype
    """Of weights and images."""
    autocast: torch.dtype | None = None
    """What products and convolutions compute in where it is not `dtype`."""
    channels_last: bool = False
    compiled: bool = False

    @property
    def dtype_name(self) -> str:
        """One of `DTYPES`."""
        name = str(self.autocast or self.dtype).removeprefix("torch.")
        return name if self.autocast is None else _AUTOCAST + name

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """Compute without gradients, under autocast where it was asked for."""
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            yield

    def arranged(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) in the memory format that was asked for, else as they are."""
        import torch

        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


def acceleration_name(channels_last: bool, compiled: bool) -> str:
    """What rows say of the two: "", "channels-last", "compile" or "channels-last+compile"."""
    return "+".join(name for name, on in (("channels-last", channels_last), ("compile", compiled)) if on)


def compute_facts(compute: Compute) -> dict[str, Any]:
    """Where and how, as the manifest describes it."""
    import torch

    return {
        "device": str(compute.device),
        "dtype": compute.dtype_name,
        "acceleration": acceleration_name(compute.channels_last, compute.compiled),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def uncompiled(model: SRMethod) -> AbstractContextManager[object]:
    """While it is entered, a network runs as written, so that its operators can be followed one by one."""
    import torch

    if getattr(getattr(model, "encoder", None), "_compiled_call_impl", None) is None:
        return nullcontext()  # setting the stance imports the compiler, which takes seconds
    eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager


def prepare_torch(
    device: str,
    dtype: str,
    *,
    deterministic: bool = False,
    threads: int | None = None,
    channels_last: bool = False,
    compiled: bool = False,
) -> Compute:
    """Set torch up for a run and return where and how it computes.

    deterministic: only algorithms that repeat bit by bit, at a cost on GPUs; on the CPU all of ours do. threads: CPU
    threads; None: torch's choice. channels_last, compiled: see `ready`.

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
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # imports the compiler, which takes two seconds
    place = resolve_device(device)
    name = resolve(dtype, DTYPES, "dtype")
    kind = getattr(torch, name.removeprefix(_AUTOCAST))
    if not name.startswith(_AUTOCAST):
        return Compute(place, kind, None, channels_last, compiled)
    if not _can_autocast(place, kind):
        raise UserError(
            f"torch has no autocast to {name.removeprefix(_AUTOCAST)} on {place}: choose another --dtype or --device."
        )
    return Compute(place, torch.float32, kind, channels_last, compiled)


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
        raise _unusable(name) from error
    if device.type == "meta":
        raise UserError("The device 'meta' computes nothing: choose auto or cpu.")
    return device


def tf32_allowed() -> tuple[bool, bool]:
    """Whether CUDA may round the factors of float32 (products, convolutions) to TF32."""
    import torch

    with warnings.catch_warnings(action="ignore"):  # some versions would rather be asked in another way
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def allow_tf32(products: bool, convolutions: bool) -> None:
    """Let CUDA round the factors of float32 to TF32, or not."""
    import torch

    with warnings.catch_warnings(action="ignore"):
        torch.backends.cuda.matmul.allow_tf32 = products
        torch.backends.cudnn.allow_tf32 = convolutions


def check_device(name: str) -> None:
    """Tell early whether there is a device called `name`, without touching it: another process is to have it alone.

    Raises:
        UserError: there is none here.
    """
    kind, _, index = name.partition(":")
    if kind in ("auto", "cpu"):
        return
    import torch

    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(index or 0) >= there:
        raise _unusable(name)


def _unusable(name: str) -> UserError:
    return UserError(f"The device {name!r} is not usable here: choose auto or cpu, and see `doctor`.")


def _can_autocast(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a convolution really comes out in `dtype`; where torch does not know the type it only warns."""
    import torch

    image = torch.ones(1, 1, 2, 2, device=device)
    try:
        with warnings.catch_warnings(action="ignore"), torch.autocast(device.type, dtype):
            return torch.nn.functional.conv2d(image, image).dtype == dtype
    except RuntimeError:
        return False


def ready(
    method: str,
    backbone: str | None,
    compute: Compute,
    *,
    weights: str | Checkpoint = "shipped",
    options: Mapping[str, Any] | None = None,
    cell: str = "published",
) -> SRMethod:
    """Load a network and prepare it to compute as asked.

    Memory format and compilation concern methods with an encoder. Compiled is the encoder, for sizes of all kinds; the
    decoders' loops over queries would be unrolled, another program for every image size.

    Args:
        method: registered name.
        backbone: encoder; None: the one that the weights are for.
        compute: where and how.
        weights: as `methods.load` takes them.
        options: the method's hyperparameters that need no retraining.
        cell: the protocol's cell rule, for methods that have the option and where `options` leave it out.

    Raises:
        UserError: as `methods.load`.
    """
    import torch

    from methods import load
    from methods.loading import method_class

    chosen = dict(options or {})
    if isinstance(chosen.get("cell"), bool):  # as `--set liif.cell=true` is read
        chosen["cell"] = str(chosen["cell"]).lower()
    if cell != "published" and "cell" in method_class(method).options:
        chosen.setdefault("cell", cell)
    model = load(method, backbone, weights=weights, options=chosen, device=compute.device, dtype=compute.dtype)
    encoder = getattr(model, "encoder", None)
    if encoder is not None and compute.channels_last:
        model.to(memory_format=torch.channels_last)
    if encoder is not None and compute.compiled:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA where there is none
        torch.compiler.reset()  # all encoders of a class share one allowance of compiled versions
        # Without `fullgraph`, what cannot be compiled would silently run as it is.
        encoder.compile(dynamic=True, fullgraph=True, backend=COMPILER)
    return model
