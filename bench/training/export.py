"""From a finished training to a checkpoint and its entry for the zoo."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.env import git_state
from bench.files import cannot_write, write_atomic
from bench.training.run import Run
from methods.checkpoints import save_checkpoint


def export(run: Run, path: Path, *, data_sha256: str, scores: Mapping[str, float]) -> Path:
    """Write the averaged weights as safetensors, and beside them `zoo-entry.toml`, for `methods/zoo/zoo.toml`.

    Raises:
        UserError: there is no space.
    """
    recipe = run.recipe
    config = {key: getattr(recipe, key) for key in ("method", "backbone", "encoder", "hparams")}
    try:
        save_checkpoint(path, run.average.state_dict(), config | {"recipe": asdict(recipe)})
    except OSError as error:
        raise cannot_write(path, error) from error
    content = path.read_bytes()
    entry: dict[str, str | int] = {
        "method": recipe.method,
        "backbone": recipe.backbone,
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "parameters": sum(p.numel() for p in run.average.parameters()),
        "recipe": path.stem,
        "data": ", ".join(recipe.folders),
        "data_sha256": data_sha256,
        "steps": run.step,
        "seconds": round(run.seconds),
        "cpu_seconds": round(run.cpu_seconds),
        "machine": _machine(run),
        "torch": torch.__version__,
        "commit": str((git_state() or {}).get("commit", "unknown")),
        "date": datetime.now(UTC).date().isoformat(),
    }
    # For text and whole numbers JSON's notation is TOML's too.
    lines = ["[[checkpoint]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    lines += ["[checkpoint.validation]", *(f'"{name}" = {value:.3f}' for name, value in scores.items())]
    write_atomic(path.with_name("zoo-entry.toml"), ("\n".join(lines) + "\n").encode())
    return path


def _machine(run: Run) -> str:
    device, processes = run.accelerator.device, run.accelerator.num_processes
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        what = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {run.recipe.threads} thread(s)"
    return what if processes == 1 else f"{processes} x {what}"
