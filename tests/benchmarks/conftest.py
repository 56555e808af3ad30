"""Saved benchmarks in a folder per machine, so that no time is ever compared with another machine's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.env import cores, cpu_model, nvidia_gpus, package_version


def machine_facts() -> dict[str, str]:
    """What a time depends on before the code is looked at."""
    gpus, _ = nvidia_gpus()
    return {
        "cpu": f"{cpu_model()}, {cores()} cores",
        "gpu": ", ".join(gpu["name"] for gpu in gpus) or "none",
        "torch": str(package_version("torch")),
    }


def machine_id() -> str:
    """The facts as a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(machine_facts().values())).strip("-")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark reads its options: our folder, and a comparison where there is something to compare."""
    option = config.option
    if getattr(option, "benchmark_storage", "").rstrip("/") not in ("file://./.benchmarks", "file://.benchmarks"):
        return  # the user's own
    folder = Path(".benchmarks") / machine_id()
    option.benchmark_storage = f"file://./{folder}"
    if option.benchmark_compare == [] and any(folder.rglob("*.json")):
        option.benchmark_compare = True  # it would be an error where nothing was saved yet


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """Tell in the saved file what the folder's name tells."""
    machine_info["asrbench"] = machine_facts()
