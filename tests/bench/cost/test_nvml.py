"""Single readings of a GPU against a simulated driver, its faults, and the real module without a driver."""

from __future__ import annotations

import inspect
import os
import sys
from ctypes.util import find_library
from typing import Any

import pytest
from fake_nvml import INSTANCE_UUID, KINDS, MIB, UUID, Device, FakeNvml, failure, install, opened, split

from bench.cost import nvml
from bench.cost.nvml import Gpu, Reading, TextReading, no_gpu, open_gpu

PID = 7
READS = {
    "used_mib": ("nvmlDeviceGetMemoryInfo",),
    "process_mib": ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2"),
    "others": ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2"),
    "sm_clock_mhz": ("nvmlDeviceGetClockInfo",),
    "power_w": ("nvmlDeviceGetPowerUsage",),
    "temperature_c": ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"),
    "throttled": ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
    "energy_j": ("nvmlDeviceGetTotalEnergyConsumption",),
}


def read(gpu: Gpu, what: str) -> Reading | TextReading:
    takes_pid = what in ("process_mib", "others")
    result = getattr(gpu, what)(PID) if takes_pid else getattr(gpu, what)()
    assert (result.value is None) == (result.reason is not None)
    assert isinstance(result, Reading | TextReading)
    return result


def busy() -> Device:
    processes = [(PID, 1024 * MIB), (8, 512 * MIB), (9, 256 * MIB)]
    return Device(processes=processes, reasons=0x4 | 0x20 | 0x1)


def test_every_reading_in_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = opened(monkeypatch, busy())
    with gpu:
        assert (gpu.absent, gpu.name, gpu.mig) == (None, "NVIDIA H200", False)
        values = {what: read(gpu, what).value for what in READS}
    assert values == {
        "used_mib": 3000.0,
        "process_mib": 1024.0,
        "others": 2.0,
        "sm_clock_mhz": 1980.0,
        "power_w": 200.0,
        "temperature_c": 41.0,
        "throttled": "sw-power-cap,sw-thermal",
        "energy_j": 5000.0,
    }
    assert driver.opened == 0
    assert {read(gpu, what).reason for what in READS} == {"the GPU was closed"}
    gpu.close()
    assert driver.opened == 0


@pytest.mark.parametrize("uuid", [UUID, f"GPU-{UUID}"])
def test_found_by_uuid_and_not_by_place(monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
    install(monkeypatch, Device(uuid="GPU-other", name="other"), Device(name="wanted"))
    assert open_gpu(uuid).name == "wanted"
    assert open_gpu(None, 1).name == "wanted"
    assert open_gpu(None).name == "other"


def test_an_unknown_uuid_measures_no_other_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Device())
    gpu = open_gpu("00000000-1111")
    assert gpu.absent == "NVML: no GPU with the UUID 00000000-1111 (Not Found)"
    assert driver.opened == 0
    assert open_gpu(None, 3).absent == "NVML: Invalid Argument"
    assert driver.opened == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("LibraryNotFound", "NVML: NVML Shared Library Not Found"),
        ("DriverNotLoaded", "NVML: Driver Not Loaded"),
        ("NoPermission", "NVML: Insufficient Permissions"),
    ],
)
def test_a_driver_that_does_not_start(monkeypatch: pytest.MonkeyPatch, name: str, sentence: str) -> None:
    driver = install(monkeypatch, Device())
    driver.failing["nvmlInit"] = failure(name)
    with open_gpu(UUID) as gpu:
        assert gpu.absent == sentence
        assert gpu.name is None
        assert {read(gpu, what).reason for what in READS} == {sentence}
    assert driver.calls == ["nvmlInit"]


def test_a_missing_or_broken_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_gpu(UUID).absent == "nvidia-ml-py is not installed"
    driver = install(monkeypatch, Device())
    driver.lacking.add("nvmlInit")
    assert open_gpu(UUID).absent == "NVML: module 'pynvml' has no attribute 'nvmlInit'"


@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="a driver is installed")
def test_the_real_module_without_a_driver() -> None:
    pynvml = pytest.importorskip("pynvml")
    with pytest.raises(pynvml.NVMLError_LibraryNotFound):
        pynvml.nvmlInit()
    for gpu in (open_gpu(UUID), open_gpu(None)):
        assert gpu.absent == "NVML: NVML Shared Library Not Found"
        assert read(gpu, "used_mib") == Reading(None, gpu.absent)
        gpu.close()


@pytest.mark.skipif(find_library("nvidia-ml") is not None, reason="a driver is installed")
def test_the_real_module_whose_driver_went_away() -> None:
    pynvml = pytest.importorskip("pynvml")
    with Gpu(pynvml, pynvml.c_nvmlDevice_t()) as gpu:
        assert {read(gpu, what).reason for what in READS} == {"NVML: Uninitialized"}


