"""Named ways to measure cost: how many warm-ups and repeats, on which inputs, and how they are summed up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from methods.names import resolve

Statistic = Literal["median", "mean"]


@dataclass(frozen=True)
class CostProtocol:
    """One way to measure, complete enough to repeat it."""

    name: str
    title: str
    source: str
    crop: int
    """Side of the square GT patches in pixels; smaller images are continued by their mirror image."""
    images: int | None
    """Different inputs, taken in turns; None: every image of the data set."""
    warmups: int
    """Inferences that are run and dropped first; the inputs go on from there."""
    repeats: int | None
    """Inferences that are measured; None: every input once, those of the warm-ups left out."""
    statistic: Statistic
    """What tables show of the repeats' times and peaks."""
    inside: str = "encoder, decoder and rendering, from an LR image on the device to an SR image on the device"
    outside: str = "reading, degrading, transfer, clamping, rounding, saving, scoring, loading of weights"

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, for the manifest."""
        return asdict(self)


DEFAULT_COST_PROTOCOL = "steady"
COST_PROTOCOLS: Mapping[str, CostProtocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            CostProtocol(
                name="steady",
                title="at least 10 warm-ups and 30 repeats, 5 inputs in turns, median",
                source="MLPerf Inference's rules on warm-up, repeats, varied inputs and checked outputs",
                crop=720,
                images=5,
                warmups=10,
                repeats=30,
                statistic="median",
            ),
            CostProtocol(
                name="table3",
                title="Table 3 of the GSASR paper: every image once, the first two dropped, mean",
                source="ChrisDud0257/GSASR @ 9d2eb64, inference_paper_benchmark.py",
                crop=720,
                images=None,
                warmups=2,
                repeats=None,
                statistic="mean",
            ),
        )
    }
)


def get(name: str = DEFAULT_COST_PROTOCOL) -> CostProtocol:
    """The cost protocol called `name`.

    Raises:
        UserError: there is none.
    """
    return COST_PROTOCOLS[resolve(name, COST_PROTOCOLS, "cost protocol")]
