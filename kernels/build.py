"""The CPU backend's library: one that came with the wheel, else compiled by this machine's C++ compiler."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kernels.cache import CACHE_VARIABLE, BuildError, cached, digest, failure

SOURCE = Path(__file__).parent / "source" / "host.cpp"
PREBUILT = Path(__file__).parent / "prebuilt"
"""Only in wheels: linux-x86_64-v2.so, linux-x86_64-v3.so, linux-x86_64-v4.so, linux-aarch64.so, macos-arm64.dylib."""
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden"),
    # The source says where multiply-adds are fused: compilers would decide that anew for every loop.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"),
)
TIME_LIMIT_S = 120.0
"""For one run of the compiler."""

_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_LEVELS = {"v4": _V4, "v3": _V3, "v2": _V2}
"""What /proc/cpuinfo lists where the levels of x86-64 can run, best first."""
_CEILINGS = {"AVX2": "v3", "DEFAULT": "v2", "NO AVX": "v2"}
"""By what PyTorch takes this CPU for, as users can make it refrain from more."""
_NO_COMPILER = "no working C++ compiler (looked for $CXX, g++, clang++, c++)."
_MACRO = re.compile(r"^#define (__\w+__) (.*)$", re.MULTILINE)
_log = logging.getLogger(__name__)


class HostLibrary(NamedTuple):
    """A library that loads here, and in a few words where it comes from."""

    path: Path
    origin: str


class _Compiler(NamedTuple):
    """A command that works here, the option that makes it use all of this CPU, and its predefined macros."""

    command: str
    native: tuple[str, ...]
    macros: str


def host_library(source: Path = SOURCE, prebuilt: Path = PREBUILT) -> HostLibrary:
    """Find the library or compile it; the latter takes seconds and happens once per machine and version.

    Raises:
        BuildError: there is neither a prebuilt library nor a compiler, or the compiler or loading failed.
    """
    for path, cpu in _prebuilt_here(prebuilt):
        if problem := _misfit(path, source_number(source)):
            _log.warning("ignoring the prebuilt library %s: %s", path, problem)
        else:
            return HostLibrary(path, f"prebuilt for {cpu}")
    try:
        compiler = _find_compiler()
    except BuildError:
        raise BuildError(f"There is no prebuilt library for this CPU and {_NO_COMPILER}") from None
    key = digest(_text(source), *FLAGS, *compiler.native, compiler.macros)
    built = cached(
        f"{source.stem}{_suffix()}",
        key,
        lambda out: compile_library(source, out, compiler.native, compiler.command),
    )
    try:
        ctypes.CDLL(str(built.path))
    except OSError as error:
        remedy = f"set {CACHE_VARIABLE} to a folder whose files may be executed"
        raise BuildError(f"The compiled library cannot be loaded ({error}): {remedy}.") from None
    return HostLibrary(built.path, f"compiled with {_title(compiler)} for this CPU")


def compile_library(source: Path, out: Path, flags: Sequence[str], compiler: str | None = None) -> None:
    """Compile a C++ file, which may include headers beside it, to a shared library.

    Args:
        source: sees the macro ASRBENCH_ABI, which is `source_number(source)`.
        out: a path that ends in .dylib is for macOS.
        flags: for the CPU, like "-march=x86-64-v3", and whatever a cross compiler needs; beside `FLAGS`.
        compiler: a command, possibly with arguments; by default the one for this machine.

    Raises:
        BuildError: the compiler is absent, fails or takes longer than `TIME_LIMIT_S`.
    """
    words = shlex.split(compiler or _find_compiler().command)
    linker = () if out.suffix == ".dylib" else ("-Wl,--as-needed",)
    define = f"-DASRBENCH_ABI={source_number(source)}"
    command = [*words, *FLAGS, *flags, define, *linker, str(source), "-o", str(out)]
    # Compilers leave temporary files when they are killed: beside the result, which may be a folder to be removed.
    code, output = _run(command, {"TMPDIR": str(out.parent)})
    if code != 0 or not out.is_file():
        reason = f"took longer than {TIME_LIMIT_S:g} s on" if code is None else "could not compile"
        log = f"{shlex.join(command)}\n\n{output}"
        key = digest(_text(source), *words, *FLAGS, *flags, out.name)
        raise failure(f"{words[0]} {reason} {source.name}", f"{source.stem}-{key}", log)


def source_number(source: Path) -> int:
    """A positive 31-bit number of what a library is compiled from; its `int asrbench_abi(void)` has to return it."""
    return int(digest(_text(source))[:8], 16) >> 1


def _text(source: Path) -> str:
    """The source and all headers beside it, with their names."""
    files = [*sorted(source.parent.glob("*.h")), source]
    return digest(*(part for file in files for part in (file.name, file.read_bytes())))


def _suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def _prebuilt_here(folder: Path) -> Iterator[tuple[Path, str]]:
    """The prebuilt libraries that exist for this platform and can run on this CPU, best first, each with its CPU."""
    system, machine = {"darwin": "macos"}.get(sys.platform, sys.platform), platform.machine().lower()
    names = [f"x86-64-{level}" for level in _levels()] if machine in ("x86_64", "amd64") else [machine]
    for cpu in names:
        path = folder / f"{system}-{cpu.replace('x86-64', 'x86_64')}{_suffix()}"
        if path.is_file():
            yield path, cpu


def _levels() -> list[str]:
    """The levels of x86-64 that can run here, best first."""
    import torch  # builds of wheels use this module without it

    features, ceiling = _cpu_features(), _CEILINGS.get(torch.backends.cpu.get_cpu_capability(), "v4")
    return [level for level, needed in _LEVELS.items() if level <= ceiling and needed <= features]


def _cpu_features() -> frozenset[str]:
    """Flags of the first core as Linux names them; none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def _misfit(path: Path, number: int) -> str | None:
    """Why a library cannot serve, if so."""
    try:
        found = ctypes.CDLL(str(path)).asrbench_abi()
    except (OSError, AttributeError) as error:
        return str(error)
    return None if found == number else f"it was made from other sources ({found}, not {number})"


