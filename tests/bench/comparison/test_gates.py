"""The gates on real runs: nothing is said where nothing changed, and what is injected is caught."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from bench.comparison import compare, compare_with_baseline, store_baseline
from bench.cost.rows import CostRow
from bench.runner import run
from bench.settings import make_settings
from bench.store import RunFolder, read_rows
from methods.checkpoints import locate
from methods.errors import UserError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
COMPARISONS, PER_PROCESS, PROCESSES = 20, 5, 3
HELD_MIB = 6.5
"""What the memory-hungry bicubic holds beside its work, which alone peaks at 4 to 6.5 MiB."""
INJECTION = '''

def _injected(plain):
    """A share more time, spent waiting, and whatever `before` holds on to."""
    import time

    def forward(self, lr, out_size, scale=None, *, chunk=None):
        import torch

        {before}
        start = time.perf_counter()
        image = plain(self, lr, out_size, scale, chunk=chunk)
        until = time.perf_counter() + {wait} * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass
        return image

    return forward


{name}.forward = _injected({name}.forward)
'''


def interleaved(tree: Path, base: Path, out: Path, repeats: int, *flags: str) -> tuple[Path, Path]:
    """Measure two checkouts in turns; the folders of BASE and NEW."""
    command = [sys.executable, "-m", "bench", "cost", "--methods", "metasr", "--scales", "4", "--crop", "64"]
    command += ["--threads", "1", "--metrics", "psnr_y", "--warmups", "3", "--device", "cpu", "--repeats", str(repeats)]
    command += ["--against", str(base), "--out", str(out), "--run-id", "ab", "--processes", str(PROCESSES), *flags]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "ab-base", out / "ab"


def verdict(base: Path, new: Path) -> int:
    """The exit code of `compare`."""
    command = [sys.executable, "-m", "bench", "compare", str(base), str(new)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


def checkout(folder: Path, **injections: dict[str, str]) -> Path:
    """A copy of this checkout in which methods are worse than they were."""
    for package in ("bench", "methods", "kernels", "reports", "datasets"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for module, injected in injections.items():
        with (folder / "methods" / f"{module}.py").open("a") as file:
            file.write(INJECTION.format(**injected))
    return folder


def part_of(run_folder: Path, number: int, out: Path) -> Path:
    """A run of `PER_PROCESS` repeats of every process, of the many that were measured."""
    rows: dict[tuple[str, str], list[CostRow]] = {}
    for row in read_rows(run_folder, CostRow):
        rows.setdefault((row.method, row.session), []).append(row)
    manifest = json.loads((run_folder / "manifest.json").read_text())
    target = out / f"{run_folder.name}-{number}"
    with RunFolder(target, CostRow) as folder:
        for own in rows.values():
            taken = sorted(own, key=lambda row: row.repeat)[number * PER_PROCESS : (number + 1) * PER_PROCESS]
            assert len(taken) == PER_PROCESS
            for row in taken:
                folder.append(replace(row, run_id=target.name))
    (target / "manifest.json").write_text(json.dumps(manifest | {"run_id": target.name}))
    return target


@pytest.mark.quiet
def test_twenty_repeats_without_a_change_raise_no_alarm(tmp_path):
    base, new = interleaved(ROOT, ROOT, tmp_path / "whole", COMPARISONS * PER_PROCESS * PROCESSES)
    found = [
        compare(part_of(base, number, tmp_path / "parts"), part_of(new, number, tmp_path / "parts"))
        for number in range(COMPARISONS)
    ]
    alarms = [str(line) for comparison in found for line in comparison.of("regressed")]
    assert alarms == []
    assert all(len(comparison.speed) == len(comparison.amounts) == 2 for comparison in found)
    assert {line.verdict for comparison in found for line in comparison.speed} == {"same"}


@pytest.mark.quiet
def test_a_busy_wait_and_doubled_memory_are_caught(tmp_path):
    slow = {"name": "MetaSR", "wait": "0.25", "before": "pass"}
    hungry = {"name": "Bicubic", "wait": "0", "before": f"held = torch.ones({int(HELD_MIB * 2**18)})"}
    tree = checkout(tmp_path / "worse", metasr=slow, bicubic=hungry)
    base, new = interleaved(tree, ROOT, tmp_path / "results", PROCESSES * PER_PROCESS)
    found = compare(base, new)
    slower = {line.cell.method: line for line in found.speed}
    larger = {line.cell.method: line for line in found.amounts}
    assert slower["metasr"].verdict == "regressed"
    assert 1.15 < slower["metasr"].ratio < 1.40
    assert larger["bicubic"].verdict == "regressed"
    assert larger["bicubic"].ratio > 1.8
    assert larger["bicubic"].new - larger["bicubic"].base == pytest.approx(HELD_MIB, abs=2)
    assert larger["metasr"].verdict == "same"
    assert {line.verdict for line in found.quality} == {"same"}
    assert verdict(base, new) == 1
    assert verdict(base, base) == 0


def evaluate(out: Path, run_id: str, weights: str = "shipped") -> Path:
    settings = make_settings(methods="metasr", scales="4", metrics="psnr_y,ssim_y", device="cpu", weights=weights)
    return run(settings, out, run_id).path


def biased(file: Path, amount: float) -> Path:
    """The shipped Meta-SR with `amount` added to one number."""
    (shipped,) = locate("metasr", "edsr-micro").paths
    with safe_open(shipped, "pt") as archive:
        about = archive.metadata()
        state = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - not a mapping
    bias = next(name for name in state if name.endswith("bias") and name.startswith("encoder"))
    state[bias] = state[bias].clone()
    state[bias][0] += amount
    save_file(state, file, about)
    return file


def test_a_hundredth_of_a_decibel_is_caught(tmp_path):
    before, again = evaluate(tmp_path, "before"), evaluate(tmp_path, "again")
    unchanged = compare(before, again)
    assert not unchanged.regressed
    assert all(line.equal for line in unchanged.quality)
    store_baseline(before, tmp_path / "baseline", "for this test")
    low, high, amount = 0.0, None, 1e-3
    for step in range(30):  # until the damage is of the size that is asked for: outwards, then by halves
        weights = biased(tmp_path / f"biased{step}.safetensors", amount)
        after = evaluate(tmp_path, f"after{step}", str(weights))
        found = compare(before, after, allow_weights=True)
        lines = {(line.cell.method, line.metric): line.difference for line in found.quality}
        damage = lines["metasr", "psnr_y"]
        if -0.013 <= damage <= -0.008:
            break
        low, high = (amount, high) if damage > -0.008 else (low, amount)
        amount = 2 * amount if high is None else (low + high) / 2
    assert -0.013 <= damage <= -0.008
    assert found.regressed
    assert compare_with_baseline(tmp_path / "baseline", after, allow_weights=True).regressed
    assert not compare_with_baseline(tmp_path / "baseline", again).regressed
    with pytest.raises(UserError, match="different weights"):
        compare(before, after)
