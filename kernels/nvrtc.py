"""CUDA C++ compiled at run time by NVRTC, the compiler library that CUDA builds of PyTorch bring along."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kernels.cache import BuildError, cached, digest, failure

SOURCE = Path(__file__).parent / "source" / "device.cu"
OPTIONS = (
    *("--std=c++17", "-default-device"),
    # The source says where multiply-adds are fused, so that CPU and GPU agree on the pixels that count.
    "--fmad=false",
    # Puts what `resources` reads into the log.
    "--ptxas-options=-v",
)

_PROPERTIES = re.compile(
    r"Function properties for (\S+)\s+(?:ptxas\s+\.)?\s*"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r"(?:\s+ptxas info\s*: Used (\d+) registers)?"
)


class Compiled(NamedTuple):
    """A cubin, or PTX with a final zero byte, and what the compiler said."""

    code: bytes
    log: str


class Resources(NamedTuple):
    """What a thread of a kernel uses: registers, and bytes of local memory."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


def version() -> tuple[int, int]:
    """NVRTC's version, which is its toolkit's.

    Raises:
        BuildError: there is no NVRTC for this PyTorch.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    _checked("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def supported_archs() -> list[int]:
    """Architectures that NVRTC compiles for, ascending: 90 stands for compute capability 9.0."""
    count = ctypes.c_int()
    _checked("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    archs = (ctypes.c_int * count.value)()
    _checked("nvrtcGetSupportedArchs", archs)
    return sorted(archs)


def compile_cuda(
    source: str, headers: Mapping[str, str], arch: str, options: Sequence[str] = OPTIONS, name: str = "device.cu"
) -> Compiled:
    """Compile a CUDA C++ text; needs neither a GPU nor a driver.

    Args:
        source: the text.
        headers: texts of what it may include, by name.
        arch: "sm_90" for a cubin, "compute_90" for PTX.
        options: NVRTC's, besides the architecture.
        name: what messages call the source.

    Raises:
        BuildError: there is no NVRTC, or the text does not compile.
    """
    program = ctypes.c_void_p()
    texts, names = _strings(list(headers.values())), _strings(list(headers))
    _checked("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), len(headers), texts, names)
    try:
        words = [f"--gpu-architecture={arch}", *options]
        code = _library().nvrtcCompileProgram(program, len(words), _strings(words))
        log = _text("ProgramLog", program).rstrip(b"\0").decode(errors="replace")
        if code != 0:
            report = f"NVRTC {' '.join(words)}\n\n{_error(code)}\n{log}"
            raise failure(f"NVRTC could not compile {name} for {arch}", f"{Path(name).stem}-{digest(report)}", report)
        return Compiled(_text("CUBIN" if arch.startswith("sm_") else "PTX", program), log)
    finally:
        _library().nvrtcDestroyProgram(ctypes.byref(program))


def kernel_image(major: int, minor: int, channels: int, source: Path = SOURCE) -> bytes:
    """Our kernels for GPUs of compute capability major.minor and images of some channels, from the cache if possible.

    A cubin, or PTX where NVRTC does not know the GPU: drivers translate that for newer ones.

    Raises:
        BuildError: there is no NVRTC, the GPU is older than all that it knows, or it failed.
    """
    arch = _best_arch(10 * major + minor)
    headers = {file.name: file.read_text(encoding="utf-8") for file in sorted(source.parent.glob("*.h"))}
    text, options = source.read_text(encoding="utf-8"), (*OPTIONS, f"-DCHANNELS={channels}")
    key = digest(text, *(part for item in headers.items() for part in item), "", arch, *options, repr(version()))

    def make(out: Path) -> None:
        out.write_bytes(compile_cuda(text, headers, arch, options, source.name).code)

    return cached(f"{source.stem}-{arch}.{'cubin' if arch.startswith('sm_') else 'ptx'}", key, make).data


def resources(log: str) -> dict[str, Resources]:
    """What each kernel uses, by its name in the binary, from the log of a cubin compiled with `OPTIONS`.

    Functions that kernels call and that are not inlined have entries of their own, with 0 registers.
    """
    return {
        name: Resources(int(registers or 0), int(stack), int(stores), int(loads))
        for name, stack, stores, loads, registers in _PROPERTIES.findall(log)
    }


def _best_arch(wanted: int) -> str:
    known = supported_archs()
    if wanted in known:
        return f"sm_{wanted}"
    older = [arch for arch in known if arch < wanted]
    if not older:
        raise BuildError(
            f"NVRTC {'.'.join(map(str, version()))} compiles for GPUs of compute capability {known[0] / 10} and above, "
            f"not {wanted / 10}."
        )
    return f"compute_{older[-1]}"


def _strings(values: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))


def _text(what: str, program: ctypes.c_void_p) -> bytes:
    """One of a program's results: PTX, CUBIN or ProgramLog."""
    size = ctypes.c_size_t()
    _checked(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _checked(f"nvrtcGet{what}", program, buffer)
    return buffer.raw


def _checked(function: str, *arguments: Any) -> None:
    code = getattr(_library(), function)(*arguments)
    if code != 0:
        raise BuildError(f"{function} failed: {_error(code)}.")


def _error(code: int) -> str:
    describe = _library().nvrtcGetErrorString
    describe.restype = ctypes.c_char_p
    text: bytes = describe(code)
    return text.decode()


@functools.cache
def _library() -> ctypes.CDLL:
    """NVRTC of the CUDA version that PyTorch was built for; of any version if it was built for none."""
    tried = []
    for path in _candidates((torch.version.cuda or "").split(".")[0]):
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
    wanted = f"NVRTC of CUDA {torch.version.cuda}" if torch.version.cuda else "NVRTC"
    detail = f" ({tried[0]})" if tried else ""
    raise BuildError(f"{wanted} was not found{detail}; the package nvidia-cuda-nvrtc brings it.")


def _candidates(major: str) -> Iterator[str]:
    """Paths and names to try: packages of PyTorch's environment, what is loaded or installed, a toolkit."""
    for folder in _package_folders():
        yield from _inside(folder, major)
    if sys.platform == "win32":
        yield f"nvrtc64_{major}0_0.dll"
    else:
        yield f"libnvrtc.so.{major}" if major else "libnvrtc.so"
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if root := os.environ.get(variable):
            for part in ("lib64", "lib", "bin"):
                yield from _inside(Path(root, part), major)


def _package_folders() -> Iterator[Path]:
    """Where packages of an environment keep NVRTC: those beside PyTorch first."""
    site = Path(torch.__file__).parents[1]
    spec = importlib.util.find_spec("nvidia")
    roots = [site / "nvidia", *map(Path, (spec and spec.submodule_search_locations) or ())]
    for root in dict.fromkeys(roots):
        for part in ("*/lib", "*/bin", "*/bin/x86_64"):
            yield from sorted(root.glob(part))
    yield from (site / "torch" / "lib", Path(sys.prefix, "lib"), Path(sys.prefix, "Library", "bin"))


def _inside(folder: Path, major: str) -> Iterator[str]:
    """NVRTC in a folder, newest first; some wheels of PyTorch add a hash to the name. Not its builtins or variants."""
    pattern = re.compile(
        rf"libnvrtc(-[0-9a-f]{{8}})?\.so\.{major or '[0-9]+'}(\.|$)|nvrtc64_{major or '[0-9]+'}\d_0\.dll"
    )
    found = [path for path in folder.glob("*nvrtc*") if pattern.match(path.name)]
    yield from map(str, sorted(found, reverse=True))
