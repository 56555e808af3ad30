"""A driver with simulated GPUs, in the shape of the module pynvml, that can be told to fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import c_uint
from dataclasses import dataclass, field
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bench.cost.nvml import Gpu, open_gpu

UUID = "ffc79498-8ff3-c2dc-3b0d-fafd804516ae"
INSTANCE_UUID = "90443af0-2fe6-57fb-86fe-54186d5a6581"
MIB = 2**20


class NVMLError(Exception):
    def __init__(self, value: int, text: str) -> None:
        super().__init__(text)
        self.value = value


ERRORS = {
    "Uninitialized": (1, "Uninitialized"),
    "InvalidArgument": (2, "Invalid Argument"),
    "NotSupported": (3, "Not Supported"),
    "NoPermission": (4, "Insufficient Permissions"),
    "NotFound": (6, "Not Found"),
    "DriverNotLoaded": (9, "Driver Not Loaded"),
    "Timeout": (10, "Timeout"),
    "LibraryNotFound": (12, "NVML Shared Library Not Found"),
    "FunctionNotFound": (13, "Function Not Found"),
    "GpuIsLost": (15, "GPU is lost"),
    "Unknown": (999, "Unknown Error"),
}
KINDS = {name: type(f"NVMLError_{name}", (NVMLError,), {}) for name in ERRORS}


def failure(name: str) -> NVMLError:
    kind: Callable[..., NVMLError] = KINDS[name]
    return kind(*ERRORS[name])


@dataclass(eq=False)
class Device:
    """A board or a MIG instance; a value is what the driver answers, an exception what it raises."""

    uuid: str = f"GPU-{UUID}"
    name: str = "NVIDIA H200"
    used: Any = 3000 * MIB
    processes: list[tuple[int, Any]] = field(default_factory=list)
    clock: Any = 1980
    milliwatts: Any = 200_000
    celsius: Any = 41
    millijoules: Any = 5_000_000
    reasons: Any = 0
    instances: list[Device] = field(default_factory=list)
    board: Device | None = None


def split(board: Device, *instances: Device) -> Device:
    """Cuts a board by MIG: instances have memory and processes only, and the board refuses to show its own."""
    refused = failure("NotSupported")
    for instance in instances:
        instance.board = board
        instance.clock = instance.milliwatts = instance.celsius = instance.millijoules = instance.reasons = refused
    board.instances, board.used = list(instances), failure("NoPermission")
    return board


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    name = function.__name__

    @wraps(function)
    def called(self: FakeNvml, *arguments: Any) -> Any:
        self.calls.append(name)
        if name in self.failing:
            raise self.failing[name]
        if name != "nvmlInit" and self.opened == 0:
            raise failure("Uninitialized")
        answer = function(self, *arguments)
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    return called


class FakeNvml(ModuleType):
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLLibraryMismatchError(Exception):
        pass

    def __init__(self, *devices: Device) -> None:
        super().__init__("pynvml")
        self.devices = devices
        self.calls: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.lacking: set[str] = set()
        self.opened = 0
        self.NVMLError = NVMLError
        for name, kind in KINDS.items():
            setattr(self, f"NVMLError_{name}", kind)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.lacking:
            raise AttributeError(f"module 'pynvml' has no attribute {name!r}")
        return super().__getattribute__(name)

    @call
    def nvmlInit(self) -> None:
        self.opened += 1

    @call
    def nvmlShutdown(self) -> None:
        self.opened -= 1

    @call
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.devices[index] if index < len(self.devices) else failure("InvalidArgument")

    @call
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        every = [*self.devices, *(instance for device in self.devices for instance in device.instances)]
        return next((device for device in every if device.uuid == uuid), failure("NotFound"))

    @call
    def nvmlDeviceGetName(self, device: Device) -> Any:
        return device.name

    @call
    def nvmlDeviceGetMemoryInfo(self, device: Device) -> Any:
        used = device.used() if callable(device.used) else device.used
        return used if isinstance(used, Exception) else SimpleNamespace(used=used)

    @call
    def nvmlDeviceGetComputeRunningProcesses(self, device: Device) -> Any:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.processes]

    @call
    def nvmlDeviceGetComputeRunningProcesses_v2(self, device: Device) -> Any:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.processes]

    @call
    def nvmlDeviceGetClockInfo(self, device: Device, kind: int) -> Any:
        return device.clock if kind == self.NVML_CLOCK_SM else failure("InvalidArgument")

    @call
    def nvmlDeviceGetTemperature(self, device: Device, sensor: int) -> Any:
        return device.celsius if sensor == self.NVML_TEMPERATURE_GPU else failure("InvalidArgument")

    @call
    def nvmlDeviceGetTemperatureV(self, device: Device, sensor: int) -> Any:
        return device.celsius if sensor == self.NVML_TEMPERATURE_GPU else failure("InvalidArgument")

    @call
    def nvmlDeviceGetPowerUsage(self, device: Device) -> Any:
        return device.milliwatts

    @call
    def nvmlDeviceGetTotalEnergyConsumption(self, device: Device) -> Any:
        return device.millijoules

    @call
    def nvmlDeviceGetCurrentClocksEventReasons(self, device: Device) -> Any:
        return device.reasons

    @call
    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: Device) -> Any:
        return device.reasons

    @call
    def nvmlDeviceIsMigDeviceHandle(self, device: Device) -> Any:
        return c_uint(device.board is not None)  # as the real module: not its value

    @call
    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, device: Device) -> Any:
        return device.board or failure("InvalidArgument")

    @call
    def nvmlDeviceGetMigMode(self, device: Device) -> Any:
        return failure("InvalidArgument") if device.board else [int(bool(device.instances))] * 2

    @call
    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> Any:
        return 7

    @call
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Any:
        return device.instances[index] if index < len(device.instances) else failure("NotFound")


def install(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> FakeNvml:
    """Puts a driver with these GPUs in the place of the real one."""
    driver = FakeNvml(*devices)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


def opened(monkeypatch: pytest.MonkeyPatch, device: Device) -> tuple[Gpu, FakeNvml]:
    driver = install(monkeypatch, device)
    return open_gpu(device.uuid), driver
