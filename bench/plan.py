"""What a run will do: methods x backbones x datasets x scales, laid out as cells before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.data import Dataset, ImageRef, find_dataset
from bench.env import likely_device
from bench.keys import Facts, metric_identity, row_keys
from bench.protocol import Protocol
from bench.settings import YARDSTICK, RunSettings
from methods.checkpoints import Checkpoint, locate, usual_backbones
from methods.errors import UserError
from methods.registry import method_spec


@dataclass(frozen=True)
class Cell:
    """One method on one backbone, one dataset and one scale: what a progress bar and a table entry stand for."""

    method: str
    backbone: str
    """Empty for methods without an encoder."""
    dataset: str
    family: str
    """The protocol's word for the dataset: "benchmark" or "div2k"."""
    scale: float
    options: Mapping[str, Any] = field(default_factory=dict)
    """Hyperparameters that the user set for this method."""
    checkpoint: Checkpoint | None = None
    """None when the weights were not found; `problem` then says so."""
    images: tuple[ImageRef, ...] = ()
    row_keys: tuple[str, ...] = ()
    """One per image, in the same order."""
    problem: str | None = None
    """Why the cell cannot run, as a sentence; None when it can."""


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do, and what stands in its way."""

    settings: RunSettings
    protocol: Protocol
    cells: tuple[Cell, ...]
    """All cells of one network are neighbours; the yardstick's come first."""
    datasets: tuple[Dataset, ...]
    """Those that were found."""
    notes: tuple[str, ...]
    """Sentences on damaged images and files left aside; they do not stop a run."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why some cells cannot run: each sentence once, in the order of the cells."""
        return tuple(dict.fromkeys(cell.problem for cell in self.cells if cell.problem))


def make_plan(settings: RunSettings) -> Plan:
    """Lay out a run: find images and weights, and name the row of every image.

    What is missing becomes the `problem` of the cells that need it, so that a plan can show all of it at once.

    Raises:
        UserError: two datasets share a name, so that their rows could not be told apart.
    """
    protocol = settings.evaluation()
    sources = [_find_source(name, settings, protocol) for name in settings.datasets]
    _refuse_namesakes(sources)
    device = likely_device(settings.device).partition(":")[0]
    cells = [
        _complete(
            replace(network, dataset=source.name, family=source.family, scale=scale), source, settings, protocol, device
        )
        for method in settings.methods
        for network in networks(method, settings)
        for source in sources
        for scale in settings.scales
    ]
    notes = dict.fromkeys(note for source in sources for note in source.notes)
    if settings.left_out:
        names = ", ".join(settings.left_out)
        notes[
            f"Left out, as no weights are shipped for them: {names}; name --weights official, random or METHOD=PATH."
        ] = None
    found = tuple(source.dataset for source in sources if source.dataset)
    return Plan(settings, protocol, tuple(cells), found, tuple(notes))


def refuse_the_impossible(plan: Plan) -> None:
    """Stop where nothing that was asked for can run; the yardstick alone is not worth starting for others.

    Raises:
        UserError: it is so; the sentence is the first problem's.
    """
    asked = [cell for cell in plan.cells if cell.method != YARDSTICK] or plan.cells
    if plan.problems and all(cell.problem for cell in asked):
        raise UserError(plan.problems[0])


@dataclass(frozen=True)
class _Source:
    """A dataset argument, resolved as far as it can be."""

    name: str
    family: str
    dataset: Dataset | None
    images: Mapping[float, tuple[ImageRef, ...]]
    problems: Mapping[float, str]
    notes: tuple[str, ...] = ()


def _find_source(name: str, settings: RunSettings, protocol: Protocol) -> _Source:
    try:
        dataset = find_dataset(name, settings.data_root)
        notes = dataset.notes()
    except UserError as error:
        return _Source(name, "benchmark", None, {}, dict.fromkeys(settings.scales, str(error)))
    ready = protocol.rules(dataset.family).ready_lr_scales
    images: dict[float, tuple[ImageRef, ...]] = {}
    problems: dict[float, str] = {}
    for scale in settings.scales:
        try:
            images[scale] = dataset.images(scale, ready_lr=scale in ready)[: settings.limit]
        except UserError as error:
            problems[scale] = str(error)
    damages = (image.damage for refs in images.values() for image in refs)
    return _Source(dataset.name, dataset.family, dataset, images, problems, (*notes, *filter(None, damages)))


def _refuse_namesakes(sources: Sequence[_Source]) -> None:
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two datasets are called {name!r}: rename a folder, or run them one after the other.")


def networks(method: str, settings: RunSettings) -> Iterator[Cell]:
    """One cell without a dataset per backbone of a method, with its weights, or why there are none."""
    weights = settings.weights.get(method, "shipped")
    options = settings.options.get(method, {})
    for backbone in _backbones(method, weights, settings.backbones):
        network = Cell(method, backbone, "", "", 0.0, options)
        try:
            yield replace(network, checkpoint=locate(method, backbone, weights))
        except UserError as error:
            yield replace(network, problem=str(error))


def _backbones(method: str, weights: str, chosen: Sequence[str]) -> Sequence[str]:
    supported = method_spec(method).backbones
    if not supported:
        return ("",)
    if chosen:
        return [backbone for backbone in chosen if backbone in supported]
    return usual_backbones(method, weights)


def _complete(cell: Cell, source: _Source, settings: RunSettings, protocol: Protocol, device: str) -> Cell:
    """Add the images and their row keys, or what is missing."""
    images = source.images.get(cell.scale, ())
    if cell.checkpoint is None:
        return replace(cell, images=images)
    if problem := source.problems.get(cell.scale):
        return replace(cell, problem=problem)
    facts = Facts(
        protocol=protocol.as_dict(),
        method=cell.method,
        backbone=cell.backbone,
        weights=cell.checkpoint.sha256 or cell.checkpoint.label,
        options=cell.options,
        dataset=cell.dataset,
        family=cell.family,
        scale=cell.scale,
        device=device,
        dtype=settings.dtype,
        acceleration=settings.acceleration(cell.backbone),
        metrics={name: metric_identity(name) for name in settings.metrics or protocol.rules(cell.family).metrics},
        seed=None if method_spec(cell.method).deterministic else settings.seed,
    )
    return replace(cell, images=images, row_keys=row_keys(facts, images))
