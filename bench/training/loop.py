"""The training loop: on one process or many, logged, validated, saved, resumed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from bench.training.export import export
from bench.training.logs import TrainingLog
from bench.training.patches import PatchSampler
from bench.training.pool import Image8, Pool, open_pool
from bench.training.recipe import Recipe, load_recipe
from bench.training.run import STATE, Run
from bench.training.validation import ContactSheet, score_names, validate
from methods.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

Resume = Literal["never", "auto", "must"]
COLUMNS = ("step", "loss", "lr", "steps_per_second", "data_share", "seconds", "cpu_seconds")


def train(
    source: str | Path,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: Resume = "never",
    device: str = "auto",
) -> Path:
    """Train what a recipe describes and return the exported checkpoint.

    Under `accelerate launch` or `torchrun` every process calls this, and a step's patches are divided among them.

    source: a recipe file or a shipped recipe's name. data_root: where the recipe's `data` folders are; default
    ASRBENCH_DATA, else the working directory. out: folder of the log, the resumable state and the export; default
    `runs/<recipe>`. overrides: `key=value` over the recipe.
    resume: `"auto"` continues from that folder's state if there is one, `"must"` expects it, `"never"` refuses to
    replace it. On the CPU the result is bitwise that of an uninterrupted training.
    device: `"auto"`, what accelerate finds, or `"cpu"`.

    Raises:
        UserError: the recipe, the images or the folder cannot be used, space runs out, or the loss stops being finite.
    """
    recipe, name = load_recipe(source, overrides), Path(source).stem
    folder = Path(out) if out else Path("runs", name)
    torch.set_num_threads(recipe.threads)
    accelerator = make_accelerator(recipe, device)
    resuming = _prepare_folder(folder, resume)
    with accelerator.main_process_first():
        pool, val = open_pool(data_folder(data_root), recipe)
    run, path = Run(recipe, accelerator), folder / f"{name}.safetensors"
    if resuming:
        run.restore(folder / STATE)
        if run.step == recipe.steps and path.is_file():
            return path
    scores = _loop(run, pool, val, folder)
    if accelerator.is_main_process:
        export(run, path, data_sha256=pool.sha256, scores=scores)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path


def data_folder(given: str | Path | None) -> Path:
    """Where recipes look for their images."""
    return Path(given or os.environ.get("ASRBENCH_DATA", "."))


def make_accelerator(recipe: Recipe, device: str = "auto") -> Accelerator:
    """What accelerate makes of this process and its environment.

    Raises:
        UserError: accelerate is not installed, or there is no such device.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise UserError("Training needs accelerate: install it with `pip install 'asrbench[train]'`.") from None
    if device not in ("auto", "cpu"):
        raise UserError(f"Training runs on device auto or cpu, not {device!r}: choose GPUs with CUDA_VISIBLE_DEVICES.")
    # Some parameters of GSASR have no effect, so no gradient.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)]
    return Accelerator(cpu=device == "cpu", mixed_precision=recipe.precision, kwargs_handlers=handlers)


def _prepare_folder(folder: Path, resume: Resume) -> bool:
    """Make the folder; whether there is a training in it to continue."""
    found = (folder / STATE).is_file()
    if resume == "must" and not found:
        raise UserError(f"There is no {STATE} in {folder} to resume from: pass --resume auto, or correct --out.")
    if found and resume == "never":
        raise UserError(f"{folder} holds a training already: pass --resume auto to continue it, or another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.rglob(".*.partial"):  # a process was killed while it wrote
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made ({error.strerror}): choose another --out.") from None
    return found


class _Timed:
    """The sampler, with the seconds that it took."""

    def __init__(self, sampler: PatchSampler) -> None:
        self.sampler, self.seconds = sampler, 0.0

    def __call__(self, *arguments: object) -> object:
        start = time.perf_counter()
        found = self.sampler(*arguments)  # type: ignore[arg-type]
        self.seconds += time.perf_counter() - start
        return found


def _loop(run: Run, pool: Pool, val: Mapping[str, Image8], folder: Path) -> dict[str, float]:
    """Train to the recipe's last step; returns the last validation's scores."""
    recipe, main = run.recipe, run.accelerator.is_main_process
    sampler = _Timed(PatchSampler(pool.images, recipe))
    log = sheet = None
    if main:
        log = TrainingLog(folder, [*COLUMNS, *score_names(recipe.val_scales)], recipe.steps, run.step)
        sheet = ContactSheet(folder, val, recipe.val_scales[-1], run.step)
    scores: dict[str, float] = {}
    spent, taken, logged = 0.0, 0.0, run.step
    try:
        while run.step < recipe.steps:
            start, cpu_start = time.perf_counter(), time.process_time()
            run.update(sampler)  # type: ignore[arg-type]
            took = time.perf_counter() - start
            run.seconds, run.cpu_seconds = run.seconds + took, run.cpu_seconds + time.process_time() - cpu_start
            spent += took
            last = run.step == recipe.steps
            validated = bool(val) and (last or run.step % recipe.val_every == 0)
            details = None
            if validated and main:
                scores, details = validate(run.average, val, recipe.val_scales, run.accelerator.device)
            if last or validated or run.step % recipe.log_every == 0:
                report = run.report()
                data, taken = sampler.seconds - taken, sampler.seconds
                report |= {"steps_per_second": (run.step - logged) / spent, "data_share": data / spent}
                report |= {"seconds": run.seconds, "cpu_seconds": run.cpu_seconds}
                spent, logged = 0.0, run.step
                if log is not None:
                    log(run.step, report | (scores if validated else {}))
                if sheet is not None and validated:
                    sheet.add(run.step, details)
            if log is not None:
                log.advance(run.step, run.latest_loss)
            if main and (last or run.step % recipe.save_every == 0):
                run.save(folder)
    finally:
        if log is not None:
            log.close()
    if main and val and not scores:  # killed after the last step, before the export
        scores, _ = validate(run.average, val, recipe.val_scales, run.accelerator.device)
    return scores
