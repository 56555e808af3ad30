"""The state of one training: weights, their average, optimiser and step; how a batch updates it; how it is stored."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.training.patches import Batch
from bench.training.recipe import Recipe
from bench.training.starts import interpolate
from methods import build
from methods.base import SRMethod
from methods.errors import UserError


class Run:
    """A training at some step. Starts from the recipe's seed; every later state follows from it and the batches."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model: SRMethod = build(recipe.method, recipe.backbone, encoder=recipe.encoder, **recipe.hparams)
        if recipe.start == "interpolation":
            interpolate(self.model)
        self.model.to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=recipe.lr, betas=(recipe.betas[0], recipe.betas[1])
        )
        self.step = 0
        self.cpu_seconds = 0.0
        self._losses: list[float] = []

    def update(self, batch: Batch) -> None:
        """One step of Adam on a batch, then of the average.

        Raises:
            UserError: the loss is not finite.
        """
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        value = l1(self.model, batch, recipe.queries, np.random.default_rng((recipe.seed, self.step, 1)))
        if not math.isfinite(value.item()):
            raise UserError(
                f"The loss is {value.item()} at step {self.step}: lower lr or set clip, and start again "
                "(a state saved earlier can be resumed only with the same recipe)."
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        self.step += 1
        self._losses.append(value.item())
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        # The early average would otherwise remember the initial weights for 1 / (1 - ema) steps.
        decay = min(self.recipe.ema, self.step / (self.step + 10)) if self.recipe.ema else 0.0
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def report(self) -> dict[str, float]:
        """Mean loss since the last report, learning rate of the last step, CPU seconds so far."""
        loss, self._losses = float(np.mean(self._losses)), []
        return {"loss": loss, "lr": learning_rate(self.recipe, self.step - 1), "cpu_seconds": self.cpu_seconds}

    def save(self, path: Path) -> None:
        """Write all that resuming needs; a reader never sees half a file."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "cpu_seconds": self.cpu_seconds,
            "losses": self._losses,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path, recipe: Recipe) -> Self:
        """The run that `save` wrote.

        Raises:
            UserError: the file is not such a state, or another recipe's.
        """
        try:
            state = torch.load(path, weights_only=True)
            stored = Recipe(**state["recipe"])
        except Exception as error:
            reason = type(error).__name__
            raise UserError(f"{path} is not a training state ({reason}): start again in another folder.") from None
        changed = [key for key in asdict(recipe) if getattr(stored, key) != getattr(recipe, key)]
        if changed:
            raise UserError(f"{path} was made with another {', '.join(changed)}: resume with the same recipe.")
        run = cls(recipe)
        run.model.load_state_dict(state["model"])
        run.average.load_state_dict(state["average"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.cpu_seconds, run._losses = state["step"], state["cpu_seconds"], state["losses"]
        return run


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero, or halved at each milestone."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "step":
        return recipe.lr * 0.5 ** sum(step >= milestone for milestone in recipe.milestones)
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


def l1(model: SRMethod, batch: Batch, queries: int | None, rng: np.random.Generator) -> Tensor:
    """Mean absolute error over a batch.

    Methods with `render_at` are asked for `queries` random HR pixels per sample (all, where there are fewer), without
    repeats; other methods for the whole patch.
    """
    out_size = (batch.hr.shape[-2], batch.hr.shape[-1])
    pixels = out_size[0] * out_size[1]
    render_at = getattr(model, "render_at", None)
    if render_at is None or queries is None or queries >= pixels:
        return F.l1_loss(model(batch.lr, out_size, batch.scale), batch.hr)
    order = rng.random((len(batch.hr), pixels)).argpartition(queries)[:, :queries]
    index = torch.from_numpy(np.sort(order))
    sr = render_at(model.encode(batch.lr), index, out_size, (batch.scale, batch.scale))
    hr = batch.hr.flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
    return F.l1_loss(sr, hr)
