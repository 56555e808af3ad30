"""A GPU as its driver describes it (NVML): single readings, each a value or why there is none. Nothing raises."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_MIB = 2**20
_NOT_AVAILABLE = (2**32 - 1, 2**64 - 1)
"""What NVML writes into 32 and 64 bits for "not available" while it reports success."""
_NOT_THROTTLED = 0x1 | 0x2
"""Idle, and clocks that somebody set: lower clocks than the highest, which nothing forced."""
_THROTTLES = {
    0x4: "sw-power-cap",
    0x8: "hw-slowdown",
    0x10: "sync-boost",
    0x20: "sw-thermal",
    0x40: "hw-thermal",
    0x80: "hw-power-brake",
    0x100: "display-clock",
    0x200: "board-limit",
    0x400: "reliability",
}
"""Bits of nvml.h, nvmlClocksEventReason* (before driver 535 nvmlClocksThrottleReason*)."""


@dataclass(frozen=True)
class Reading:
    """A number, or why there is none."""

    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class TextReading:
    """A text, or why there is none."""

    value: str | None
    reason: str | None = None


class _Blind(Exception):
    """NVML answered, but what it says is of no use; the message says why."""


class Gpu:
    """An open GPU. Whatever goes wrong in a reading becomes its reason.

    A MIG instance has its own memory and processes; its clocks, temperature, power and energy are the whole board's.
    One thread may use it at a time.
    """

    def __init__(self, nvml: Any, handle: Any, *, absent: str | None = None) -> None:
        """nvml: the initialised module, which this object shuts down. absent: why there is no GPU."""
        self.absent = absent
        self._nvml = nvml
        handles: tuple[Any, Any] = (None, None) if absent else _instance_and_board(nvml, handle)
        self._instance, self._board = handles
        self.name: str | None = self._try(self._read_name)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of NVML; readings are None from now on."""
        if self.absent is None:
            self.absent = "the GPU was closed"
            with suppress(Exception):
                self._nvml.nvmlShutdown()

    @property
    def mig(self) -> bool:
        """Whether the GPU is split by MIG: clocks, power and energy are shared with other instances."""
        return self._instance is not self._board

    @property
    def uuid(self) -> str | None:
        """As NVML writes it, with GPU- or MIG- before it; None where the driver does not tell."""
        return self._try(lambda: str(self._nvml.nvmlDeviceGetUUID(self._ours())))[0]

    def used_mib(self) -> Reading:
        """Used memory in MiB, of all processes, with what the driver reserves for itself.

        NVML's version 1, which every driver has: version 2 counts without the reserve, so that falling back from it
        would mix two meanings.
        """
        return self._number(lambda: self._nvml.nvmlDeviceGetMemoryInfo(self._ours()).used, 1 / _MIB)

    def process_mib(self, pid: int) -> Reading:
        """Memory of one process in MiB. Containers hide it."""
        return self._number(lambda: self._process_bytes(pid), 1 / _MIB)

    def others(self, pid: int | None = None) -> Reading:
        """How many compute processes other than `pid`, by default this one, the driver shows.

        Only where `pid` is shown itself: without it nobody can tell whether others are hidden, or it is one of them.
        """
        return self._number(lambda: self._count_others(os.getpid() if pid is None else pid))

    def sm_clock_mhz(self) -> Reading:
        """Clock of the streaming multiprocessors at this moment, in MHz."""
        return self._number(lambda: self._nvml.nvmlDeviceGetClockInfo(self._board, self._nvml.NVML_CLOCK_SM))

    def temperature_c(self) -> Reading:
        """Temperature of the chip in degrees Celsius."""
        names = "nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"  # CUDA 14 drops the first
        return self._number(lambda: self._first(names, self._board, self._nvml.NVML_TEMPERATURE_GPU))

    def power_w(self) -> Reading:
        """Power of the board in W: since Ampere, GA100 aside, the mean of the last second; before, of an instant."""
        return self._number(lambda: self._nvml.nvmlDeviceGetPowerUsage(self._board), 1e-3)

    def energy_j(self) -> Reading:
        """Energy of the board since the driver was loaded, in J; from Volta on. Advances every 20 to 100 ms."""
        return self._number(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board), 1e-3)

    def throttled(self) -> TextReading:
        """Comma list of what holds the clocks down at this moment; empty: nothing. Idle and set clocks do not count."""
        names = "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
        return TextReading(*self._try(lambda: _throttles(_known(self._first(names, self._board)))))

    def _number(self, read: Callable[[], Any], unit: float = 1.0) -> Reading:
        return Reading(*self._try(lambda: _known(read()) * unit))

    def _try(self, read: Callable[[], T]) -> tuple[T | None, str | None]:
        if self.absent is not None:
            return None, self.absent
        try:
            return read(), None
        except Exception as error:  # beside NVMLError: its NVMLLibraryMismatchError, names that an old module lacks
            return None, _why(error)

    def _first(self, names: tuple[str, ...], *arguments: Any) -> Any:
        """The answer of the first function that both the module and the driver know."""
        for name in names[:-1]:
            try:
                return getattr(self._nvml, name)(*arguments)
            except Exception as error:
                if not self._unknown(error):
                    raise
        return getattr(self._nvml, names[-1])(*arguments)

    def _unknown(self, error: Exception) -> bool:
        """Whether the module (AttributeError) or the driver lacks the function that was called."""
        kinds = "NVMLError_FunctionNotFound", "NVMLLibraryMismatchError"
        return isinstance(error, (AttributeError, *(getattr(self._nvml, kind, AttributeError) for kind in kinds)))

    def _ours(self) -> Any:
        if self._instance is None:
            raise _Blind("MIG splits the GPU, and which instance is ours is not known")
        return self._instance

    def _read_name(self) -> str:
        return str(self._nvml.nvmlDeviceGetName(self._board if self._instance is None else self._instance))

    def _processes(self) -> list[Any]:
        names = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2"
        shown: list[Any] = self._first(names, self._ours())
        if not shown:
            raise _Blind("the driver shows no process on this GPU; in containers it hides them")
        return shown

    def _process_bytes(self, pid: int) -> int:
        shown = self._processes()
        entries = [process.usedGpuMemory for process in shown if process.pid == pid]  # one per compute instance
        if not entries:
            raise _Blind(_not_shown(pid, shown))
        if any(entry in (None, 0, *_NOT_AVAILABLE) for entry in entries):
            raise _Blind(f"the driver shows process {pid} without its memory, as in containers and under Windows")
        return sum(entries)

    def _count_others(self, pid: int) -> int:
        shown = self._processes()
        pids = {process.pid for process in shown}
        if pid not in pids:
            raise _Blind(_not_shown(pid, shown))
        return len(pids) - 1


