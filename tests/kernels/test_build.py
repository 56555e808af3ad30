"""The library of the CPU backend: compiled here or prebuilt, from small sources that are quick to compile."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kernels import build
from kernels.build import BuildError, compile_library, host_library, source_number

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler on this machine"
)
CODE = """
#include "value.h"
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int asrbench_abi() { return ASRBENCH_ABI; }
EXPORT int value() { return VALUE; }
EXPORT float product_and_sum(float a, float b, float c) { return a * b + c; }
EXPORT bool is_nan(float a) { return a != a; }
extern "C" int hidden() { return 0; }
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", 7)


@pytest.fixture
def prebuilt(tmp_path):
    (tmp_path / "prebuilt").mkdir()
    return tmp_path / "prebuilt"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """An otherwise empty PATH: writes shell scripts there that play compilers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))))
    monkeypatch.setenv("PATH", str(folder))

    def write(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\nPATH={os.path.dirname(real)}:/usr/bin:/bin\nREAL={real}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def write_source(folder, value):
    folder.mkdir(exist_ok=True)
    (folder / "value.h").write_text(f"#define VALUE {value}\n")
    (folder / "host.cpp").write_text(CODE)
    return folder / "host.cpp"


def load(library):
    loaded = ctypes.CDLL(str(library.path))
    loaded.product_and_sum.restype = ctypes.c_float
    loaded.product_and_sum.argtypes = loaded.is_nan.argtypes = [ctypes.c_float] * 3
    return loaded


def pretend(monkeypatch, capability, features, machine="x86_64"):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(build, "_cpu_features", lambda: features)


@needs_compiler
def test_compiled_for_this_cpu(source, prebuilt, place):
    library = host_library(source, prebuilt)
    assert library.path.parent == place
    assert re.fullmatch(r"compiled with (g|clang)\+\+ \d+\.\d+\.\d+ for this CPU", library.origin)
    loaded = load(library)
    assert loaded.value() == 7
    assert not hasattr(loaded, "hidden")


@needs_compiler
def test_arithmetic_is_as_written(source, prebuilt):
    """Neither fused, which would leave 2^-24, nor free to assume that numbers are finite."""
    loaded = load(host_library(source, prebuilt))
    assert loaded.product_and_sum(1 + 2**-12, 1 + 2**-12, -1 - 2**-11) == 0
    assert loaded.is_nan(float("nan"), 0, 0)
    assert "-ffast-math" not in build.FLAGS


@needs_compiler
def test_compiled_once(source, prebuilt, monkeypatch):
    first = host_library(source, prebuilt)
    monkeypatch.setattr(build, "compile_library", lambda *_: pytest.fail("compiled again"))
    assert host_library(source, prebuilt) == first


@needs_compiler
def test_a_damaged_library_is_compiled_again(source, prebuilt):
    path = host_library(source, prebuilt).path
    path.unlink()  # the loaded file itself must stay as it is
    path.write_bytes(b"\x7fELF")
    assert load(host_library(source, prebuilt)).value() == 7


@needs_compiler
def test_whatever_matters_changes_the_key(source, prebuilt, monkeypatch):
    paths = [host_library(source, prebuilt).path]
    write_source(source.parent, 8)
    paths.append(host_library(source, prebuilt).path)
    assert load(host_library(source, prebuilt)).value() == 8
    source.write_text(CODE + "// more\n")
    paths.append(host_library(source, prebuilt).path)
    (source.parent / "other.h").touch()
    paths.append(host_library(source, prebuilt).path)
    compiler = build._find_compiler()
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DMORE"))
    paths.append(host_library(source, prebuilt).path)
    another_cpu = compiler._replace(macros=compiler.macros + "#define __AVX9__ 1\n")
    monkeypatch.setattr(build, "_find_compiler", lambda: another_cpu)
    paths.append(host_library(source, prebuilt).path)
    assert len(set(paths)) == len(paths)


@needs_compiler
def test_the_compiler_describes_this_cpu():
    compiler = build._find_compiler()
    assert compiler.native, "no option for this CPU was accepted"
    if "avx2" in build._cpu_features():
        assert "#define __AVX2__ 1" in compiler.macros


@needs_compiler
def test_a_failed_compilation_keeps_its_log(source, prebuilt, place):
    source.write_text(CODE + "int broken = missing_name;\n")
    with pytest.raises(BuildError) as caught:
        host_library(source, prebuilt)
    log = caught.value.log
    assert log is not None
    assert log.parent == place
    assert re.fullmatch(rf"\S+ could not compile host\.cpp; its output is in {re.escape(str(log))}", str(caught.value))
    assert "missing_name" in log.read_text()
    assert "-ffp-contract=off" in log.read_text()
    assert not list(place.glob("*.so"))
    with pytest.raises(BuildError, match=re.escape(str(log))):
        host_library(source, prebuilt)


@needs_compiler
def test_a_result_that_cannot_be_loaded(source, prebuilt, monkeypatch):
    """As on file systems whose files may not be executed."""
    monkeypatch.setattr(build, "compile_library", lambda source, out, *_: out.write_bytes(b"nothing"))
    with pytest.raises(BuildError, match=r"cannot be loaded .*set ASRBENCH_CACHE to a folder"):
        host_library(source, prebuilt)


def test_no_compiler_at_all(source, prebuilt, monkeypatch):
    monkeypatch.setenv("PATH", "")
    sentence = "no prebuilt library for this CPU and no working C++ compiler (looked for $CXX, g++, clang++, c++)."
    with pytest.raises(BuildError, match=re.escape(sentence)):
        host_library(source, prebuilt)


def test_an_absent_cross_compiler(source, tmp_path):
    with pytest.raises(BuildError, match=r"^no-such-compiler could not compile host\.cpp") as caught:
        compile_library(source, tmp_path / "out.so", [], "no-such-compiler --option")
    assert caught.value.log is not None
    assert "No such file" in caught.value.log.read_text()


@needs_compiler
@pytest.mark.parametrize(("variable", "used"), [("{0}/mine --extra", "mine"), ("{0}/absent", "g++"), ("", "g++")])
def test_the_order_of_compilers(variable, used, source, prebuilt, tmp_path, tools, monkeypatch):
    for name in ("mine", "g++", "c++"):
        tools(name, f'echo {name} "$1" >>{tmp_path}/used\n[ "$1" = --extra ] && shift\nexec $REAL "$@"')
    tools("clang++", "exit 1")
    monkeypatch.setenv("CXX", variable.format(tmp_path / "bin"))
    assert load(host_library(source, prebuilt)).value() == 7
    lines = (tmp_path / "used").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {used}
    assert used != "mine" or all(line.endswith("--extra") for line in lines)


@needs_compiler
def test_a_broken_compiler_is_passed_over(source, prebuilt, tools):
    tools("g++", "echo cannot execute cc1plus >&2; exit 1")
    tools("clang++", 'exec $REAL "$@"')
    assert load(host_library(source, prebuilt)).value() == 7


@needs_compiler
def test_options_that_a_compiler_lacks(source, prebuilt, tools):
    tools("g++", 'case "$*" in *-march=native*) exit 1;; *-mcpu=native*) exit 1;; esac\nexec $REAL "$@"')
    assert load(host_library(source, prebuilt)).value() == 7
    assert build._find_compiler().native == ()


@needs_compiler
def test_a_compiler_that_hangs_is_killed_with_its_children(source, prebuilt, tmp_path, tools, monkeypatch):
    tools("g++", f'case "$*" in *-dM*) exit 0;; esac\necho begun\nsleep 60 & echo $! >{tmp_path}/pid; wait')
    monkeypatch.setattr(build, "TIME_LIMIT_S", 1.0)
    start = time.monotonic()
    with pytest.raises(BuildError, match=r"^g\+\+ took longer than 1 s on host\.cpp") as caught:
        host_library(source, prebuilt)
    assert time.monotonic() - start < 10
    assert caught.value.log is not None
    assert "begun" in caught.value.log.read_text()
    assert not is_running(int((tmp_path / "pid").read_text()))


def is_running(pid):
    """Not a zombie either, which a killed orphan stays where nobody collects it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the libraries of this test are for Linux")
