"""The lines of a comparison as text, the same for Markdown and the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.comparison.lines import Amount, Comparison, Failure, Line, Quality, Speed
from bench.metrics import METRICS

HEADINGS = ("cell", "quantity", "BASE", "NEW", "change", "verdict", "details")
RIGHT = ("BASE", "NEW", "change")
_ABSENT = "-"


class TextLine(NamedTuple):
    """One line of a table, as HEADINGS."""

    cell: str
    quantity: str
    base: str
    new: str
    change: str
    verdict: str
    details: str


def text_line(line: Line) -> TextLine:
    """A line as text."""
    match line:
        case Failure():
            return _failure(line)
        case Quality():
            return _quality(line)
        case Speed():
            return _speed(line)
        case Amount():
            return _amount(line)


def sections(comparison: Comparison) -> list[tuple[str, Sequence[Line]]]:
    """The lines under their titles, without empty parts."""
    parts: list[tuple[str, Sequence[Line]]] = [
        ("Computed or not", comparison.failures),
        ("Quality, mean over images", comparison.quality),
        ("Speed, median over repeats", comparison.speed),
        ("Memory and energy, median over repeats", comparison.amounts),
    ]
    return [(title, lines) for title, lines in parts if lines]


def counts(comparison: Comparison) -> str:
    """How many lines worsened, improved, or could not be judged, in a sentence that has no names in it."""
    found = dict.fromkeys(("regressed", "improved", "same", "too few", "not gated"), 0)
    for line in comparison.lines:
        if not (isinstance(line, Amount) and line.quantity == "energy per image"):
            found[line.verdict] += 1
    unjudged = found["too few"] + found["not gated"]
    parts = [f"{found['regressed']} of {sum(found.values())} comparisons worsened"]
    parts += [f"{found['improved']} improved"] if found["improved"] else []
    parts += [f"{unjudged} could not be judged"] if unjudged else []
    return ", ".join(parts)


def _failure(line: Failure) -> TextLine:
    what = "images" if line.first else "cell"
    count = f"{line.count} {what if line.count > 1 else what.removesuffix('s')}"
    first = f"first {line.first}" if line.count > 1 else line.first
    return TextLine(
        *(str(line.cell), "status", line.base, line.new, count, line.verdict),
        ": ".join(filter(None, (first, line.reason))),
    )


def _quality(line: Quality) -> TextLine:
    metric = METRICS[line.metric]
    digits = metric.digits + 2
    unit = f" ({metric.unit})" if metric.unit else ""
    title = "PSNR-Y" if line.metric == "psnr_y" else metric.title
    details = [f"{line.n} image{'s' * (line.n != 1)}"]
    if line.lost:
        details.append(f"{line.lost} lost their value, first {line.first_lost}")
    if line.n and line.equal:
        details.append("none differs")
    elif line.interval:
        low, high = (_signed(bound, digits) for bound in line.interval)
        details.append(f"95 % interval {low} to {high}")
    if line.n and not line.equal:
        details += [_p(line.p, "too few for a test"), f"worst {line.worst} {_signed(line.worst_difference, digits)}"]
    base, new = (_number(value, metric.digits + 1) for value in (line.base, line.new))
    change = _signed(line.difference, digits)
    return TextLine(str(line.cell), f"{title}{unit}", base, new, change, line.verdict, ", ".join(details))


def _speed(line: Speed) -> TextLine:
    unit = "ms" if line.unit == "ms" else "calibrations"
    details = [_p(line.p, "")]
    fewest, most = min(line.repeats), max(line.repeats)
    details.append(f"{fewest} repeats" if fewest == most else f"{line.repeats[0]} and {line.repeats[1]} repeats")
    if line.unit != "ms" and line.new_ms is not None:
        details.append(" and ".join(f"{ms:.4g}" for ms in (line.base_ms, line.new_ms) if ms is not None) + " ms")
    if line.spread is not None:
        details.append(f"spread {100 * line.spread:.0f} %")
    base, new = _significant(line.base), _significant(line.new)
    text = ", ".join(filter(None, (line.note, *details)))
    return TextLine(str(line.cell), f"time ({unit})", base, new, _percent(line.ratio), line.verdict, text)


def _amount(line: Amount) -> TextLine:
    digits = 1 if line.unit == "MiB" else 3
    base, new = _number(line.base, digits), _number(line.new, digits)
    note = "for information" if line.quantity == "energy per image" else ""
    quantity = f"{line.quantity} ({line.unit})"
    return TextLine(str(line.cell), quantity, base, new, _percent(line.ratio), line.verdict, note)


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _significant(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.4g}"


def _signed(value: float | None, digits: int) -> str:
    if value is None:
        return _ABSENT
    return "0" if value == 0 else f"{round(value, digits) + 0.0:+.{digits}f}"


def _percent(ratio: float | None) -> str:
    return _ABSENT if ratio is None else f"{round(100 * (ratio - 1), 1) + 0.0:+.1f} %"


def _p(p: float | None, absent: str) -> str:
    if p is None:
        return absent
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
