"""Table and figure of how time and memory grow with size, from a cost run with patches of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from reports.captions import memory_text, settings_text
from reports.cost import cost_protocol, load_cost_run
from reports.documents import Block, latex_document, markdown_document
from reports.files import write_atomic
from reports.growth import CONSTANT, Fit, Group, Law, groups
from reports.markup import LATEX, MARKDOWN, Markup
from reports.plots import GREY, PAGE, drawing, method_legend, new_figure, plain_ticks, point, styles, write_figure
from reports.rows import Run
from reports.tables import FORMATS, checked_formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUANTITIES = ("time", "memory")


def write_scaling(
    run_dir: str | Path, out: str | Path | None = None, formats: Sequence[str] = tuple(FORMATS)
) -> list[Path]:
    """Write the table `scaling` in these formats and its figures (PNG and PDF), by default into the run's `reports/`.

    Raises:
        ReportError: there is no such run or format, it holds scores or fewer than three sizes, matplotlib is not
            installed, or the folder cannot be written.
    """
    chosen = checked_formats(formats)
    run = load_cost_run(run_dir)
    found = groups(run)
    folder = Path(out) if out is not None else run.path / "reports"
    make: dict[str, Callable[[], str]] = {
        "md": lambda: markdown_document(
            f"Growth with size in run {MARKDOWN.escape(run.name)}", _blocks(run, found, MARKDOWN)
        ),
        "latex": lambda: latex_document(_blocks(run, found, LATEX), standalone=False),
        "csv": lambda: _csv(run, found),
    }
    files = [write_atomic(folder / f"scaling.{FORMATS[name]}", make[name]().encode()) for name in chosen]
    with drawing():
        for stem, group in zip(_stems(found), found, strict=True):
            files += write_figure(draw(run, group), folder / stem)
    return files


def has_sizes(run_dir: str | Path) -> bool:
    """Whether a cost run has patches of several sizes.

    Raises:
        ReportError: as `write_scaling`, but for the number of sizes.
    """
    return int(load_cost_run(run_dir).rows["crop"].nunique()) > 1


def draw(run: Run, group: Group) -> Figure:
    """Time and memory over output pixels, both logarithmic: points, the fits, and a grey line of slope 1."""
    titles = run.titles("methods")
    figure = new_figure(PAGE, 3.1)
    panels: Any = figure.subplots(1, 2)
    for panel, quantity in zip(panels, _QUANTITIES, strict=True):
        laws = {growth.method: law for growth in group.growths if (law := _positive(getattr(growth, quantity))).values}
        _panel(panel, laws)
    panels[0].set_ylabel("time per image (ms)")
    panels[1].set_ylabel("peak memory (MiB)" if group.block.cuda else "peak resident memory (MiB)")
    method_legend(figure, [growth.method for growth in group.growths], titles, columns=5, lines=True)
    return figure


def _panel(panel: Any, laws: Mapping[str, Law]) -> None:
    looks = styles(list(laws))
    panel.set(xscale="log", yscale="log", xlabel="output pixels")
    for name, law in laws.items():
        panel.plot(law.pixels, law.values, linestyle="", color=looks[name].color, **point(looks[name], hollow=False))
        ends = np.array([min(law.pixels), max(law.pixels)])
        if law.fit:
            line = np.exp(law.fit.intercept) * ends**law.fit.exponent
            panel.plot(ends, line, color=looks[name].color, linewidth=1, zorder=1.5)
        elif law.why.startswith("constant"):
            panel.plot(ends, [np.median(law.values)] * 2, color=looks[name].color, linewidth=1, ls=":", zorder=1.5)
    sizes = sorted({pixels for law in laws.values() for pixels in law.pixels})
    if sizes:
        _guide(panel, sizes, [value for law in laws.values() for value in law.values])
        panel.set_xticks(sizes, [f"{pixels**0.5:.0f}²" for pixels in sizes])
        panel.xaxis.minorticks_off()


def _guide(panel: Any, sizes: Sequence[float], values: Sequence[float]) -> None:
    """A line of slope 1 above all points."""
    ends = np.array([sizes[0], sizes[-1]])
    line = 1.6 * max(values) * ends / ends[1]
    panel.plot(ends, line, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    panel.annotate(
        "slope 1", (ends[1], line[1]), (-4, 1), textcoords="offset points", ha="right", va="bottom", color="#555555"
    )
    panel.set_ylim(top=3 * line[1])
    plain_ticks(panel.yaxis, [*values, *line])


def _positive(law: Law) -> Law:
    """What a logarithmic axis can show of it."""
    shown = [(x, y) for x, y in zip(law.pixels, law.values, strict=True) if y > 0]
    return law._replace(pixels=[x for x, _ in shown], values=[y for _, y in shown])


def _blocks(run: Run, found: Sequence[Group], markup: Markup) -> list[Block]:
    blocks = []
    for stem, group in zip(_stems(found), found, strict=True):
        picture = (f"![Time and memory over output pixels]({stem}.png)",) if markup is MARKDOWN else ()
        title, caption = markup.escape(_title(run, group)), markup.escape(_caption(run, group))
        if run.partial:
            caption = f"{markup.strong.format('Partial run, not final:')} {markup.escape(run.partial)}. {caption}"
        blocks.append(Block(title, caption, _table(run, group, markup), [], picture))
    return blocks


def _table(run: Run, group: Group, markup: Markup) -> str:
    titles = run.titles("methods")
    lines = [
        [
            markup.escape(titles[growth.method]),
            str(len(growth.time.values)),
            *(cell for quantity in _QUANTITIES for cell in _cells(getattr(growth, quantity), markup)),
        ]
        for growth in group.growths
    ]
    square = "$R^2$" if markup is LATEX else "R²"
    heads = ["Method", "Sizes", "Exponent of time", square, "Exponent of memory", square]
    if markup is LATEX:
        body = [" & ".join(cells) + r" \\" for cells in (heads, *lines)]
        body.insert(1, r"\midrule")
        return "\n".join([r"\begin{tabular}{lrrrrr}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])
    return tabulate(lines, heads, "pipe", disable_numparse=True, colalign=["left", *["right"] * 5])


def _cells(law: Law, markup: Markup) -> list[str]:
    if law.fit is None:
        return [markup.escape(law.why), ""]
    return [f"{law.fit.exponent:.3f} ± {law.fit.error:.3f}", f"{law.fit.r2:.4f}"]


def _title(run: Run, group: Group) -> str:
    block = group.block
    backbone = run.titles("backbones")[block.backbone] if block.backbone else "Methods without a backbone"
    return f"{backbone}, ×{group.scale:g}, crops of {run.titles('datasets')[block.dataset]}, {block.device}"


def _caption(run: Run, group: Group) -> str:
    settings = settings_text(group.block)
    return (
        f"Cost protocol {run.protocol}: {cost_protocol(run)['statistic']} per size. "
        + (f"Settings: {settings}. " if settings else "")
        + "Least squares of the logarithm of time, and of memory "
        f"({memory_text(group.block)}), against that of the output pixels: exponent ± standard error. Constant: the "
        f"sizes differ by at most {CONSTANT * 100:g} % of the median, or by twice the spread of the repeats."
    )


def _csv(run: Run, found: Sequence[Group]) -> str:
    lines = [
        {
            **group.block.configuration,
            "backbone": group.block.backbone,
            "dataset": group.block.dataset,
            "scale": group.scale,
            "method": growth.method,
            "quantity": quantity,
            "sizes": len(law.values),
            **(law.fit or Fit(*[float("nan")] * 4))._asdict(),
            "reason": law.why,
        }
        for group in found
        for growth in group.growths
        for quantity, law in zip(_QUANTITIES, growth[1:], strict=True)
    ]
    tidy = pd.DataFrame(lines).assign(protocol=run.protocol, partial=bool(run.partial), run_id=run.name)
    return tidy.to_csv(index=False, lineterminator="\n")


def _stems(found: Sequence[Group]) -> list[str]:
    """Names of the figures; numbered where there are several."""
    return ["scaling"] if len(found) == 1 else [f"scaling-{number}" for number in range(1, len(found) + 1)]
