"""The driver's calls, answered by a small library that records them. Device addresses are those of the host there."""

from __future__ import annotations

import ctypes
import shutil

import pytest
import torch

from kernels.build import compile_library
from kernels.driver import Driver, DriverError

FAKE = r"""
#include <cstring>
#define EXPORT extern "C" __attribute__((visibility("default")))
struct Pair { float first; int second; };
static thread_local bool has_context = false;
EXPORT int loads = 0, lookups = 0, initialised = -1, entered = -1;
EXPORT bool contexts_matter = false;
EXPORT unsigned sizes[7] = {};
EXPORT void* stream = nullptr;

EXPORT int cuInit(unsigned flags) { initialised = (int)flags; return 0; }
EXPORT int cuDeviceGet(int* device, int ordinal) { *device = 100 + ordinal; return 0; }
EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)(long)(device + 1000); return 0; }
EXPORT int cuCtxSetCurrent(void* context) { entered = (int)(long)context; has_context = true; return 0; }
EXPORT int cuModuleLoadData(void** module, const void* image) {
  if (contexts_matter && !has_context) return 201;
  if (memcmp(image, "good\0image", 10)) return 200;
  *module = (void*)(long)++loads;
  return 0;
}
EXPORT int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (strcmp(name, "kernel")) return 500;
  ++lookups;
  *function = (void*)((long)module + 50);
  return 0;
}
EXPORT int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void* on, void** p, void** extra) {
  if (contexts_matter && !has_context) return 201;
  if (gx == 0 || extra) return 1;
  unsigned values[7] = {gx, gy, gz, bx, by, bz, shared};
  memcpy(sizes, values, sizeof(sizes));
  stream = on;
  double* out = *(double**)p[0];
  out[0] = (double)(long)function;
  out[1] = (*(float**)p[1])[0];
  out[2] = *(void**)p[2] == nullptr;
  out[3] = *(int*)p[3];
  out[4] = *(float*)p[4];
  out[5] = (double)*(long long*)p[5];
  out[6] = (*(Pair*)p[6]).first;
  out[7] = (*(Pair*)p[6]).second;
  return 0;
}
EXPORT int cuGetErrorName(int code, const char** text) {
  *text = code == 200 ? "CUDA_ERROR_INVALID_IMAGE" : code == 500 ? "CUDA_ERROR_NOT_FOUND" : nullptr;
  return *text ? 0 : 1;
}
EXPORT int cuGetErrorString(int code, const char** text) {
  *text = code == 200 ? "kernel image is invalid" : code == 500 ? "named symbol not found" : nullptr;
  return *text ? 0 : 1;
}
"""
IMAGE = b"good\0image"


class Pair(ctypes.Structure):
    _fields_ = (("first", ctypes.c_float), ("second", ctypes.c_int))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler on this machine")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "fake.cpp").write_text(FAKE)
    compile_library(folder / "fake.cpp", folder / "libcuda.so", ["-O0"])
    return folder / "libcuda.so"


@pytest.fixture
def fake(path, tmp_path):
    """A fresh copy, so that its variables are too."""
    return ctypes.CDLL(shutil.copy(path, tmp_path / "libcuda.so"))


@pytest.fixture
def driver(fake):
    return Driver(fake._name)


def number(fake, name, kind=ctypes.c_int):
    return kind.in_dll(fake, name).value


def arguments(out):
    values = torch.tensor([2.5, 3.5])
    pair = Pair(0.25, -3)
    return [out, values[1:], None, ctypes.c_int(-7), ctypes.c_float(1.5), ctypes.c_int64(2**40), pair]


def test_arguments_reach_the_kernel(driver, fake):
    out = torch.zeros(8, dtype=torch.float64)
    assert number(fake, "initialised") == 0
    driver.module(IMAGE, 0).launch("kernel", (5, 6, 7), 128, arguments(out), 2**40 + 5)
    assert out.tolist() == [51, 3.5, 1, -7, 1.5, 2**40, 0.25, -3]
    assert list((ctypes.c_uint * 7).in_dll(fake, "sizes")) == [5, 6, 7, 128, 1, 1, 0]
    assert number(fake, "stream", ctypes.c_void_p) == 2**40 + 5


def test_the_default_stream_is_null(driver, fake):
    driver.module(IMAGE, 0).launch("kernel", (1, 1, 1), 1, arguments(torch.zeros(8, dtype=torch.float64)), 0)
    assert number(fake, "stream", ctypes.c_void_p) is None


def test_modules_and_functions_are_looked_up_once(driver, fake):
    first = driver.module(IMAGE, 0)
    assert driver.module(bytes(bytearray(IMAGE)), 0) is first
    assert number(fake, "loads") == 1
    assert driver.module(IMAGE + b"other", 0) is not first
    assert driver.module(IMAGE, 1) is not first
    assert number(fake, "loads") == 3
    for _ in range(2):
        first.launch("kernel", (1, 1, 1), 1, arguments(torch.zeros(8, dtype=torch.float64)), 0)
    assert number(fake, "lookups") == 1


def test_a_thread_without_a_context_gets_that_of_the_device(driver, fake):
    ctypes.c_bool.in_dll(fake, "contexts_matter").value = True
    module = driver.module(IMAGE, 2)
    assert number(fake, "entered") == 1102
    out = torch.zeros(8, dtype=torch.float64)
    module.launch("kernel", (1, 1, 1), 1, arguments(out), 0)
    assert out[3] == -7


def test_errors_say_which_call_and_why(driver):
    with pytest.raises(DriverError, match=r"^cuModuleLoadData failed: CUDA_ERROR_INVALID_IMAGE \(kernel image is"):
        driver.module(b"bad", 0)
    module = driver.module(IMAGE, 0)
    message = r"^cuModuleGetFunction failed for missing: CUDA_ERROR_NOT_FOUND \(named symbol not found\)\.$"
    with pytest.raises(DriverError, match=message):
        module.launch("missing", (1, 1, 1), 1, [], 0)
    with pytest.raises(DriverError, match=r"^cuLaunchKernel failed for kernel: error 1 \(error 1\)\.$"):
        module.launch("kernel", (0, 1, 1), 1, [], 0)


@pytest.mark.parametrize("argument", [3, 2.5, True, "text", [1]])
def test_numbers_need_a_width(argument, driver):
    with pytest.raises(TypeError, match=f"must be a tensor, a ctypes value or None, not {type(argument).__name__}"):
        driver.module(IMAGE, 0).launch("kernel", (1, 1, 1), 1, [argument], 0)


def test_no_driver():
    with pytest.raises(DriverError, match=r"^NVIDIA's driver cannot be loaded: .*libno-such-cuda\.so"):
        Driver("libno-such-cuda.so")
