"""Training: a recipe (TOML), patches from folders of images, one loop on accelerate."""

from __future__ import annotations

from bench.training.recipe import Recipe, list_recipes, load_recipe

__all__ = ["Recipe", "list_recipes", "load_recipe"]
