"""Recipes: everything that decides what a training gives, as plain TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.schema import parse
from methods.errors import UserError
from methods.names import resolve
from methods.registry import encoder_spec, method_spec

SHIPPED = Path(__file__).parent / "recipes"
_POSITIVE = ("lr_side", "batch", "queries", "steps", "threads", "lr", "clip", "log_every", "val_every", "save_every")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; the same recipe on the same machine gives the same weights, bit for bit."""

    method: str
    backbone: str
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Encoder hyperparameters other than the registered ones."""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """The method's own hyperparameters."""
    start: Literal["default", "interpolation"] = "default"
    """Initial weights: the layers' own defaults, or `starts.py`'s, from which the first output resembles the input."""

    data: str = "train"
    """Folder of training images (searched recursively), below the data root unless absolute."""
    val: tuple[str, ...] = ()
    """Images of that folder, by relative path, kept out of training and used for validation."""
    val_scales: tuple[float, ...] = (2.0, 3.0, 4.0)

    lr_side: int
    """LR patch side in pixels; HR patches have round(lr_side * scale)."""
    batch: int
    scale: tuple[float, ...] = (1.0, 4.0)
    """Smallest and largest; each step draws one scale uniformly in between."""
    queries: int | None = None
    """HR pixels per sample that a method with `render_at` is trained on; None: all of them."""

    steps: int
    seed: int = 0
    threads: int = 1
    """CPU threads; sums are split by thread, so another number gives slightly different weights."""
    lr: float
    """Peak learning rate of Adam."""
    betas: tuple[float, ...] = (0.9, 0.999)
    warmup: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    """Steps at which `schedule = "step"` halves the learning rate."""
    clip: float | None = None
    """Largest gradient norm; None: no clipping."""
    ema: float = 0.999
    """Decay of the averaged weights, which are validated and exported; 0: the weights themselves."""

    log_every: int = 50
    val_every: int = 1000
    save_every: int = 500

    def __post_init__(self) -> None:
        for key in _POSITIVE:
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"A recipe's {key} is a positive number, not {value!r}: correct it or pass --set.")
        if len(self.scale) != 2 or not 1 <= self.scale[0] <= self.scale[1]:
            raise UserError(f"A recipe's scale is [smallest, largest], both at least 1, not {list(self.scale)}.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in (*self.betas, self.ema)):
            raise UserError(f"A recipe's two betas and ema lie in [0, 1), not {list(self.betas)} and {self.ema}.")
        if (self.schedule == "step") != bool(self.milestones):
            raise UserError('A recipe has milestones if, and only if, its schedule is "step": add or remove them.')


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a TOML file or by a shipped recipe's name, with `key=value` overrides (`hparams.width=64`).

    Raises:
        UserError: no such recipe, not TOML, an unknown key (near ones are offered), or a value that cannot be.
    """
    path = _find(str(source))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The recipe {path} cannot be read ({error}): give a TOML file.") from None
    for override in overrides:
        _apply(content, override)
    recipe = parse(Recipe, content, f"the recipe {path.name}")
    if recipe.backbone not in method_spec(recipe.method).backbones:
        raise UserError(f"{recipe.method} does not run on {recipe.backbone!r}: see `list methods` for its backbones.")
    encoder_spec(recipe.backbone)
    return recipe


def _find(source: str) -> Path:
    if source.endswith(".toml") or "/" in source:
        if not Path(source).is_file():
            raise UserError(f"There is no recipe file {source}: shipped recipes are {', '.join(list_recipes())}.")
        return Path(source)
    return SHIPPED / f"{resolve(source, list_recipes(), 'recipe')}.toml"


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not key or not equals:
        raise UserError(f"The override {override!r} is not key=value: write it like steps=100.")
    *tables, leaf = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise UserError(f"The override {override!r} takes {table!r} for a table: write {table}=VALUE.")
    try:
        content[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        content[leaf] = text.strip()
