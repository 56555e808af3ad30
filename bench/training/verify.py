"""Whether the shipped checkpoints are what `zoo.toml` says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.schema import parse
from bench.training.pool import open_pool
from bench.training.recipe import Recipe, list_recipes, load_recipe
from bench.training.validation import validate
from methods import load
from methods.checkpoints import Checkpoint, list_checkpoints, read_checkpoint
from methods.errors import UserError

LARGEST = 2_000_000
"""Bytes of a shipped file."""
TOLERANCE = 0.005
"""In dB, between the stored validation PSNR and the one found here: that of three printed digits and of other CPUs."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    checkpoint: str
    what: str
    passed: bool | None
    """None: it could not be looked at."""
    note: str


def verify_zoo(data_root: Path | None) -> Iterator[Check]:
    """Check file, size, network, recipe, images and validation PSNR of every shipped checkpoint.

    data_root: where the recipes' images are; None: what needs them is not looked at.
    """
    for checkpoint in list_checkpoints():
        name, about = f"{checkpoint.method}/{checkpoint.backbone}", checkpoint.about
        for what, passed, note in _checks(checkpoint, about, data_root):
            yield Check(name, what, passed, note)


def _checks(checkpoint: Checkpoint, about: Any, data_root: Path | None) -> Iterator[tuple[str, bool | None, str]]:
    content = checkpoint.paths[0].read_bytes()
    yield "file", hashlib.sha256(content).hexdigest() == about["sha256"], f"SHA-256 {about['sha256'][:12]}"
    yield "size", len(content) == about["bytes"] <= LARGEST, f"{len(content) / 1e6:.2f} MB"
    try:
        _, config = read_checkpoint(checkpoint)
        model = load(checkpoint.method, checkpoint.backbone, weights="shipped")
    except UserError as error:
        yield "network", False, str(error)
        return
    count = sum(p.numel() for p in model.parameters())
    yield "network", count == about["parameters"], f"{count:,} parameters"
    stored = parse(Recipe, config["recipe"], "the checkpoint's recipe")
    known = about["recipe"] in list_recipes()
    same = known and replace(load_recipe(about["recipe"]), about=stored.about) == stored
    yield "recipe", same, about["recipe"] if same else f"{about['recipe']} is not the recipe that the file names"
    if data_root is None:
        yield "images", None, "no --data-root"
        yield "validation", None, "no --data-root"
        return
    pool, val = open_pool(data_root, stored)
    yield "images", pool.sha256 == about["data_sha256"], f"SHA-256 {pool.sha256[:12]}"
    found, _ = validate(model, val, stored.val_scales)
    worst = max(abs(found[key] - value) for key, value in about["validation"].items())
    yield "validation", worst <= TOLERANCE, ", ".join(f"{key} {value:.3f}" for key, value in found.items())
