"""Size and cost of every method on every encoder, measured once on the meta device and kept in facts.json for lists."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from methods.registry import MethodSpec, list_methods

FILE = Path(__file__).with_name("facts.json")
LR_SIDE, SCALE = 180, 4
"""The image that costs are given for: LR 180 x 180, enlarged to 720 x 720."""


@dataclass(frozen=True)
class Fact:
    """What a network weighs."""

    parameters: int
    macs: int
    """Multiply-adds of matrix products and convolutions for one image, as this suite computes."""


def read_facts() -> dict[tuple[str, str], Fact]:
    """By method and encoder (empty for methods without one); imports no torch."""
    content = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []
    return {(entry.pop("method"), entry.pop("backbone")): Fact(**entry) for entry in content}


def write_facts() -> None:
    """Measure everything again."""
    networks = [(spec, backbone) for spec in list_methods() for backbone in spec.backbones or ("",)]
    entries = [
        {"method": spec.name, "backbone": backbone, **asdict(measure(spec, backbone))} for spec, backbone in networks
    ]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def measure(spec: MethodSpec, backbone: str, side: int = LR_SIDE, scale: int = SCALE) -> Fact:
    """Count parameters and multiply-adds of a network that is never computed: on the meta device."""
    import torch

    from bench.tracking import tracking
    from methods import build

    model = build(spec.name, backbone or None).to("meta").eval()
    lr = torch.empty(1, 3, side, side, device="meta")
    with torch.inference_mode(), tracking() as tracker:
        model(lr, (side * scale, side * scale), float(scale))
    return Fact(sum(parameter.numel() for parameter in model.parameters()), tracker.macs)
