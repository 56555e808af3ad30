"""Whether two sides can be compared at all, and what of them; every refusal is one sentence with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from bench.comparison.cells import Side, Spot
from methods.errors import UserError

_SUBSET = "pass --subset to compare what both have"


@dataclass(frozen=True)
class Match:
    """What both sides have, and what a reader should know about them."""

    spots: tuple[Spot, ...]
    """Sorted; of either status."""
    metrics: frozenset[str]
    notes: tuple[str, ...]


def match(base: Side, new: Side, *, subset: bool, allow_weights: bool) -> Match:
    """What can be compared of two sides.

    subset: leave out what NEW lacks. allow_weights: compare different weights of one network.

    Raises:
        UserError: they differ in something that would make the comparison mean nothing.
    """
    _same("kind of run", {"kind": base.kind}, {"kind": new.kind}, base, new, "name two runs of one kind")
    _same("protocol", _plain(base, "protocol"), _plain(new, "protocol"), base, new, "run both by one protocol")
    if base.kind == "cost":
        _same("cost protocol", _measuring(base), _measuring(new), base, new, "measure both by one protocol")
        if not base.stored:
            _same("machine", base.machine, new.machine, base, new, "measure both on one machine")
    spots = _common(base, new, subset)
    _same_conditions(base, new, spots)
    notes = [*_state_notes(base, new), *_weights(base, new, spots, allow_weights)]
    notes += _data(base, new, subset)
    metrics = _metrics(base, new, subset)
    notes += _left_out(base, new, spots, metrics)
    notes += _environment_notes(base, new)
    return Match(spots, metrics, tuple(notes))


def first_difference(base: Any, new: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """(dotted path, value in base, value in new) where two pieces of plain data first differ; None: nowhere."""
    if isinstance(base, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*base, *new)):
            found = first_difference(base.get(key), new.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    return None if base == new else (path, base, new)


def _same(what: str, in_base: Mapping[str, Any], in_new: Mapping[str, Any], base: Side, new: Side, remedy: str) -> None:
    found = first_difference(in_base, in_new)
    if found:
        key, left, right = found
        raise UserError(
            f"{base.name} and {new.name} differ in the {what} ({key}: {left!r} and {right!r}), "
            f"so their numbers cannot be compared: {remedy}."
        )


def _plain(side: Side, key: str) -> Mapping[str, Any]:
    value = side.manifest.get(key)
    return value if isinstance(value, Mapping) else {key: value}


def _measuring(side: Side) -> Mapping[str, Any]:
    """What decides the meaning of a cost; the rest of the manifest's part is in every row, or of this machine."""
    cost = _plain(side, "cost")
    return {name: cost.get(name) for name in ("protocol", "calibration")}


def _common(base: Side, new: Side, subset: bool) -> tuple[Spot, ...]:
    spots = sorted(base.entries.keys() & new.entries.keys())
    missing = sorted(base.entries.keys() - new.entries.keys())
    if not spots:
        raise UserError(f"{base.name} and {new.name} have no result in common: run both on the same images.")
    if missing and not subset:
        what = "cell" if base.kind == "cost" else "image"
        raise UserError(
            f"{new.name} lacks {len(missing)} {what}{'s' * (len(missing) > 1)} of {base.name}, first {missing[0]}: "
            f"finish {new.name}, or {_SUBSET}."
        )
    return tuple(spots)


def _same_conditions(base: Side, new: Side, spots: Iterable[Spot]) -> None:
    for spot in spots:
        left, right = base.entries[spot].conditions, new.entries[spot].conditions
        for name in left:
            if name not in right or (base.stored and name == "machine"):
                continue
            _same(f"{name} of {spot}", {name: left[name]}, {name: right[name]}, base, new, f"run both with one {name}")


