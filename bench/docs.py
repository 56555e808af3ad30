"""The pages in docs/methods: what registry, docstrings, catalogue and parity cases say of each method."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.facts import LR_SIDE, SCALE, Fact, read_facts
from methods.loading import method_class
from methods.official import catalogue
from methods.registry import ENCODERS, MethodSpec, list_methods

HEADER = "<!-- Written by `python -m bench docs`; change the docstrings or the registry instead. -->"


def write_pages(folder: Path, cases: Path) -> Iterator[Path]:
    """Write a page per registered method and an index; returns the files one by one. cases: folder of parity cases."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in pages(cases).items():
        path = folder / file
        path.write_text(text, encoding="utf-8")
        yield path


def pages(cases: Path) -> dict[str, str]:
    """All pages by file name."""
    facts, known = read_facts(), list(_cases(cases))
    specs = list_methods()
    found = {"README.md": _index(specs, facts)}
    for spec in specs:
        own = [case for case in known if case["method_name"] == spec.name]
        found[f"{spec.name}.md"] = _page(
            spec, {key[1]: fact for key, fact in facts.items() if key[0] == spec.name}, own
        )
    return found


def _index(specs: Iterable[MethodSpec], facts: Mapping[tuple[str, str], Fact]) -> str:
    lines = []
    for spec in specs:
        fact = facts.get((spec.name, spec.backbones[0] if spec.backbones else ""))
        cost = [f"{fact.parameters / 1e6:.2f} M", f"{fact.macs / 1e9:,.1f} G"] if fact else ["-", "-"]
        name = f"[{spec.title}]({spec.name}.md)"
        lines.append((name, f"`{spec.name}`", _source(spec), *cost))
    heading = ("method", "name", "paper", "parameters", "MACs")
    note = (
        f"On EDSR-baseline; multiply-adds of LR {LR_SIDE} x {LR_SIDE} at ×{SCALE}, as this suite computes, after its "
        "exact shortcuts."
    )
    return "\n".join([HEADER, "", "# Methods", "", *_table(heading, lines), "", note, ""])


def _page(spec: MethodSpec, facts: Mapping[str, Fact], cases: Iterable[Mapping[str, Any]]) -> str:
    cls = method_class(spec.name)
    module, text = inspect.getmodule(cls), inspect.getdoc(cls) or ""
    parts = [HEADER, "", f"# {spec.title}", "", f"`{spec.name}`, {_source(spec)}.", ""]
    parts += [_prose(inspect.cleandoc(module.__doc__ or "")), ""] if module else []
    parts += ["## Network and options", "", _prose(text), ""]
    parts += [_defaults(spec, cls), ""]
    if facts:
        parts += ["## Size and cost", "", *_costs(facts), ""]
    parts += ["## Checked against", "", *_parity(cases), ""]
    return "\n".join(parts + _checkpoints(spec))


def _source(spec: MethodSpec) -> str:
    text = ", ".join(filter(None, (spec.paper, spec.venue)))
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _prose(text: str) -> str:
    """A docstring as Markdown: its paragraphs, without the line breaks of the source."""
    return "\n\n".join(" ".join(block.split()) for block in text.split("\n\n"))


def _defaults(spec: MethodSpec, cls: type) -> str:
    signature = inspect.signature(cls).parameters.values()
    shown = {p.name: p.default for p in signature if p.name != "encoder" and p.default is not p.empty}
    shown |= spec.hparams
    options: frozenset[str] = getattr(cls, "options", frozenset())
    lines = [
        (f"`{name}`", f"`{default!r}`", f"yes: `--set {spec.name}.{name}=...`" if name in options else "no")
        for name, default in shown.items()
    ]
    return "\n".join(_table(("hyperparameter", "published", "free to change"), lines)) if lines else ""


def _costs(facts: Mapping[str, Fact]) -> list[str]:
    lines = [
        (ENCODERS[name].title if name else "-", f"{fact.parameters:,}", f"{fact.macs / 1e9:,.1f} G")
        for name, fact in facts.items()
    ]
    return _table(("encoder", "parameters", f"multiply-adds, LR {LR_SIDE} x {LR_SIDE} at ×{SCALE}"), lines)


def _parity(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = [
        (case["case"], case["backbone"], _scale(case["scale"]), f"{case['rtol']:g}", _commit(case["source"]))
        for case in cases
    ]
    if not lines:
        return ["No reference implementation: it is the definition itself."]
    return _table(("case", "encoder", "scale", "tolerance, of the maximum", "reference"), lines)


def _scale(scale: Any) -> str:
    return "×" + " x ".join(f"{one:g}" for one in (scale if isinstance(scale, list) else [scale]))


def _commit(source: str) -> str:
    """Repository and short commit of a case's source."""
    found = re.search(r"github\.com/([\w.-]+/[\w.-]+?)[ ,]+(?:@|commit) ?([0-9a-f]{7})", source)
    return f"{found[1]} @ {found[2]}" if found else source


def _checkpoints(spec: MethodSpec) -> list[str]:
    lines = [
        (
            f"`{e.name}`",
            ", ".join(f"`{f}`" for f in e.files),
            " / ".join(f"{v:.2f}" for v in e.psnr) or "-",
            e.licence,
            e.page,
        )
        for e in catalogue()
        if e.method == spec.name
    ]
    if not lines:
        return []
    heading = ("name", "files", "PSNR-Y, DIV2K ×2 / ×3 / ×4", "licence", "published at")
    return ["## Official checkpoints", "", *_table(heading, lines), ""]


def _cases(folder: Path) -> Iterator[dict[str, Any]]:
    """The JSON of each parity case of a method, with `case`, its name, and `method_name`, the registered one."""
    from bench.parity.cases import find_cases, method_name

    for case in find_cases([folder]):
        if (name := method_name(case)) is not None:
            yield {**json.loads(case.path.read_text(encoding="utf-8")), "case": case.name, "method_name": name}


def _table(heading: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    rows = [list(heading)]
    rows += [["---"] * len(rows[0])] + [list(line) for line in lines]
    return [f"| {' | '.join(row)} |" for row in rows]
