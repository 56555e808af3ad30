"""Everything that is measured once per device: parity of all methods on it, and Table 3 with networks of full size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.cost.run import CostResult, measure_cost
from bench.cost.settings import CostSettings
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
    from bench.compute import check_device, resolve_device
    from bench.parity.devices import device_parity

    check_device(settings.run.device)
    progress = progress or Progress()
    missing = [str(path) for path in cases if not path.exists()]
    if missing:
        raise UserError(f"There are no parity cases in {', '.join(missing)}: run it in a checkout, or give --cases.")
    file = out / run_id / PARITY
    if fresh or not file.is_file():
        device = resolve_device(settings.run.device)
        found = []
        for result in device_parity(cases, device):
            found.append(asdict(result))
            if result.passed is False:
                why = result.reason or f"differs by {result.error:.1e}"
                progress.note(f"{result.case}  {result.precision}  {why}")
        progress.note(f"{len(found)} comparisons with the reference implementations on {device}.")
        write_atomic(file, json.dumps(found, allow_nan=False).encode())
    return measure_cost(settings, out, run_id, fresh=fresh, progress=progress)


def differing(run_folder: Path) -> list[str]:
    """The cases that float32 on the device does not reproduce."""
    from bench.parity.devices import DeviceParity

    found = [DeviceParity(**line) for line in json.loads((run_folder / PARITY).read_text(encoding="utf-8"))]
    return [result.case for result in found if result.passed is False]
