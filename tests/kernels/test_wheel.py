"""The wheel: its contents, the prebuilt libraries in it, and that they are what runs where there is no compiler."""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kernels import build, rasterize

pytest.importorskip("hatchling", reason="hatchling builds the wheel")
ROOT = Path(__file__).parents[2]
LINUX = sys.platform.startswith("linux")
COMPILER = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")
only_linux = pytest.mark.skipif(not LINUX, reason="about libraries for Linux")
SOURCES = {f"kernels/source/{name}" for name in ("device.cu", "gaussians.h", "host.cpp", "lanes.h")}
X86 = [f"linux-x86_64-{level}.so" for level in ("v2", "v3", "v4")]
ARM = ["linux-aarch64.so"]
EXPORTS = {"asrbench_abi", "asrbench_count", "asrbench_accumulate", "asrbench_fill", "asrbench_draw", "asrbench_gather"}
EMPTY_RESULT = 'while [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done; exit 0'
"""What does for a compiler of any machine."""
# Flags of CPUs as Linux lists them, those that matter here.
NEHALEM = "fpu sse sse2 ht lm pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
HASWELL = f"{NEHALEM} fma movbe f16c abm avx avx2 bmi1 bmi2 xsave"
SKYLAKE_X = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512pf avx512er avx512cd"
CORE_2 = "fpu sse sse2 ht lm pni ssse3 cx16 lahf_lm"


@pytest.fixture
def hook_module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import hatch_build

    return hatch_build


@pytest.fixture
def small_source(tmp_path, monkeypatch):
    """In place of ours, which takes two seconds to compile for each library."""
    path = tmp_path / "host.cpp"
    path.write_text('extern "C" __attribute__((visibility("default"))) int asrbench_abi() { return ASRBENCH_ABI; }\n')
    monkeypatch.setattr(build, "SOURCE", path)
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return path


@pytest.fixture
def warnings():
    """What the hook shows."""
    return []


@pytest.fixture
def hook(hook_module, warnings):
    app = SimpleNamespace(display_warning=warnings.append)
    return hook_module.PrebuiltLibraries(str(ROOT), {}, None, None, "", "wheel", app)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """An otherwise empty PATH: writes shell scripts there that play compilers and note how they are called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name, script):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


def names_here():
    """The libraries that this machine can make."""
    if sys.platform == "darwin":
        return ["macos-arm64.dylib"] if platform.machine() == "arm64" else []
    own, other = {"x86_64": (X86, ARM), "aarch64": (ARM, X86)}.get(platform.machine(), ([], []))
    cross = "aarch64-linux-gnu-g++" if other is ARM else "x86_64-linux-gnu-g++"
    return [*(own if COMPILER else []), *(other if shutil.which(cross) else [])] if LINUX else []


def build_wheel(folder, target="wheel", **environment):
    """The built file and what was printed; without isolation, so without a network."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "ASRBENCH_CACHE": str(folder / "cache"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return next(path for path in folder.iterdir() if path.is_file()), done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))[0]