@pytest.mark.parametrize(
    ("capability", "features", "shipped", "taken"),
    [
        ("AVX512", build._V4, "v2 v3 v4", "v4"),
        ("AVX512", build._V4, "v2 v3", "v3"),
        ("AVX2", build._V4, "v2 v3 v4", "v3"),  # PyTorch was told to refrain
        ("AVX512", build._V4 - {"avx512cd"}, "v2 v3 v4", "v3"),
        ("AVX2", build._V3, "v2 v3 v4", "v3"),
        ("AVX2", build._V3 - {"bmi2"}, "v2 v3 v4", "v2"),
        ("DEFAULT", build._V2, "v2 v3 v4", "v2"),
        ("DEFAULT", build._V3, "v3 v4", None),
        ("DEFAULT", build._V2 - {"sse4_2"}, "v2 v3 v4", None),
    ],
)
def test_the_best_prebuilt_library_that_this_cpu_runs(
    capability, features, shipped, taken, compiled, prebuilt, monkeypatch
):
    source, library = compiled
    for level in shipped.split():
        shutil.copy(library, prebuilt / f"linux-x86_64-{level}.so")
    pretend(monkeypatch, capability, features)
    monkeypatch.setenv("PATH", "")
    if taken:
        found = host_library(source, prebuilt)
        assert found.path == prebuilt / f"linux-x86_64-{taken}.so"
        assert found.origin == f"prebuilt for x86-64-{taken}"
    else:
        with pytest.raises(BuildError, match="no prebuilt library for this CPU"):
            host_library(source, prebuilt)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A source and its library, shared by tests that only copy it."""
    folder = tmp_path_factory.mktemp("compiled")
    source = write_source(folder, 7)
    compile_library(source, folder / "library.so", [])
    return source, folder / "library.so"


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the libraries of this test are for Linux")
def test_other_architectures_have_one_library(compiled, prebuilt, monkeypatch):
    source, library = compiled
    shutil.copy(library, prebuilt / "linux-aarch64.so")
    pretend(monkeypatch, "DEFAULT", frozenset(), "aarch64")
    assert host_library(source, prebuilt) == (prebuilt / "linux-aarch64.so", "prebuilt for aarch64")


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the libraries of this test are for Linux")
@pytest.mark.parametrize("fault", ["other sources", "no library", "no number"])
def test_prebuilt_libraries_that_do_not_fit_are_ignored_loudly(
    fault, compiled, source, prebuilt, monkeypatch, caplog, tmp_path
):
    shipped = prebuilt / "linux-x86_64-v2.so"
    if fault == "other sources":
        shutil.copy(compiled[1], shipped)
        write_source(source.parent, 8)
    elif fault == "no library":
        shipped.write_bytes(b"nothing")
    else:
        (tmp_path / "other.cpp").write_text("int nothing;\n")
        compile_library(tmp_path / "other.cpp", shipped, [])
    pretend(monkeypatch, "DEFAULT", build._V2)
    with caplog.at_level(logging.WARNING):
        library = host_library(source, prebuilt)
    assert library.origin.startswith("compiled with")
    assert f"ignoring the prebuilt library {shipped}" in caplog.text


@needs_compiler
def test_builds_of_wheels_need_no_pytorch(source, tmp_path):
    code = f"""
import sys, types
sys.modules["torch"] = sys.modules["numpy"] = None
sys.modules["kernels"] = types.ModuleType("kernels")
sys.modules["kernels"].__path__ = [{str(Path(build.__file__).parent)!r}]
from pathlib import Path
from kernels.build import compile_library
compile_library(Path({str(source)!r}), Path({str(tmp_path / "out.so")!r}), [])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ctypes.CDLL(str(tmp_path / "out.so")).asrbench_abi() == source_number(source)


@needs_compiler
def test_our_source_knows_its_number(tmp_path):
    """Without it no library of ours would count as prebuilt. Not optimised, to be quick."""
    compile_library(build.SOURCE, tmp_path / "host.so", ["-O0"])
    assert ctypes.CDLL(str(tmp_path / "host.so")).asrbench_abi() == source_number(build.SOURCE)
