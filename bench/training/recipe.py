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
LOSSES = ("l1", "nll")
_COUNTS = ("lr_side", "batch", "accumulate", "queries", "sub_image", "sub_stride", "steps", "epoch", "threads")
_EVERY = ("log_every", "val_every", "save_every")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training; the same recipe on the same machine gives the same weights, bit for bit on the CPU."""

    about: str = ""
    """What this is and where it comes from, in a sentence."""

    method: str
    backbone: str
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Encoder hyperparameters other than the registered ones."""
    hparams: Mapping[str, Any] = field(default_factory=dict)
    """The method's own hyperparameters."""
    while_training: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method that hold during training only, such as GSASR's larger window."""
    start: Literal["default", "interpolation"] = "default"
    """Initial weights: the layers' own defaults, or `starts.py`'s, from which the first output resembles the input."""
    weights: str | None = None
    """A checkpoint file to start from instead, as a fine-tuning does."""

    data: tuple[str, ...] | str = ("train",)
    """Folders of training images (searched recursively), below the data root unless absolute."""
    val: tuple[str, ...] = ()
    """Images for validation, by path relative to their folder; those of `data` are kept out of training."""
    val_data: str | None = None
    """Folder of the validation images; None: those of `data`."""
    val_scales: tuple[float, ...] = (2.0, 3.0, 4.0)
    shrink: tuple[float, ...] = ()
    """Every image is also taken reduced (Lanczos) by these factors, where its shorter side stays >= `sub_image`."""
    shrink_to_sub_image: bool = False
    """Every image is also taken reduced until its shorter side is `sub_image`."""
    sub_image: int | None = None
    """Patches are cut from within windows of this side, all taken equally often; None: from anywhere in an image."""
    sub_stride: int = 256

    lr_side: int
    """LR patch side in pixels; HR patches have round(lr_side * scale)."""
    batch: int
    """Patches per step, over all processes."""
    accumulate: int = 1
    """Parts that a process computes its share of a batch in, one after the other, to hold less at a time."""
    scale: tuple[float, ...] = (1.0, 4.0)
    """Smallest and largest; drawn uniformly in between."""
    scale_per: Literal["image", "batch"] = "batch"
    """Whether each patch has its own scale, or all of a step share one."""
    queries: int | None = None
    """HR pixels per patch that methods with `render_at` are trained on, at most lr_side^2; None: all of them."""
    resampler: Literal["basicsr", "pillow"] = "basicsr"
    """Which bicubic makes LR patches; see `bench.resize`."""
    round_lr: bool = True
    """Whether LR patches are rounded to 8 bits."""

    losses: Mapping[str, float] = field(default_factory=lambda: {"l1": 1.0})
    """Weights of `l1` and `nll` (LINF's), each a step of the optimiser of its own, in this order."""
    steps: int
    seed: int = 0
    threads: int = 1
    """CPU threads; sums are split by thread, so another number gives slightly different weights."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast, as accelerate names it."""
    lr: float
    """Peak learning rate of Adam."""
    betas: tuple[float, ...] = (0.9, 0.999)
    warmup: int = 0
    """Steps of linear warm-up."""
    warmup_from: float = 0.0
    """Share of `lr` that the warm-up starts from."""
    schedule: Literal["cosine", "step", "basicsr"] = "cosine"
    """See `schedule.learning_rate`."""
    milestones: tuple[int, ...] = ()
    """Steps at which `step` and `basicsr` halve the learning rate."""
    epoch: int = 1
    """Steps for which the learning rate stays as it is."""
    clip: float | None = None
    """Largest gradient norm; None: no clipping."""
    ema: float = 0.999
    """Decay of the averaged weights, which are validated and exported; 0: the weights themselves."""
    ema_ramp: bool = True
    """Whether the decay of step t is at most t / (t + 10), which forgets the initial weights soon."""

    log_every: int = 50
    val_every: int = 1000
    save_every: int = 500

    def __post_init__(self) -> None:
        for key in (*_COUNTS, *_EVERY, "lr", "clip"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"A recipe's {key} is a positive number, not {value!r}: correct it or pass --set.")
        if len(self.scale) != 2 or not 1 <= self.scale[0] <= self.scale[1]:
            raise UserError(f"A recipe's scale is [smallest, largest], both at least 1, not {list(self.scale)}.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in (*self.betas, self.ema)):
            raise UserError(f"A recipe's two betas and ema lie in [0, 1), not {list(self.betas)} and {self.ema}.")
        if (self.schedule != "cosine") != bool(self.milestones):
            raise UserError(
                'A recipe has milestones if, and only if, its schedule is "step" or "basicsr": add or remove them.'
            )
        if not self.losses or set(self.losses) - set(LOSSES):
            raise UserError(f"A recipe's losses are weights of {' and '.join(LOSSES)}, not {dict(self.losses)}.")
        if not 0 <= self.warmup_from <= 1:
            raise UserError(f"A recipe's warmup_from lies in [0, 1], not {self.warmup_from}.")
        if not all(0 < factor < 1 for factor in self.shrink):
            raise UserError(f"A recipe's shrink holds factors between 0 and 1, not {list(self.shrink)}.")
        if self.sub_image is None and (self.shrink or self.shrink_to_sub_image):
            raise UserError("A recipe that shrinks images says down to which side: set sub_image.")
        if self.sub_image is not None and self.sub_image < round(self.lr_side * self.scale[1]):
            raise UserError(
                f"Patches of {round(self.lr_side * self.scale[1])} pixels do not fit into sub-images of "
                f"{self.sub_image}: raise sub_image, or lower lr_side or the largest scale."
            )

    @property
    def folders(self) -> tuple[str, ...]:
        """`data` as a list."""
        return (self.data,) if isinstance(self.data, str) else self.data


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