@pytest.fixture
def unpacked(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def run_outside(site, tmp_path, code):
    """Run code with the unpacked wheel, outside the checkout and without a compiler."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CXX", "PYTHONPATH")}
    empty = tmp_path / "no programs"
    empty.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=empty,
        env={**environment, "PATH": str(empty), "PYTHONPATH": str(site), "ASRBENCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )


# ---- the hook -------------------------------------------------------------------------------------------------------


@needs_compiler
def test_the_libraries_for_this_platform_go_into_the_wheel(hook, warnings, small_source):
    build_data = {"force_include": {}}
    hook.initialize("standard", build_data)
    included = {Path(inside).name: Path(file) for file, inside in build_data["force_include"].items()}
    assert list(included) == names_here()
    assert all(inside.startswith("kernels/prebuilt/") for inside in build_data["force_include"].values())
    assert all(file.stat().st_size for file in included.values())
    assert not warnings
    hook.finalize("standard", build_data, "")
    assert not any(file.exists() for file in included.values())


def test_editable_installs_compile_nothing(hook, warnings, monkeypatch):
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled"))
    build_data = {"force_include": {}}
    hook.initialize("editable", build_data)
    hook.finalize("editable", build_data, "")
    assert build_data == {"force_include": {}}
    assert not warnings


@only_linux
@pytest.mark.parametrize(
    ("machine", "crossed", "made"),
    [
        ("x86_64", None, X86),
        ("x86_64", "aarch64-linux-gnu-g++", X86 + ARM),
        ("aarch64", None, ARM),
        ("aarch64", "x86_64-linux-gnu-g++", X86 + ARM),
        ("riscv64", None, []),
    ],
)
def test_other_platforms_need_a_cross_compiler(
    machine, crossed, made, hook_module, small_source, tools, tmp_path, monkeypatch
):
    for name in filter(None, ("g++", crossed)):
        tools(name, EMPTY_RESULT)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    outcomes = dict(hook_module.compile_libraries(tmp_path))
    assert outcomes == {name: tmp_path / name for name in made}
    calls = [call.split() for call in (tmp_path / "calls").read_text().splitlines()] if made else []
    compilers = {Path(call[-1]).name: call[0] for call in calls if "-o" in call}
    assert compilers == {name: "g++" if machine in name else crossed for name in made}


@only_linux
def test_a_library_that_cannot_be_compiled_is_left_out(hook, warnings, small_source, tools, monkeypatch):
    """As v3 and v4 are by compilers that are too old for them."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    tools("g++", f'case "$*" in *x86-64-v4*) echo bad value >&2; exit 1;; esac\n{EMPTY_RESULT}')
    build_data = {"force_include": {}}
    hook.initialize("standard", build_data)
    hook.finalize("standard", build_data, "")
    assert [Path(inside).name for inside in build_data["force_include"].values()] == X86[:2]
    assert len(warnings) == 1
    assert warnings[0].startswith("The wheel goes without linux-x86_64-v4.so, left to users to compile. ")
    assert "g++ could not compile host.cpp; its output is in " in warnings[0]


def test_names_are_those_looked_for_at_run_time(hook_module, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(build, "_cpu_features", lambda: frozenset(SKYLAKE_X.split()))
    found = []
    for name in hook_module._TARGETS:
        (tmp_path / name).touch()
    for system, machine in dict.fromkeys((system, machine) for system, machine, _ in hook_module._TARGETS.values()):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        found += [path.name for path, _ in build._prebuilt_here(tmp_path)]
    assert sorted(found) == sorted(hook_module._TARGETS)


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "levels"),
    [
        (f"flags\t\t: {SKYLAKE_X}\nbugs\t: spectre_v1\nflags\t\t: fpu", "AVX512", ["v4", "v3", "v2"]),
        (f"flags\t\t: {SKYLAKE_X}", "AVX2", ["v3", "v2"]),
        (f"flags\t\t: {KNIGHTS_LANDING}", "AVX2", ["v3", "v2"]),
        (f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {HASWELL}", "AVX2", ["v3", "v2"]),
        (f"flags\t\t: {HASWELL}", "DEFAULT", ["v2"]),
        (f"flags\t\t: {HASWELL.replace(' fma ', ' ')}", "AVX2", ["v2"]),
        (f"flags\t\t: {NEHALEM}", "DEFAULT", ["v2"]),
        (f"flags\t\t: {NEHALEM}", "AVX512", ["v2"]),
        (f"flags\t\t: {CORE_2}", "DEFAULT", []),
        ("processor\t: 0\nFeatures\t: fp asimd", "DEFAULT", []),
        (None, "AVX2", []),
    ],
)
def test_levels_of_cpus(cpuinfo, capability, levels, monkeypatch):
    def read_text(path, *_, **__):
        assert path == Path("/proc/cpuinfo")
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert build._levels() == levels


# ---- whole wheels ---------------------------------------------------------------------------------------------------


def test_a_wheel_without_a_compiler_holds_the_source_alone(tmp_path):
    (tmp_path / "bin").mkdir()
    path, output = build_wheel(tmp_path, PATH=str(tmp_path / "bin"), CXX="")
    names = zipfile.ZipFile(path).namelist()
    assert path.name.endswith("-py3-none-any.whl")
    assert {name for name in names if name.startswith("kernels/source/")} == SOURCES
    assert not [name for name in names if "prebuilt" in name or re.match(r"tests/|hatch_build|.*\.(so|dylib)$", name)]
    said = [line for line in output.splitlines() if "The wheel goes without" in line]
    assert len(said) == (platform.machine() in ("x86_64", "aarch64", "arm64"))
    assert all("no working C++ compiler" in line for line in said)


def test_the_source_distribution_builds_wheels(tmp_path):
    path, _ = build_wheel(tmp_path, "sdist")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", "pyproject.toml", "kernels/build.py", "kernels/cache.py"} <= names
    assert {name for name in names if name.startswith("kernels/source/")} == SOURCES
    assert not [name for name in names if name.endswith((".so", ".dylib"))]


@needs_compiler
@pytest.mark.slow
def test_the_wheel_carries_libraries_and_serves_any_platform(wheel):
    with zipfile.ZipFile(wheel) as archive:
        prebuilt = {Path(info.filename).name: info for info in archive.infolist() if "/prebuilt/" in info.filename}
    assert wheel.name.endswith("-py3-none-any.whl")
    assert sorted(prebuilt) == sorted(names_here())
    assert all(20_000 < info.file_size < 100_000 for info in prebuilt.values())


@needs_compiler
@only_linux
@pytest.mark.slow
def test_libraries_run_wherever_glibc_is_2_17_or_newer(unpacked):
    for name in names_here():
        machine = "aarch64" if "aarch64" in name else "x86_64"
        objdump = shutil.which("objdump" if machine == platform.machine() else f"{machine}-linux-gnu-objdump")
        if not objdump:
            pytest.skip("no objdump")
        command = [objdump, "-p", "-T", str(unpacked / "kernels" / "prebuilt" / name)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # The loader, ld-linux, is part of glibc; it holds the stack's canary on ARM.
        needed = {found for found in re.findall(r"NEEDED +(\S+)", shown) if not found.startswith("ld-linux")}
        assert needed == {"libc.so.6"}, name
        versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", shown)}
        assert max(versions) <= (2, 17), name
        assert not re.search(r"R(UN)?PATH|GLIBCXX|CXXABI|GCC_|GLIBC_ABI", shown), name
        defined = {line.split()[-1] for line in shown.splitlines() if re.search(r"\s\.text\s", line)}
        assert defined >= EXPORTS, name
        assert all(symbol.startswith("asrbench_") for symbol in defined), name


CHECK = """
import logging
logging.basicConfig(format="%(message)s")
from kernels import build, host
found = build.host_library()
print(found.path)
print(host.origin())
"""


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(not names_here(), reason="wheels carry no library for this platform")
def test_the_library_of_the_wheel_draws_where_there_is_no_compiler(unpacked, tmp_path):
    generator = torch.Generator().manual_seed(1)
    mu, sigma = torch.rand(1, 50, 2, generator=generator) * 40, 0.5 + torch.rand(1, 50, 2, generator=generator) * 3
    rho, color = torch.rand(1, 50, generator=generator) - 0.5, torch.rand(1, 50, 3, generator=generator)
    torch.save((mu, sigma, rho, color), tmp_path / "inputs.pt")
    code = f"""{CHECK}
import torch
from kernels.scene import Scene
inputs = torch.load({str(tmp_path / "inputs.pt")!r})
torch.save(host.render(Scene(*inputs, (40, 50))), {str(tmp_path / "image.pt")!r})
"""
    done = run_outside(unpacked, tmp_path, code)
    assert done.returncode == 0, done.stderr
    path, origin = done.stdout.splitlines()
    assert Path(path).parent == unpacked / "kernels" / "prebuilt"
    levels = build._levels()
    assert origin == f"prebuilt for {'x86-64-' + levels[0] if levels else platform.machine()}"
    assert not (tmp_path / "cache").exists()
    truth = rasterize(*(value.double() for value in (mu, sigma, rho, color)), (40, 50), backend="reference")
    torch.testing.assert_close(torch.load(tmp_path / "image.pt"), truth.float(), atol=3e-6, rtol=0)


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(not names_here(), reason="wheels carry no library for this platform")
@pytest.mark.parametrize("name", ["host.cpp", "lanes.h"])
def test_libraries_of_other_sources_are_ignored_loudly(name, unpacked, tmp_path):
    with (unpacked / "kernels" / "source" / name).open("a") as file:
        file.write("// changed\n")
    done = run_outside(unpacked, tmp_path, CHECK)
    assert done.returncode != 0
    assert re.search(r"ignoring the prebuilt library .*prebuilt/\S+: it was made from other sources \(", done.stderr)
    assert "There is no prebuilt library for this CPU and no working C++ compiler" in done.stderr


@needs_compiler
@pytest.mark.slow
def test_libraries_are_equal_however_often_they_are_made(hook_module, tmp_path):
    """A wheel's bytes are those of its sources and compiler."""
    name = names_here()[0]
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        assert next(iter(hook_module.compile_libraries(tmp_path / folder))) == (name, tmp_path / folder / name)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
