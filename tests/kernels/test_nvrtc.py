"""CUDA C++ compiled without a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kernels import nvrtc
from kernels.cache import BuildError
from kernels.nvrtc import Resources, compile_cuda, kernel_image, resources, supported_archs, version

ARCHS = (75, 80, 86, 89, 90, 100, 120)
KERNEL = """
#include "value.h"
float added(float a, float b, float c) { return a * b + c; }
extern "C" __global__ void trivial(float* x) { x[0] = added(x[1], x[2], VALUE); }
"""
HEADERS = {"value.h": "#define VALUE 7.0f\n"}
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) heavy(float* x, int n) {
  float a[64];
  for (int i = 0; i < 64; i++) a[i] = x[i * n];
  for (int j = 0; j < n; j++)
    for (int i = 0; i < 64; i++) a[i] *= a[(i + 7) % 64];
  for (int i = 0; i < 64; i++) x[i * n] = a[i];
}
extern "C" __global__ void light(float* x) { x[0] = 1; }
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def installed():
    try:
        version()
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "value.h").write_text("#define VALUE float(CHANNELS)\n")
    (folder / "device.cu").write_text(KERNEL)
    return folder / "device.cu"


@pytest.mark.usefixtures("installed")
def test_every_architecture():
    tried = [arch for arch in ARCHS if arch in supported_archs()]
    assert len(tried) >= 5
    for arch in tried:
        compiled = compile_cuda(KERNEL, HEADERS, f"sm_{arch}")
        assert compiled.code.startswith(b"\x7fELF")
        assert f"sm_{arch}".encode() in compiled.code
        used = resources(compiled.log)["trivial"]
        assert 1 <= used.registers <= 32
        assert used == Resources(used.registers, 0, 0, 0)


@pytest.mark.usefixtures("installed")
def test_the_version_is_that_of_pytorch():
    major, minor = version()
    assert major >= 11
    assert minor >= 0
    if torch.version.cuda:
        assert major == int(torch.version.cuda.split(".")[0])


@pytest.mark.usefixtures("installed")
def test_ptx_is_a_string_and_its_arithmetic_as_written():
    ptx = compile_cuda(KERNEL, HEADERS, "compute_80").code
    assert ptx.index(b"\0") == len(ptx) - 1, "the driver reads up to a zero byte"
    assert b".target sm_80" in ptx
    assert b"mul" in ptx
    assert b"fma" not in ptx
    assert b"fma" in compile_cuda(KERNEL, HEADERS, "compute_80", ["-default-device"]).code


@pytest.mark.usefixtures("installed")
def test_spills_are_seen():
    found = resources(compile_cuda(SPILLING, {}, "sm_80").log)
    assert found["heavy"].registers == 32
    assert min(found["heavy"].stack, found["heavy"].spill_stores, found["heavy"].spill_loads) > 0
    assert found["light"].spill_stores == 0


def test_logs_of_older_compilers_and_of_functions_that_are_called():
    log = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1kILi3EEvPf' for 'sm_80'
ptxas info    : Function properties for _Z1kILi3EEvPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, 376 bytes cmem[0]
ptxas info    : Function properties for called
    0 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads
"""
    assert resources(log) == {"_Z1kILi3EEvPf": Resources(40, 16, 8, 4), "called": Resources(0, 0, 24, 28)}
    assert resources("") == {}


@pytest.mark.usefixtures("installed")
def test_bad_text_keeps_its_log(place):
    with pytest.raises(BuildError) as caught:
        compile_cuda(KERNEL + "int broken = missing_name;\n", HEADERS, "sm_80")
    log = caught.value.log
    assert log is not None
    assert log.parent == place
    assert str(caught.value) == f"NVRTC could not compile device.cu for sm_80; its output is in {log}"
    assert "missing_name" in log.read_text()
    assert "--fmad=false" in log.read_text()


@pytest.mark.usefixtures("installed")
def test_images_come_from_the_cache(source, monkeypatch):
    first = kernel_image(8, 0, 3, source)
    assert first.startswith(b"\x7fELF")
    monkeypatch.setattr(nvrtc, "compile_cuda", lambda *_: pytest.fail("compiled again"))
    assert kernel_image(8, 0, 3, source) == first