def open_gpu(uuid: str | None, index: int = 0) -> Gpu:
    """The GPU whose UUID torch reports as `torch.cuda.get_device_properties(i).uuid`, or one without readings.

    uuid: with or without GPU- or MIG- before it. index: the driver's own, in PCI order, whatever CUDA_VISIBLE_DEVICES
    says; it counts only where `uuid` is None. A UUID that is not found is no reason to measure another GPU.
    """
    try:
        import pynvml
    except ImportError:
        return no_gpu("nvidia-ml-py is not installed")
    except Exception as error:
        return no_gpu(_why(error))
    try:
        pynvml.nvmlInit()
    except Exception as error:
        return no_gpu(_why(error))
    try:
        return Gpu(pynvml, _find(pynvml, uuid, index))
    except Exception as error:
        with suppress(Exception):
            pynvml.nvmlShutdown()
        return no_gpu(_why(error))


def no_gpu(reason: str) -> Gpu:
    """A GPU without readings, for inferences on the CPU; `reason` is each reading's."""
    return Gpu(None, None, absent=reason)


def _find(nvml: Any, uuid: str | None, index: int) -> Any:
    if uuid is None:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    uuid = str(uuid)
    prefixes = ("",) if uuid.startswith(("GPU-", "MIG-")) else ("GPU-", "MIG-")  # torch names both without
    failures = []
    for prefix in prefixes:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
        except Exception as error:
            failures.append(error)
    raise _Blind(f"NVML: no GPU with the UUID {uuid} ({failures[0]})")


def _instance_and_board(nvml: Any, handle: Any) -> tuple[Any, Any]:
    """Handles for memory and processes, and for the rest; equal without MIG.

    CUDA runs on instances only: where the handle is a split GPU's and NVML shows one instance, that is ours, and where
    it shows several, the first handle is None.
    """
    if _quiet(lambda: bool(nvml.nvmlDeviceIsMigDeviceHandle(handle))):
        board = _quiet(lambda: nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
        return handle, handle if board is None else board
    if not _quiet(lambda: nvml.nvmlDeviceGetMigMode(handle)[0]):
        return handle, handle
    count = _quiet(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0
    shown = []
    for slot in range(count):
        with suppress(Exception):  # empty, or hidden by a container
            shown.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
    return shown[0] if len(shown) == 1 else None, handle


def _quiet(read: Callable[[], T]) -> T | None:
    """None where a GPU or a driver without MIG refuses."""
    with suppress(Exception):
        return read()
    return None


def _known(value: Any) -> Any:
    if value is None or value < 0 or value in _NOT_AVAILABLE:
        raise _Blind("the driver has no value for it")
    return value


def _throttles(bits: int) -> str:
    forced = bits & ~_NOT_THROTTLED
    names = (_THROTTLES.get(1 << bit, f"{1 << bit:#x}") for bit in range(forced.bit_length()) if forced >> bit & 1)
    return ",".join(names)


def _not_shown(pid: int, shown: list[Any]) -> str:
    return (
        f"process {pid} is not among the {len(shown)} that the driver shows: it does not use the GPU yet, "
        "or a container gave it another PID"
    )


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, _Blind) else f"NVML: {str(error) or type(error).__name__}"
