"""Kernels loaded and launched through NVIDIA's driver, without a compiler or headers."""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

Argument: TypeAlias = "Tensor | ctypes._SimpleCData[Any] | ctypes.Structure | None"
"""Of a kernel: a tensor, or None, stands for its address; a number needs a ctypes type, which says its width."""

_INVALID_CONTEXT = 201


class DriverError(RuntimeError):
    """The driver is absent or refused a call; says which and why."""


class Driver:
    """NVIDIA's driver, or the library at `path`, which exports the same functions."""

    def __init__(self, path: str | None = None) -> None:
        name = path or ("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise DriverError(f"NVIDIA's driver cannot be loaded: {error}.") from None
        self._modules: dict[tuple[int, bytes], Module] = {}
        self.call("cuInit", ctypes.c_uint(0))

    def module(self, image: bytes, device: int) -> Module:
        """Load a cubin or PTX once on a device, which has to be PyTorch's current one."""
        key = device, hashlib.sha256(image).digest()
        if key not in self._modules:
            self._modules[key] = Module(self, image, device)
        return self._modules[key]

    def call(self, function: str, *arguments: Any, device: int | None = None, subject: str = "") -> None:
        """Call a function of the driver API.

        Args:
            function: its name.
            arguments: ctypes values and pointers.
            device: whose context the call needs, if any.
            subject: what the call is about, for the message.

        Raises:
            DriverError: the function returned an error.
        """
        code = getattr(self._library, function)(*arguments)
        if code == _INVALID_CONTEXT and device is not None:
            # Threads start without one, and PyTorch gives its own theirs only when it has something to do there.
            self._enter(device)
            code = getattr(self._library, function)(*arguments)
        if code != 0:
            about = f" for {subject}" if subject else ""
            raise DriverError(f"{function} failed{about}: {self._describe(code)}.")

    def _enter(self, device: int) -> None:
        """Make the context that PyTorch uses on a device this thread's."""
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(device))
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self.call("cuCtxSetCurrent", context)

    def _describe(self, code: int) -> str:
        """For example "CUDA_ERROR_NOT_FOUND (named symbol not found)"."""
        texts = []
        for function in ("cuGetErrorName", "cuGetErrorString"):
            text = ctypes.c_char_p()
            getattr(self._library, function)(code, ctypes.byref(text))
            texts.append(text.value.decode() if text.value else f"error {code}")
        return f"{texts[0]} ({texts[1]})"


class Module:
    """Kernels on one device; they stay loaded until the process ends."""

    def __init__(self, driver: Driver, image: bytes, device: int) -> None:
        self._driver, self._device = driver, device
        self._handle = ctypes.c_void_p()
        self._functions: dict[str, ctypes.c_void_p] = {}
        driver.call("cuModuleLoadData", ctypes.byref(self._handle), ctypes.c_char_p(image), device=device)

    def launch(
        self, name: str, grid: tuple[int, int, int], block: int, arguments: Sequence[Argument], stream: int
    ) -> None:
        """Start grid blocks of `block` threads in a row on a stream, given by its handle; does not wait for them."""
        values = [_value(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = [ctypes.c_uint(size) for size in (*grid, block, 1, 1, 0)]
        self._driver.call(
            "cuLaunchKernel",
            *(self._function(name), *sizes, ctypes.c_void_p(stream), places, None),
            device=self._device,
            subject=name,
        )

    def _function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            function = ctypes.c_void_p()
            self._driver.call(
                *("cuModuleGetFunction", ctypes.byref(function), self._handle, name.encode()),
                device=self._device,
                subject=name,
            )
            self._functions[name] = function
        return self._functions[name]


def _value(argument: Argument) -> ctypes._SimpleCData[Any] | ctypes.Structure:
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if not isinstance(argument, ctypes._SimpleCData | ctypes.Structure):
        raise TypeError(f"A kernel's argument must be a tensor, a ctypes value or None, not {type(argument).__name__}.")
    return argument