def test_the_real_module_has_what_is_called() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML_"))}
    assert len(names) > 20
    assert {name for name in names if not hasattr(pynvml, name)} == set()
    assert pynvml.NVML_CLOCK_SM == FakeNvml.NVML_CLOCK_SM
    assert pynvml.NVML_TEMPERATURE_GPU == FakeNvml.NVML_TEMPERATURE_GPU
    assert all(issubclass(getattr(pynvml, f"NVMLError_{name}"), pynvml.NVMLError) for name in KINDS)
    assert not issubclass(pynvml.NVMLLibraryMismatchError, pynvml.NVMLError)
    for name, arguments in (("nvmlDeviceGetTemperatureV", 2), ("nvmlDeviceGetMemoryInfo", 1)):
        inspect.signature(getattr(pynvml, name)).bind(*range(arguments))
    assert {pynvml.NVML_VALUE_NOT_AVAILABLE_uint.value, pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value} == set(
        nvml._NOT_AVAILABLE
    )


@pytest.mark.parametrize(
    ("constant", "text"),
    [
        ("None", ""),
        ("GpuIdle", ""),
        ("ApplicationsClocksSetting", ""),
        ("SwPowerCap", "sw-power-cap"),
        ("HwSlowdown", "hw-slowdown"),
        ("SyncBoost", "sync-boost"),
        ("SwThermalSlowdown", "sw-thermal"),
        ("HwThermalSlowdown", "hw-thermal"),
        ("HwPowerBrakeSlowdown", "hw-power-brake"),
        ("DisplayClockSetting", "display-clock"),
        ("BoardLimit", "board-limit"),
        ("Reliability", "reliability"),
    ],
)
def test_throttles_as_the_real_module_numbers_them(monkeypatch: pytest.MonkeyPatch, constant: str, text: str) -> None:
    pynvml = pytest.importorskip("pynvml")
    kinds = [f"nvmlClocks{kind}Reason{constant}" for kind in ("Event", "Throttle")]
    bits = {getattr(pynvml, kind) for kind in kinds if hasattr(pynvml, kind)}
    assert len(bits) == 1
    gpu, _ = opened(monkeypatch, Device(reasons=bits.pop()))
    assert gpu.throttled() == TextReading(text)


def test_an_unnamed_throttle_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device(reasons=0x8 | 1 << 40))
    assert gpu.throttled() == TextReading("hw-slowdown,0x10000000000")


