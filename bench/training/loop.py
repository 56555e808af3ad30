"""The training loop: L1 on random patches at random scales, Adam, averaged weights."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.training.export import export
from bench.training.logs import TrainingLog
from bench.training.patches import PatchSampler, pixels_sha256, read_pool
from bench.training.recipe import load_recipe
from bench.training.run import Run
from bench.training.validation import score_names, validate
from methods.errors import UserError

Images = Sequence[NDArray[np.uint8]]


def train(
    source: str | Path,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: bool = False,
) -> Path:
    """Train what a recipe describes and return the exported checkpoint.

    source: a recipe file or a shipped recipe's name. data_root: where the recipe's `data` folder is; default
    ASRBENCH_DATA, else the working directory. out: folder of the log, the resumable state and the export; default
    `runs/<recipe>`. overrides: `key=value` over the recipe.
    resume: continue from that folder's state; on the CPU the result is bitwise that of an uninterrupted run.

    Raises:
        UserError: the recipe, the images or the folder cannot be used, or the loss stops being finite.
    """
    recipe, name = load_recipe(source, overrides), Path(source).stem
    folder = _open_folder(Path(out) if out else Path("runs", name), resume)
    images, val = read_pool(Path(data_root or os.environ.get("ASRBENCH_DATA", ".")) / recipe.data, recipe.val)
    torch.set_num_threads(recipe.threads)
    run = Run.load(folder / "state.pt", recipe) if resume else Run(recipe)
    scores = _loop(run, list(images.values()), val, folder)
    return export(run, folder / f"{name}.safetensors", data_sha256=pixels_sha256(images), scores=scores)


def _open_folder(folder: Path, resume: bool) -> Path:
    has_state = (folder / "state.pt").is_file()
    if resume and not has_state:
        raise UserError(f"There is no state.pt in {folder} to resume from: leave out --resume, or correct --out.")
    if has_state and not resume:
        raise UserError(f"{folder} holds a training already: pass --resume to continue it, or another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made ({error.strerror}): choose another --out.") from None
    return folder


def _loop(run: Run, images: Images, val: Mapping[str, NDArray[np.uint8]], folder: Path) -> dict[str, float]:
    """Train to the recipe's last step; returns the last validation's scores."""
    recipe = run.recipe
    sampler = PatchSampler(
        images, lr_side=recipe.lr_side, batch=recipe.batch, scale=(recipe.scale[0], recipe.scale[-1]), seed=recipe.seed
    )
    log = TrainingLog(folder, ["step", "loss", "lr", "cpu_seconds", *score_names(recipe.val_scales)], run.step)
    scores: dict[str, float] = {}
    clock = time.process_time() - run.cpu_seconds
    while run.step < recipe.steps:
        run.update(sampler(run.step))
        last = run.step == recipe.steps
        if validated := bool(val) and (last or run.step % recipe.val_every == 0):
            scores = validate(run.average, val, recipe.val_scales)
        run.cpu_seconds = time.process_time() - clock
        if last or validated or run.step % recipe.log_every == 0:
            log(run.step, run.report() | (scores if validated else {}))
        if last or run.step % recipe.save_every == 0:
            run.save(folder / "state.pt")
    log.close()
    return scores
