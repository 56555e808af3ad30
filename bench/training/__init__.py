"""Training the small shipped networks: a recipe (TOML), patches from a folder of images, one loop."""

from __future__ import annotations

from bench.training.recipe import Recipe, list_recipes, load_recipe

__all__ = ["Recipe", "list_recipes", "load_recipe"]
