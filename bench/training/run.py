"""The state of one training: weights, their average, optimiser and step; how a batch updates it; how it is stored."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from bench.files import cannot_write
from bench.training.objective import Objective
from bench.training.patches import Batch, PatchSampler
from bench.training.recipe import Recipe
from bench.training.schedule import learning_rate
from bench.training.starts import interpolate
from methods import build, load
from methods.base import SRMethod
from methods.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE = "state.pt"


class Run:
    """A training at some step. Starts from the recipe's seed; every later state follows from it and the images.

    accelerator: where it runs, in which precision, beside which other processes.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.accelerator = recipe, accelerator
        model = initial(recipe).to(memory_format=torch.channels_last).train()
        average = copy.deepcopy(model) if not recipe.while_training else _build(recipe, {})
        average.load_state_dict(model.state_dict())
        self.average: SRMethod = average.to(accelerator.device).to(memory_format=torch.channels_last).eval()
        self.average.requires_grad_(False)
        betas = recipe.betas[0], recipe.betas[1]
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, betas=betas, fused=True)
        self.objective, self.optimizer = accelerator.prepare(Objective(model), optimizer)
        self.model: SRMethod = cast(Any, accelerator.unwrap_model(self.objective)).model
        self.step = 0
        self.seconds = 0.0  # of the steps, without validations and checkpoints
        self.cpu_seconds = 0.0
        self.latest_loss: float | None = None
        self._losses: list[float] = []

    def update(self, sampler: PatchSampler) -> None:
        """One step on the next batch: for every loss one of Adam; then of the average.

        Raises:
            UserError: the loss is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        batches = [sampler(self.step, part, self.accelerator.device) for part in self._parts()]
        for loss, weight in self.recipe.losses.items():
            self._descend(loss, weight, batches)
        self.step += 1
        self._follow()

    def _parts(self) -> list[slice]:
        """Which patches of a step this process computes, and in which parts."""
        count, parts = self.accelerator.num_processes, self.recipe.accumulate
        size, rest = divmod(self.recipe.batch, count * parts)
        if rest:
            raise UserError(
                f"A batch of {self.recipe.batch} cannot be split among {count} processes with {parts} parts each: "
                "change batch or accumulate."
            )
        first = self.accelerator.process_index * parts
        return [slice((first + part) * size, (first + part + 1) * size) for part in range(parts)]

    def _descend(self, loss: str, weight: float, batches: list[Batch]) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        total = torch.zeros((), device=accelerator.device)
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            with ExitStack() as stack:
                if number + 1 < len(batches):
                    stack.enter_context(accelerator.no_sync(self.objective))
                value = weight * self.objective(loss, batch) / len(batches)
                accelerator.backward(value)
            total += value.detach().float()
        reached = float(cast(torch.Tensor, accelerator.reduce(total, "mean")))
        if not math.isfinite(reached):
            raise UserError(
                f"The loss is {reached} at step {self.step}: lower lr or set clip, and start again; the last good "
                f"state is in {STATE}, but resuming it by the same recipe leads here again."
            )
        if recipe.clip is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        if loss == [*recipe.losses][-1]:
            self.latest_loss = reached
            self._losses.append(reached)

    @torch.no_grad()
    def _follow(self) -> None:
        decay = self.recipe.ema
        if self.recipe.ema_ramp:
            # The early average would otherwise remember the initial weights for 1 / (1 - ema) steps.
            decay = min(decay, self.step / (self.step + 10)) if decay else 0.0
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def report(self) -> dict[str, float]:
        """Mean of the last loss since the last report, learning rate of the last step."""
        loss, self._losses = float(np.mean(self._losses)), []
        return {"loss": loss, "lr": learning_rate(self.recipe, self.step - 1)}

    def save(self, folder: Path) -> None:
        """Write all that resuming needs; a reader never sees half a file.

        Raises:
            UserError: there is no space; the state saved before is intact.
        """
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "losses": self._losses,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        part, path = folder / f"{STATE}.part", folder / STATE
        try:
            with part.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except (OSError, RuntimeError) as error:  # PyTorch's writer makes the latter of a full disk
            part.unlink(missing_ok=True)
            cause = error if isinstance(error, OSError) else OSError(str(error).splitlines()[0])
            raise cannot_write(path, cause) from error

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote.

        Raises:
            UserError: the file is not such a state, or another recipe's.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            stored = Recipe(**state["recipe"])
        except Exception as error:
            reason = type(error).__name__
            raise UserError(f"{path} is not a training state ({reason}): start again in another folder.") from None
        changed = [key for key in asdict(self.recipe) if getattr(stored, key) != getattr(self.recipe, key)]
        if changed:
            raise UserError(f"{path} was made with another {', '.join(changed)}: resume with the same recipe.")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
        self._losses = state["losses"]


def initial(recipe: Recipe) -> SRMethod:
    """The network that a training starts from."""
    model = _build(recipe, recipe.while_training)
    if recipe.start == "interpolation":
        interpolate(model)
    if recipe.weights is not None:
        given = load(recipe.method, recipe.backbone, weights=recipe.weights).state_dict()
        if {key: value.shape for key, value in given.items()} != {k: v.shape for k, v in model.state_dict().items()}:
            raise UserError(
                f"The weights {recipe.weights} are of another network: start from ones of the same hparams."
            )
        model.load_state_dict(given)
    return model


def _build(recipe: Recipe, options: Mapping[str, Any]) -> SRMethod:
    return build(recipe.method, recipe.backbone, encoder=recipe.encoder, **{**recipe.hparams, **options})
