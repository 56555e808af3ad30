"""Learning rates over a training."""

from __future__ import annotations

import math

from bench.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0.

    After a linear warm-up from `warmup_from`: `cosine`, half a cosine down to zero; `step`, halved at each milestone.
    These change once per `epoch` steps. `basicsr` has the habits of BasicSR's trainer: iteration t, counted from 1,
    warms up to t / warmup; what follows stays at (warmup - 1) / warmup of the rate, and each halving acts from the
    iteration after its milestone.
    """
    if recipe.schedule == "basicsr":
        t = step + 1
        reached = min(t, recipe.warmup - 1) / recipe.warmup if recipe.warmup else 1.0
        return recipe.lr * reached * 0.5 ** sum(t > milestone for milestone in recipe.milestones)
    step -= step % recipe.epoch
    if step < recipe.warmup:
        # From zero, the first step would be none.
        done = step / recipe.warmup if recipe.warmup_from else (step + 1) / recipe.warmup
        return recipe.lr * (recipe.warmup_from + (1 - recipe.warmup_from) * done)
    if recipe.schedule == "step":
        return recipe.lr * 0.5 ** sum(step >= milestone for milestone in recipe.milestones)
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
