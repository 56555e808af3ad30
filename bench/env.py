"""What a run ran on: versions, machine, settings of the environment. Nothing here imports torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The checkout, or the folder that the wheel was installed into."""
OUR_PACKAGES = ("bench", "methods", "kernels", "reports")
DEPENDENCIES = (
    *("torch", "numpy", "scipy", "pillow", "scikit-image"),
    *("safetensors", "pyarrow", "pandas", "filelock", "typer", "rich", "jinja2", "tabulate"),
)
OPTIONAL = ("torchvision", "lpips", "DISTS-pytorch", "nvidia-ml-py")
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "ASRBENCH_RASTERIZER",
    "ASRBENCH_CACHE",
)
"""Environment variables that can change speed, memory or the last digits."""
_DRIVER_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
"""On Linux; the last one is Windows' subsystem."""


def capture() -> dict[str, Any]:
    """Everything about this machine and installation that a reader of the results may ask for, as plain data.

    What cannot be found out is None. torch is described only if it was imported already.
    """
    gpus, no_gpus = nvidia_gpus()
    return {
        "asrbench": package_version("asrbench"),
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_mib": memory_mib(),
        "packages": {name: package_version(name) for name in (*DEPENDENCIES, *OPTIONAL)},
        "torch": torch_state(),
        "gpus": gpus,
        "gpus_reason": no_gpus,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "shadowed": shadowed_packages(),
    }


def package_version(distribution: str) -> str | None:
    """The installed version of a distribution, read from its metadata; None when it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def git_state(root: Path | None = None) -> dict[str, Any] | None:
    """Commit of a checkout, by default this one, and whether files differ from it; None outside one."""
    root = root or ROOT
    if not (root / ".git").exists():
        return None
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def cpu_model() -> str | None:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def cores() -> int | None:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def memory_mib() -> int | None:
    """Physical memory in MiB."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return None


def torch_state() -> dict[str, Any] | None:
    """Build and switches of torch that touch numbers and speed; None when it has not been imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
    }


def nvidia_gpus() -> tuple[list[dict[str, Any]], str | None]:
    """The NVIDIA GPUs that the driver reports, and why there are none."""
    try:
        import pynvml
    except ImportError:
        return [], "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "memory_mib": pynvml.nvmlDeviceGetMemoryInfo(handle).total >> 20,
                "driver": driver,
            }
            for handle in handles
        ]
        return gpus, None if gpus else "the driver reports no GPU"
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    finally:
        pynvml.nvmlShutdown()


def likely_device(name: str) -> str:
    """What the device "auto" will turn out to be, asked of torch if it is loaded and of the driver otherwise."""
    if name != "auto":
        return name
    torch = sys.modules.get("torch")
    if torch is not None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    cpu_build = "+cpu" in (package_version("torch") or "+cpu")
    return "cpu" if hidden or cpu_build or not driver_visible() or not nvidia_gpus()[0] else "cuda"


def driver_visible() -> bool:
    """Whether the system shows a sign of an NVIDIA driver; without one, NVML's module need not be imported."""
    return sys.platform != "linux" or any(Path(sign).exists() for sign in _DRIVER_SIGNS)


def shadowed_packages() -> Mapping[str, str]:
    """Which of our import names belong to another package here, and to which file or distribution."""
    foreign: dict[str, str] = {}
    for name in OUR_PACKAGES:
        spec = find_spec(name)
        where = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if where != ROOT / name:
            foreign[name] = str(where) if where else "not found"
        elif package_version(name) is not None:
            foreign[name] = f"the distribution {name} {package_version(name)} has the same import name"
    return foreign
