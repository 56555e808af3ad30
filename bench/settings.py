"""What a user asked for, checked: the flags of `run` and `plan` as one frozen object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from bench.compute import DTYPES, acceleration_name
from bench.data import as_folder
from bench.descriptors import descriptor, list_datasets
from bench.protocol import CELL_RULES, DEFAULT_PROTOCOL, CellRule, Protocol, get
from bench.selection import Scalar, parse_options, parse_scales, parse_weights
from methods.checkpoints import list_checkpoints
from methods.errors import UserError
from methods.names import resolve, select
from methods.registry import list_methods, method_spec

YARDSTICK = "bicubic"
"""The method that every run includes."""
MAX_SEED = 2**63 - 1
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True)
class RunSettings:
    """What to run; made by `make_settings`, which checks it. The same settings give the same rows."""

    methods: tuple[str, ...]
    """Registered names, the yardstick first."""
    scales: tuple[float, ...]
    """Above 1, ascending."""
    backbones: tuple[str, ...] = ()
    """Empty: for each method those that its weights are shipped for, else EDSR-baseline."""
    datasets: tuple[str, ...] = ("embedded",)
    """Registered names and folders."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Per learned method: "shipped" (also when absent), "random" or a path."""
    protocol: str = DEFAULT_PROTOCOL
    cell: CellRule | None = None
    """Replaces the protocol's cell rule."""
    metrics: tuple[str, ...] = ()
    """Empty: those of the protocol, which may differ between dataset families."""
    device: str = "auto"
    dtype: str = "float32"
    channels_last: bool = False
    compiled: bool = False
    seed: int = 0
    limit: int | None = None
    """Only the first so many images of each dataset; such a run is partial."""
    options: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Per method: hyperparameters that replace the checkpoint's."""
    left_out: tuple[str, ...] = ()
    """Methods that `all` or a wildcard named but that no weights are shipped for."""
    data_root: Path | None = None

    def evaluation(self) -> Protocol:
        """The protocol, with the cell rule that was asked for."""
        protocol = get(self.protocol)
        return replace(protocol, cell=self.cell) if self.cell else protocol

    def acceleration(self, backbone: str) -> str:
        """What rows say of memory format and compilation; they concern methods with an encoder only."""
        return acceleration_name(self.channels_last, self.compiled) if backbone else ""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, for the manifest."""
        return {**asdict(self), "data_root": str(self.data_root) if self.data_root else None}


def make_settings(
    *,
    methods: str = "all",
    scales: str = "all",
    backbones: str | None = None,
    datasets: str = "embedded",
    weights: str = "shipped",
    protocol: str = DEFAULT_PROTOCOL,
    cell: str | None = None,
    metrics: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    channels_last: bool = False,
    compiled: bool = False,
    seed: int = 0,
    limit: int | None = None,
    options: Sequence[str] = (),
    data_root: str | Path | None = None,
) -> RunSettings:
    """Check the flags of `run`, as typed, and put them into one object.

    Raises:
        UserError: one of them cannot be meant; the sentence names it.
    """
    named = select(methods, [spec.name for spec in list_methods()], "method")
    by_method = parse_weights(weights, [name for name in named if method_spec(name).learned])
    left_out = _without_weights(named, methods, by_method)
    chosen = [name for name in named if name not in left_out]
    learned = [name for name in chosen if method_spec(name).learned]
    get(protocol)
    if not _DEVICE.fullmatch(device):
        raise UserError(f"{device!r} is not a device: choose auto, cpu, cuda, cuda:1 (and so on) or mps.")
    if limit is not None and limit < 1:
        raise UserError(f"The limit of {limit} images leaves none: give a number from 1, or leave it out.")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"The seed {seed} is out of range: give a number from 0 to {MAX_SEED}.")
    return RunSettings(
        methods=(YARDSTICK, *(name for name in chosen if name != YARDSTICK)),
        scales=parse_scales(scales),
        backbones=_backbones(backbones, learned),
        datasets=_datasets(datasets),
        weights={name: given for name, given in by_method.items() if name in learned},
        left_out=left_out,
        protocol=protocol,
        cell=None if cell is None else cast(CellRule, resolve(cell, CELL_RULES, "cell rule")),
        metrics=_metrics(metrics),
        device=device,
        dtype=resolve(dtype, DTYPES, "dtype"),
        channels_last=channels_last,
        compiled=compiled,
        seed=seed,
        limit=limit,
        options=parse_options(options, chosen),
        data_root=Path(data_root) if data_root else None,
    )


def _without_weights(named: Sequence[str], text: str, weights: Mapping[str, str]) -> tuple[str, ...]:
    """Methods that `all` or a wildcard brought in although no weights are shipped for them, as they are asked for."""
    explicit = {part.strip() for part in text.split(",")}
    shipped = {checkpoint.method for checkpoint in list_checkpoints()}
    return tuple(
        name
        for name in named
        if method_spec(name).learned and name not in explicit | shipped and weights.get(name, "shipped") == "shipped"
    )


def _metrics(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    from bench.metrics import METRICS  # brings scipy, which runs with the protocol's own metrics need later only

    return tuple(select(text, METRICS, "metric"))


def _backbones(text: str | None, methods: Sequence[str]) -> tuple[str, ...]:
    """The chosen backbones; known are those that one of `methods` runs on, and each method must run on one of them."""
    if text is None:
        return ()
    supported = {name: method_spec(name).backbones for name in methods}
    chosen = select(text, dict.fromkeys(b for backbones in supported.values() for b in backbones), "backbone")
    for name, backbones in supported.items():
        if backbones and not set(backbones) & set(chosen):
            raise UserError(f"{name} does not run on {' or '.join(chosen)}: its backbones are {', '.join(backbones)}.")
    return tuple(chosen)


def _datasets(text: str) -> tuple[str, ...]:
    """Registered names and folders, as given but for the spelling of the names."""
    chosen: dict[str, None] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        if item == "all" or any(mark in item for mark in "*?["):
            chosen.update(dict.fromkeys(select(item, list_datasets(), "dataset")))
        else:
            chosen[item if as_folder(item) else descriptor(item).name] = None
    if not chosen:
        raise UserError(f"No dataset was named: choose from {', '.join(list_datasets())}, or give a folder of images.")
    return tuple(chosen)