@pytest.mark.parametrize("what", sorted(READS))
@pytest.mark.parametrize(
    "error",
    [
        *(failure(name) for name in ("NotSupported", "NoPermission", "GpuIsLost", "Timeout", "FunctionNotFound")),
        FakeNvml.NVMLLibraryMismatchError("module and driver do not match"),
        OSError("exception: access violation"),
        AttributeError("module 'pynvml' has no attribute 'it'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_stays_in_its_reading(monkeypatch: pytest.MonkeyPatch, what: str, error: Exception) -> None:
    gpu, driver = opened(monkeypatch, busy())
    driver.failing |= dict.fromkeys(READS[what], error)
    hit = [other for other in READS if READS[other] == READS[what]]
    assert {name for name in READS if read(gpu, name).reason is not None} == set(hit)
    assert read(gpu, what).reason == f"NVML: {error}"


@pytest.mark.parametrize("what", sorted(what for what, names in READS.items() if len(names) == 2))
def test_renamed_functions(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    gpu, driver = opened(monkeypatch, busy())
    expected = read(gpu, what)
    first, second = READS[what]
    driver.lacking = {first}  # an old or a future module
    assert read(gpu, what) == expected
    driver.lacking = set()
    for error in (failure("FunctionNotFound"), driver.NVMLLibraryMismatchError()):  # an old or a future driver
        driver.failing = {first: error}
        assert read(gpu, what) == expected
    driver.failing = {first: failure("NotSupported")}
    driver.calls.clear()
    assert read(gpu, what).reason == "NVML: Not Supported"
    assert second not in driver.calls


@pytest.mark.parametrize("column", ["used", "clock", "milliwatts", "celsius", "millijoules", "reasons"])
@pytest.mark.parametrize("nothing", [2**32 - 1, 2**64 - 1, -1, None])
def test_success_without_a_value(monkeypatch: pytest.MonkeyPatch, column: str, nothing: Any) -> None:
    device = busy()
    setattr(device, column, nothing)
    gpu, _ = opened(monkeypatch, device)
    reasons = [read(gpu, what).reason for what in READS]
    assert [reason for reason in reasons if reason] == ["the driver has no value for it"]


def test_more_than_four_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device(used=141_000 * MIB, processes=[(PID, 140_000 * MIB)]))
    assert (gpu.used_mib().value, gpu.process_mib(PID).value) == (141_000.0, 140_000.0)


def test_a_container_hides_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = opened(monkeypatch, Device(processes=[]))
    hidden = "the driver shows no process on this GPU; in containers it hides them"
    assert (gpu.process_mib(PID), gpu.others(PID)) == (Reading(None, hidden), Reading(None, hidden))
    driver.devices[0].processes = [(31_000, 900 * MIB), (31_001, 900 * MIB)]
    foreign = (
        "process 7 is not among the 2 that the driver shows: it does not use the GPU yet, "
        "or a container gave it another PID"
    )
    assert (gpu.process_mib(PID), gpu.others(PID)) == (Reading(None, foreign), Reading(None, foreign))


@pytest.mark.parametrize("nothing", [None, 0, 2**64 - 1])
def test_a_process_without_its_memory(monkeypatch: pytest.MonkeyPatch, nothing: int | None) -> None:
    gpu, _ = opened(monkeypatch, Device(processes=[(PID, nothing), (8, 512 * MIB)]))
    reason = "the driver shows process 7 without its memory, as in containers and under Windows"
    assert gpu.process_mib(PID) == Reading(None, reason)
    assert gpu.others(PID) == Reading(1)


def test_a_process_in_two_instances_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device(processes=[(PID, 100 * MIB), (PID, 28 * MIB)]))
    assert (gpu.process_mib(PID), gpu.others(PID)) == (Reading(128), Reading(0))


def test_the_others_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = opened(monkeypatch, Device(processes=[(os.getpid(), MIB), (os.getpid() + 1, MIB)]))
    assert gpu.others() == Reading(1)


def instance(name: str = "NVIDIA H200 MIG 1g.18gb", uuid: str = INSTANCE_UUID) -> Device:
    return Device(uuid=f"MIG-{uuid}", name=name, used=64 * MIB, processes=[(PID, 48 * MIB)])


def test_an_instance_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    neighbour = Device(uuid="MIG-neighbour", used=9999 * MIB, processes=[(8, MIB), (9, MIB)])
    install(monkeypatch, split(Device(reasons=0x4), neighbour, instance()))
    for uuid in (INSTANCE_UUID, f"MIG-{INSTANCE_UUID}"):
        with open_gpu(uuid) as gpu:
            assert (gpu.name, gpu.mig) == ("NVIDIA H200 MIG 1g.18gb", True)
            assert (gpu.used_mib(), gpu.process_mib(PID), gpu.others(PID)) == (Reading(64), Reading(48), Reading(0))
            assert (gpu.sm_clock_mhz(), gpu.temperature_c()) == (Reading(1980), Reading(41))
            assert (gpu.power_w(), gpu.energy_j()) == (Reading(200), Reading(5000))
            assert gpu.throttled() == TextReading("sw-power-cap")


def test_an_instance_whose_board_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, split(Device(), instance()))
    driver.failing["nvmlDeviceGetDeviceHandleFromMigDeviceHandle"] = failure("NoPermission")
    gpu = open_gpu(INSTANCE_UUID)
    assert gpu.used_mib() == Reading(64)
    board = {"sm_clock_mhz", "power_w", "temperature_c", "throttled", "energy_j"}
    assert {what for what in READS if read(gpu, what).reason == "NVML: Not Supported"} == board


def test_a_split_board_with_one_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, split(Device(), instance()))
    for gpu in (open_gpu(None), open_gpu(UUID)):
        assert (gpu.used_mib(), gpu.power_w(), gpu.mig) == (Reading(64), Reading(200), True)


def test_a_split_board_with_several_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, split(Device(), instance(), instance(uuid="other")))
    gpu = open_gpu(UUID)
    unknown = "MIG splits the GPU, and which instance is ours is not known"
    assert {what for what in READS if read(gpu, what).reason == unknown} == {"used_mib", "process_mib", "others"}
    assert (gpu.power_w(), gpu.name, gpu.mig) == (Reading(200), "NVIDIA H200", True)


def test_drivers_older_than_mig(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, busy())
    driver.failing |= dict.fromkeys(
        ("nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetMigMode"), failure("FunctionNotFound")
    )
    assert open_gpu(UUID).used_mib() == Reading(3000)
    driver.failing.clear()
    driver.lacking |= {"nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetMigMode"}
    assert open_gpu(UUID).used_mib() == Reading(3000)


def test_a_gpu_without_a_name_still_has_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = install(monkeypatch, Device())
    driver.failing["nvmlDeviceGetName"] = failure("Unknown")
    gpu = open_gpu(UUID)
    assert (gpu.name, gpu.absent, gpu.power_w()) == (None, None, Reading(200))


def test_closing_a_lost_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = opened(monkeypatch, Device())
    driver.failing["nvmlShutdown"] = failure("GpuIsLost")
    gpu.close()
    assert gpu.absent == "the GPU was closed"


def test_no_gpu() -> None:
    with no_gpu("the device is the CPU") as gpu:
        assert (gpu.name, gpu.mig) == (None, False)
        assert {read(gpu, what).reason for what in READS} == {"the device is the CPU"}
    assert gpu.absent == "the device is the CPU"
