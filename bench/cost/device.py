"""Everything that is measured once per device: parity of all methods on it, and Table 3 with networks of full size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compute import check_device
from bench.cost.client import environment
from bench.cost.run import CostResult, measure_cost
from bench.cost.settings import CostSettings
from bench.env import ROOT
from bench.files import write_atomic
from bench.progress import Progress
from methods.errors import UserError

PARITY = "parity.json"
"""In the run's folder."""


def measure_device(
    settings: CostSettings,
    out: Path,
    run_id: str,
    *,
    cases: Sequence[Path],
    fresh: bool = False,
    progress: Progress | None = None,
) -> CostResult:
    """Check every method's cases on a device, then measure what `settings` asks for; the same call resumes.

    cases: folders of parity cases.

    Raises:
        UserError: the device is not there, there are no cases, or as `measure_cost`.
    """
    check_device(settings.run.device)
    progress = progress or Progress()
    missing = [str(path) for path in cases if not path.exists()]
    if missing:
        raise UserError(f"There are no parity cases in {', '.join(missing)}: run it in a checkout, or give --cases.")
    file = out / run_id / PARITY
    if fresh or not file.is_file():
        found = parity_elsewhere(settings.run.device, cases)
        for why in failures(found):
            progress.note(why)
        progress.note(f"{len(found)} comparisons with the reference implementations on {settings.run.device}.")
        write_atomic(file, json.dumps(found, allow_nan=False).encode())
    return measure_cost(settings, out, run_id, fresh=fresh, progress=progress)


def parity_elsewhere(device: str, cases: Sequence[Path]) -> list[dict[str, Any]]:
    """Every method's cases on a device, in a process of its own: what it holds there would count as another's later.

    Raises:
        UserError: the process ended without an answer.
    """
    command = [sys.executable, "-m", "bench.parity.devices", device, *(str(path.absolute()) for path in cases)]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(f"Parity on {device} could not be checked ({said[-1] if said else done.returncode}).")
    return [json.loads(line) for line in done.stdout.splitlines()]


def failures(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The comparisons in float32 that a device does not pass, a sentence each."""
    from bench.parity.devices import DeviceParity

    results = [DeviceParity(**line) for line in found]
    bad = [result for result in results if result.passed is False]
    return [f"{one.case}  {one.precision}  {one.reason or f'differs by {one.error:.1e}'}" for one in bad]


def differing(run_folder: Path) -> list[str]:
    """The failures of a run that was measured before."""
    return failures(json.loads((run_folder / PARITY).read_text(encoding="utf-8")))