@pytest.mark.usefixtures("installed")
def test_a_damaged_image_is_compiled_again(source, place):
    first = kernel_image(8, 0, 3, source)
    (path,) = place.glob("*.cubin")
    path.write_bytes(path.read_bytes()[:-40])
    assert kernel_image(8, 0, 3, source) == first


@pytest.mark.usefixtures("installed")
def test_whatever_matters_changes_the_key(source, place, monkeypatch):
    compiled = []

    def compile_nothing(text, headers, arch, options, name):
        compiled.append((arch, options))
        return nvrtc.Compiled(b"code", "")

    monkeypatch.setattr(nvrtc, "compile_cuda", compile_nothing)
    for arguments in ((8, 0, 3), (8, 6, 3), (8, 0, 4)):
        kernel_image(*arguments, source)
    assert [arch for arch, _ in compiled] == ["sm_80", "sm_86", "sm_80"]
    assert [options[-1] for _, options in compiled] == ["-DCHANNELS=3", "-DCHANNELS=3", "-DCHANNELS=4"]
    (source.parent / "value.h").write_text("#define VALUE 1.0f\n")
    kernel_image(8, 0, 3, source)
    source.write_text(KERNEL + "// more\n")
    kernel_image(8, 0, 3, source)
    monkeypatch.setattr(nvrtc, "OPTIONS", (*nvrtc.OPTIONS, "-DMORE"))
    kernel_image(8, 0, 3, source)
    monkeypatch.setattr(nvrtc, "version", lambda: (99, 0))
    kernel_image(8, 0, 3, source)
    assert len(compiled) == len(list(place.glob("*.cubin"))) == 7


@pytest.mark.usefixtures("installed")
def test_unknown_gpus_get_ptx(source):
    image = kernel_image(13, 7, 3, source)
    newest = max(arch for arch in supported_archs() if arch < 137)
    assert f".target sm_{newest}\n".encode() in image
    assert image.endswith(b"\0")
    assert b"0f40400000" in image, "3.0f, the number of channels"


@pytest.mark.usefixtures("installed")
def test_gpus_between_known_ones(source, monkeypatch):
    monkeypatch.setattr(nvrtc, "supported_archs", lambda: [75, 80, 120])
    assert b".target sm_80" in kernel_image(8, 6, 3, source)


@pytest.mark.usefixtures("installed")
def test_gpus_that_are_too_old(source):
    oldest = supported_archs()[0]
    sentence = rf"NVRTC \d+\.\d+ compiles for GPUs of compute capability {oldest / 10} and above, not 2\.0\.$"
    with pytest.raises(BuildError, match=sentence):
        kernel_image(2, 0, 3, source)


@pytest.fixture
def unsearched():
    """The library that was found is forgotten before and after."""
    nvrtc._library.cache_clear()
    yield
    nvrtc._library.cache_clear()


@pytest.mark.usefixtures("unsearched")
@pytest.mark.parametrize("found", [[], ["libno-such-nvrtc.so"]])
def test_no_nvrtc(found, source, monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda major: found)
    with pytest.raises(BuildError, match=r"NVRTC .*was not found.*nvidia-cuda-nvrtc brings it\.$"):
        kernel_image(8, 0, 3, source)


def test_the_library_of_pytorchs_cuda_version(tmp_path, monkeypatch):
    files = (
        "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
        "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.8",
        "nvidia/cu13/lib/libnvrtc.so.13",
        "nvidia/cu13/lib/libnvrtc.alt.so.13",
        "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
        "nvidia/cu13/bin/x86_64/nvrtc64_130_0.dll",
        "torch/lib/libnvrtc-672ee683.so.11.2",
        "torch/lib/libnvrtc-builtins-5c3f5b1a.so.11.2",
        "toolkit/lib64/libnvrtc.so.12.4.99",
    )
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))

    def candidates(major):
        paths = map(Path, nvrtc._candidates(major))
        return [str(path.relative_to(tmp_path)) for path in paths if path.is_relative_to(tmp_path)]

    assert candidates("12") == [files[0], files[8]]
    assert candidates("13") == [files[2], files[5]]
    assert candidates("11") == [files[6]]
    assert set(candidates("")) == {files[i] for i in (0, 2, 5, 6, 8)}
    assert any(re.fullmatch(r"libnvrtc\.so\.13|nvrtc64_130_0\.dll", name) for name in nvrtc._candidates("13"))
