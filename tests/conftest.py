"""Shared by all tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

_REPORT = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture
def peak_mib() -> Callable[[str], float]:
    """Peak resident memory in MiB of a fresh interpreter that runs some code.

    Not `ru_maxrss`: a child inherits that from its parent.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")

    def measure(code: str) -> float:
        done = subprocess.run([sys.executable, "-c", code + _REPORT], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1]) / 1024

    return measure
