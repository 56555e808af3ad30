"""Shared by all tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

_REPORT = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(status[name].split()[0] for name in ("VmHWM", "RssFile")))
"""


@pytest.fixture
def peak_mib() -> Callable[[str], float]:
    """Peak memory in MiB of a fresh interpreter that runs some code, without the pages of mapped files.

    Those are PyTorch's libraries, of which each file system maps more or less at a time. Not `ru_maxrss`: a child
    inherits that from its parent.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")

    def measure(code: str) -> float:
        done = subprocess.run([sys.executable, "-c", code + _REPORT], capture_output=True, text=True, check=True)
        peak, mapped = map(int, done.stdout.split()[-2:])
        return (peak - mapped) / 1024

    return measure
