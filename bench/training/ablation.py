"""Ablations: one recipe trained in several variants, and a table and a plot of what came of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from bench.files import write_atomic
from bench.schema import parse
from bench.training.logs import read_log
from bench.training.loop import train
from bench.training.recipe import Recipe, load_recipe
from bench.training.validation import score_names
from methods.errors import UserError
from methods.names import resolve

SHIPPED = Path(__file__).parent / "ablations"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is varied."""

    about: str
    recipe: str
    """Name of a shipped recipe, or a file."""
    variants: Mapping[str, tuple[str, ...]]
    """Overrides of the recipe by the variant's name."""


@dataclass(frozen=True)
class Result:
    """A trained variant."""

    name: str
    scores: tuple[float, ...]
    """PSNR-Y at the recipe's validation scales, in their order."""
    parameters: int
    seconds: float
    """Of the training."""


def list_ablations() -> list[str]:
    """Names of the shipped ablations."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_ablation(source: str) -> Ablation:
    """Read an ablation from a TOML file, or a shipped one.

    Raises:
        UserError: there is none, or it is not well-formed.
    """
    is_file = source.endswith(".toml") or "/" in source
    path = Path(source) if is_file else SHIPPED / f"{resolve(source, list_ablations(), 'ablation')}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"The ablation {path} cannot be read ({error}): give a TOML file.") from None
    found = parse(Ablation, content, f"the ablation {path.name}")
    if not found.variants:
        raise UserError(f"The ablation {path.name} has no variants: name some.")
    return found


def ablate(
    source: str,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    device: str = "auto",
) -> Path:
    """Train all variants, one after the other, and write `ablation.md` and `ablation.png`; returns the former.

    What was trained before is not trained again, what was begun is continued. out: folder, with one of each variant in
    it; default `runs/ablations/<name>`. overrides: of the recipe, for all variants.

    Raises:
        UserError: as `train`, or there is nothing to validate on.
    """
    found, overrides = load_ablation(source), tuple(overrides)
    folder = Path(out) if out else Path("runs", "ablations", Path(source).stem)
    recipe = load_recipe(found.recipe, overrides)
    if not recipe.val:
        raise UserError("An ablation is judged by validation images: name some in `val`.")
    results = []
    for name, own in found.variants.items():
        place = folder / name.replace(" ", "-")
        changes = (*overrides, *own)
        weights = train(found.recipe, data_root=data_root, out=place, overrides=changes, resume="auto", device=device)
        results.append(_result(name, place, weights, recipe.val_scales))
    write_atomic(folder / "ablation.png", _plot(found, results, recipe.val_scales))
    write_atomic(folder / "ablation.md", _page(found, results, recipe).encode())
    return folder / "ablation.md"


def _result(name: str, folder: Path, weights: Path, scales: Sequence[float]) -> Result:
    from safetensors import safe_open

    last = read_log(folder / "log.csv")[-1]
    with safe_open(weights, framework="np") as file:
        parameters = sum(file.get_tensor(key).size for key in file.keys())  # noqa: SIM118 (not a mapping)
    scores = tuple(float(last[column]) for column in score_names(scales))
    return Result(name, scores, parameters, float(last["seconds"]))


def _page(found: Ablation, results: Sequence[Result], recipe: Recipe) -> str:
    from tabulate import tabulate

    headings = ["", *(f"×{scale:g}" for scale in recipe.val_scales), "parameters", "minutes"]
    lines = [
        [one.name, *(f"{score:.2f}" for score in one.scores), f"{one.parameters:,}", f"{one.seconds / 60:.1f}"]
        for one in results
    ]
    align = ("left", *["right"] * (len(headings) - 1))
    table = tabulate(lines, headings, "github", colalign=align, disable_numparse=True)
    note = (
        f"Mean PSNR-Y in dB over {len(recipe.val)} validation images after one training each: "
        f"{recipe.steps:,} steps of the recipe `{Path(found.recipe).stem}`, one seed."
    )
    return f"# {found.about}\n\n{table}\n\n{note}\n\n![PSNR by scale](ablation.png)\n"


def _plot(found: Ablation, results: Sequence[Result], scales: Sequence[float]) -> bytes:
    """Differences to the first variant, by scale."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("Plots need matplotlib: install it with `pip install 'asrbench[train]'`.") from None

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes: Any = figure.add_subplot()
    places = range(len(scales))
    for one in results:
        axes.plot(places, [a - b for a, b in zip(one.scores, results[0].scores, strict=True)], "o-", label=one.name)
    axes.set_xticks(places, [f"×{scale:g}" for scale in scales])
    axes.set_ylabel(f'PSNR-Y, difference to "{results[0].name}" (dB)')
    axes.set_title(found.about, fontsize="small", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