def _find_compiler() -> _Compiler:
    """The first compiler that works here; $CXX may hold a command with arguments, such as "ccache g++"."""
    for command in (os.environ.get("CXX", ""), "g++", "clang++", "c++"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            for native in _native_options():
                code, macros = _run([*words, *native, "-dM", "-E", "-x", "c++", os.devnull], {})
                if code == 0:
                    return _Compiler(command, native, macros)
    raise BuildError(f"There is {_NO_COMPILER}")


def _native_options() -> list[tuple[str, ...]]:
    """In the order in which they are tried: each compiler and architecture has its own spelling, if any."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return [("-mcpu=native",), ("-march=native",), ()]
    return [("-march=native",), ("-mcpu=native",), ()]


def _title(compiler: _Compiler) -> str:
    """For example "g++ 12.2.0"."""
    macros: dict[str, str] = dict(_MACRO.findall(compiler.macros))
    if "__clang_major__" in macros:
        return "clang++ " + ".".join(macros[f"__clang_{part}__"] for part in ("major", "minor", "patchlevel"))
    return f"g++ {macros.get('__VERSION__', '').strip(chr(34))}".strip()


def _run(command: list[str], environment: dict[str, str]) -> tuple[int | None, str]:
    """Exit code, None if the time was up, and what the command printed."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C", **environment},
            start_new_session=True,
        )
    except OSError as error:
        return 127, str(error)
    with process:
        try:
            output, _ = process.communicate(timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            return None, process.communicate()[0]
        except BaseException:
            _kill(process)
            raise
    return process.returncode, output


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a compiler with the programs that it started, which would go on otherwise."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