def _weights(base: Side, new: Side, spots: Iterable[Spot], allowed: bool) -> Iterator[str]:
    """Networks whose weights differ, as notes."""
    networks: dict[str, tuple[str, str]] = {}
    for spot in spots:
        left, right = base.entries[spot], new.entries[spot]
        if left.conditions and right.conditions and left.weights != right.weights:
            network = "/".join(filter(None, (spot.cell.method, spot.cell.backbone)))
            networks[network] = left.weights, right.weights
    for network, (before, after) in networks.items():
        if not allowed:
            raise UserError(
                f"{base.name} and {new.name} have different weights of {network} ({before[:12]} and {after[:12]}): "
                "run both with the same weights, or pass --allow-weights to compare two trainings."
            )
        yield f"Weights of {network} differ: {before[:12]} before, {after[:12]} now."


def _data(base: Side, new: Side, subset: bool) -> Iterator[str]:
    """Compare the data sets' hashes, which are over all images that a run used."""
    hashes = [{data["name"]: data.get("sha256") for data in side.manifest.get("datasets", ())} for side in (base, new)]
    for name in sorted(hashes[0].keys() & hashes[1].keys()):
        if hashes[0][name] == hashes[1][name]:
            continue
        if _uses(base, name) == _uses(new, name):
            raise UserError(
                f"The images of {name} differ between {base.name} and {new.name}: run both on the same files."
            )
        if not subset:
            raise UserError(
                f"{base.name} and {new.name} used different parts of {name}, whose hashes cannot be compared: "
                f"run both on the same images and scales, or {_SUBSET}."
            )
        yield f"Different parts of {name} were used: that common images have equal content was not checked."


def _uses(side: Side, dataset: str) -> Set[tuple[Any, ...]]:
    """Images and scales, of which the data set's hash is made."""
    found: set[tuple[Any, ...]] = set()
    for spot, entry in side.entries.items():
        if spot.cell.dataset == dataset:
            found.add((spot.cell.scale, spot.image, entry.conditions.get("images") if side.kind == "cost" else None))
    return found


def _metrics(base: Side, new: Side, subset: bool) -> frozenset[str]:
    lacking = sorted(base.asked_metrics - new.asked_metrics)
    if lacking and not subset:
        raise UserError(
            f"{new.name} was not asked for {', '.join(lacking)}, which {base.name} has: run it with the same "
            f"--metrics, or {_SUBSET}."
        )
    metrics = base.asked_metrics & new.asked_metrics
    versions = [{m["name"]: m.get("implementation") for m in side.manifest.get("metrics", ())} for side in (base, new)]
    for name in sorted(metrics):
        before, after = (found.get(name) for found in versions)
        if before and after:
            _same(f"implementation of {name}", {name: before}, {name: after}, base, new, "install the same version")
    return metrics


def _left_out(base: Side, new: Side, spots: tuple[Spot, ...], metrics: frozenset[str]) -> Iterator[str]:
    what = "cells" if base.kind == "cost" else "images"
    if missing := len(base.entries) - len(spots):
        yield f"Left out: {missing} {what} that {new.name} lacks."
    if added := len(new.entries) - len(spots):
        yield f"Not compared: {added} {what} that only {new.name} has."
    if lacking := sorted(base.asked_metrics - metrics):
        yield f"Left out: {', '.join(lacking)}, which {new.name} was not asked for."


def _state_notes(base: Side, new: Side) -> Iterator[str]:
    for side in (base, new):
        if (state := side.manifest.get("state", "finished")) != "finished":
            yield f"{side.name} is not complete: its state is {state}."
        if side.manifest.get("partial"):
            yield f"{side.name} is partial: images were left out on purpose."


def _environment_notes(base: Side, new: Side) -> Iterator[str]:
    left, right = (side.manifest.get("environment") or {} for side in (base, new))
    before, after = left.get("packages") or {}, right.get("packages") or {}
    changed = [
        f"{name} {before[name]} and {after[name]}"
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]
    if changed:
        yield f"Packages differ: {', '.join(changed)}."
    for part, value in base.machine.items():
        other = new.machine[part]
        if value != other:
            yield f"Machines differ: {part} {value or 'none'} and {other or 'none'}."
