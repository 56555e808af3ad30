"""Puts prebuilt libraries of the CPU rasterizer into wheels, so that it is fast where there is no compiler.

They are compiled while the wheel is built and are no part of the repository. They know nothing of Python and are chosen
at run time by platform and CPU, so one wheel, tagged for any platform, serves all. Without a compiler the wheel holds
the source alone, which `kernels.build` compiles on the user's machine if it can. Editable installs do that, too.
"""

from __future__ import annotations

import importlib
import platform
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
_STRIP = "-s"
_TARGETS = {
    "linux-x86_64-v2.so": ("linux", "x86_64", ("-march=x86-64-v2", _STRIP)),
    "linux-x86_64-v3.so": ("linux", "x86_64", ("-march=x86-64-v3", _STRIP)),
    "linux-x86_64-v4.so": ("linux", "x86_64", ("-march=x86-64-v4", _STRIP)),
    # Atomics inline: out of line, they would ask the C library for the CPU's features when it is loaded.
    "linux-aarch64.so": ("linux", "aarch64", ("-march=armv8-a", "-mno-outline-atomics", _STRIP)),
    "macos-arm64.dylib": ("darwin", "arm64", ("-mmacosx-version-min=11.0",)),
}
"""System, machine and options of each library, by the names that `kernels.build` looks for."""


class PrebuiltLibraries(BuildHookInterface[Any]):
    """What hatchling calls before and after it makes a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        self._place = TemporaryDirectory(prefix="asrbench-wheel-")
        absent: dict[str, list[str]] = {}
        for name, outcome in compile_libraries(Path(self._place.name)):
            if isinstance(outcome, Path):
                build_data["force_include"][str(outcome)] = f"kernels/prebuilt/{name}"
            else:
                absent.setdefault(outcome, []).append(name)
        for reason, names in absent.items():
            self.app.display_warning(f"The wheel goes without {', '.join(names)}, left to users to compile. {reason}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._place.cleanup()


def compile_libraries(folder: Path) -> Iterator[tuple[str, Path | str]]:
    """Compile what this machine can; yields names, each with the file in the folder or the reason why there is none."""
    build = _kernels_build()
    for name, (system, machine, options) in _TARGETS.items():
        compiler = None if machine == platform.machine() else f"{machine}-linux-gnu-g++"
        if system != sys.platform or (compiler and not shutil.which(compiler)):
            continue
        try:
            build.compile_library(build.SOURCE, folder / name, options, compiler)
        except build.BuildError as error:
            yield name, str(error)
        else:
            yield name, folder / name


def _kernels_build() -> Any:
    """`kernels.build` without `kernels/__init__`, which needs PyTorch: that is not installed where wheels are built."""
    package = types.ModuleType("kernels")
    package.__path__ = [str(ROOT / "kernels")]
    sys.modules.setdefault("kernels", package)
    return importlib.import_module("kernels.build")
