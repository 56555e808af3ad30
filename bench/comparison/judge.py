"""Comparing two sides: match, judge, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bench.comparison.amounts import amounts
from bench.comparison.cells import Side
from bench.comparison.lines import Comparison
from bench.comparison.matching import match
from bench.comparison.quality import failures, quality, tolerances
from bench.comparison.reading import read_side
from bench.comparison.speed import describe_rule, speeds
from methods.errors import UserError


def compare(
    base: Path,
    new: Path,
    *,
    subset: bool = False,
    allow_weights: bool = False,
    pinned: bool = False,
    tolerances: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare the run in the folder `new` with the one in `base`.

    subset: leave out what NEW lacks. allow_weights: compare different weights of one network. pinned: times come from
    a device that nothing else used, see `bench.comparison.speed`. tolerances: by how much a metric's mean may worsen,
    where that differs from `bench.comparison.quality.TOLERANCES`.

    Raises:
        UserError: the runs cannot be read or compared; the sentence says what differs and what to do.
    """
    sides = _distinct(read_side(base), read_side(new), base, new)
    return judge(*sides, subset=subset, allow_weights=allow_weights, pinned=pinned, overrides=tolerances)


def judge(
    base: Side,
    new: Side,
    *,
    subset: bool = False,
    allow_weights: bool = False,
    pinned: bool = False,
    overrides: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare two sides, as `compare` does.

    Raises:
        UserError: they cannot be compared.
    """
    allowed = tolerances(overrides)
    found = match(base, new, subset=subset, allow_weights=allow_weights)
    cost = base.kind == "cost"
    if pinned and not cost:
        raise UserError("Runs of quality hold no repeats to time: leave --pinned out, or name two runs of cost.")
    same_machine = not base.stored or _machine(base) == _machine(new)
    other = (f"Not gated: speed and memory, which {base.name} has of another machine.",) if not same_machine else ()
    return Comparison(
        base=base.name,
        new=new.name,
        kind=base.kind,
        protocol=_protocol(new),
        rule=describe_rule(base, new, pinned=pinned) if cost else "",
        failures=tuple(failures(base, new, found)),
        quality=tuple(quality(base, new, found, allowed)),
        speed=tuple(speeds(base, new, pinned=pinned, same_machine=same_machine)),
        amounts=tuple(amounts(base, new, same_machine=same_machine)),
        notes=(*other, *found.notes),
    )


def _distinct(base: Side, new: Side, base_path: Path, new_path: Path) -> tuple[Side, Side]:
    """The sides, with as much of their paths as tells folders of one name apart."""
    left, right = base_path.resolve().parts, new_path.resolve().parts
    count = next((n for n in range(1, len(left)) if left[-n:] != right[-n:]), 1)
    return replace(base, name="/".join(left[-count:])), replace(new, name="/".join(right[-count:]))


def _machine(side: Side) -> tuple[object, ...]:
    """What decides whether times and peaks of a baseline hold here."""
    models = sorted({entry.conditions["machine"] for entry in side.entries.values() if "machine" in entry.conditions})
    return tuple(models), side.machine["CPU"]


def _protocol(side: Side) -> str:
    """By which protocols and on what, in a line."""
    cost = side.manifest.get("cost") or {}
    names = [str((part or {}).get("title") or "") for part in (side.manifest.get("protocol"), cost.get("protocol"))]
    conditions = [entry.conditions for entry in side.entries.values() if entry.conditions]
    ran = dict.fromkeys(
        " ".join(found[name] for name in ("device", "dtype", "acceleration") if found[name] != "none")
        for found in conditions
    )
    machines = dict.fromkeys(found["machine"] for found in conditions if found.get("machine"))
    machine = ", ".join(machines) or str(side.machine["CPU"] or "")
    return "; ".join(filter(None, (*names, ", ".join(ran), machine)))
