"""What `list` prints: methods, backbones, datasets, metrics, protocols, checkpoints, recipes. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from methods.errors import UserError
from methods.names import resolve

if TYPE_CHECKING:
    from rich.table import Table

Lines = Iterable[tuple[str, ...]]


def list_table(kind: str, pattern: str = "*", data_root: Path | None = None) -> Table:
    """The table of everything of a kind whose name matches a wildcard.

    Raises:
        UserError: there is no such kind, or nothing matches.
    """
    from bench.console import table

    headings, lines = LISTS[resolve(kind, LISTS, "list")]
    found = [line for line in lines(data_root) if fnmatchcase(line[0].lower(), pattern.lower())]
    if not found:
        names = ", ".join(dict.fromkeys(line[0] for line in lines(data_root))) or "none"
        raise UserError(f"None of the {kind} matches {pattern!r}: known are {names}.")
    grid = table(None, *headings)
    for line in found:
        grid.add_row(*line)
    return grid


def _methods(_: Path | None) -> Lines:
    from bench.facts import read_facts
    from bench.parity.record import verdict
    from methods.checkpoints import list_checkpoints
    from methods.official import catalogue
    from methods.registry import list_methods

    shipped = [(checkpoint.method, checkpoint.backbone) for checkpoint in list_checkpoints()]
    facts = read_facts()
    for spec in list_methods():
        weights = [f"shipped for {backbone}" for method, backbone in shipped if method == spec.name]
        published = dict.fromkeys(entry.backbone for entry in catalogue() if entry.method == spec.name)
        weights += [f"official for {', '.join(published)}"] if published else []
        fact = facts.get((spec.name, spec.backbones[0] if spec.backbones else ""))
        yield (
            spec.name,
            spec.title,
            spec.paper,
            spec.venue or "-",
            ", ".join(spec.backbones) or "-",
            f"{fact.parameters / 1e6:.2f} M" if fact else "-",
            f"{fact.macs / 1e9:,.1f} G" if fact else "-",
            verdict(spec.name) if spec.reference_names else "-",
            "; ".join(weights) or "-",
        )


def _backbones(_: Path | None) -> Lines:
    from methods.registry import ENCODERS, list_methods

    for name, spec in ENCODERS.items():
        users = ", ".join(method.name for method in list_methods() if name in method.backbones)
        yield name, spec.title, users or "-"


def _datasets(data_root: Path | None) -> Lines:
    from bench.data import find_dataset
    from bench.descriptors import list_datasets

    for name, known in list_datasets().items():
        try:
            where = str(find_dataset(name, data_root).folder)
        except UserError:
            where = "not found"
        yield name, known.title, str(known.count or "-"), where if known.package is None else "comes with the suite"


def _metrics(_: Path | None) -> Lines:
    from bench.metrics import METRICS

    for name, metric in METRICS.items():
        better = "higher" if metric.higher_is_better else "lower"
        absent = metric.availability()
        yield name, metric.title, better, "no" if absent else "yes", absent or metric.identity()


def _protocols(_: Path | None) -> Lines:
    from bench.protocol import PROTOCOLS

    for name, protocol in PROTOCOLS.items():
        yield name, protocol.title, protocol.source


def _cost_protocols(_: Path | None) -> Lines:
    from bench.cost.protocols import COST_PROTOCOLS

    for name, protocol in COST_PROTOCOLS.items():
        yield name, protocol.title, protocol.source


def _checkpoints(_: Path | None) -> Lines:
    from methods.checkpoints import list_checkpoints
    from methods.official import catalogue

    for checkpoint in list_checkpoints():
        about = checkpoint.about
        quality = ", ".join(f"{name} {value:.2f}" for name, value in about.get("validation", {}).items())
        where = f"comes with the suite, {about.get('bytes', 0) / 1e6:.2f} MB"
        name = f"{checkpoint.method}/{checkpoint.backbone}"
        yield name, checkpoint.paths[0].name, "shipped", quality, str(about.get("licence", "-")), where
    for entry in catalogue():
        quality = " / ".join(f"{value:.2f}" for value in entry.psnr)
        state = "fetched" if entry.present else "not here"
        published = f"DIV2K {quality}" if quality else "-"
        yield entry.name, ", ".join(entry.files), f"official, {state}", published, entry.licence, entry.page


def _recipes(_: Path | None) -> Lines:
    from bench.training import list_recipes, load_recipe

    for name in list_recipes():
        recipe = load_recipe(name)
        losses = ", ".join(recipe.losses)
        yield name, recipe.method, recipe.backbone, f"{recipe.steps:,}", str(recipe.batch), losses, recipe.about or "-"


LISTS: Mapping[str, tuple[tuple[str, ...], Callable[[Path | None], Lines]]] = {
    "methods": (
        ("name", "title", "paper", "venue", "backbones", "parameters", "MACs at x4", "parity", "checkpoints"),
        _methods,
    ),
    "backbones": (("name", "title", "methods"), _backbones),
    "datasets": (("name", "title", "images", "where"), _datasets),
    "metrics": (("name", "title", "better", "available", "implementation, or what is missing"), _metrics),
    "protocols": (("name", "rules", "source"), _protocols),
    "cost-protocols": (("name", "rules", "source"), _cost_protocols),
    "recipes": (("name", "method", "backbone", "steps", "batch", "losses", "about"), _recipes),
    "checkpoints": (("name", "file", "state", "PSNR-Y", "licence", "where"), _checkpoints),
}
