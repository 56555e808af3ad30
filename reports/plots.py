"""What all plots share: a method's colour and mark, the figure, and the files it is written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.errors import ReportError
from reports.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches of figures that fill a column or a page of a two-column paper."""
GREY = "#8a8a8a"


class Style(NamedTuple):
    """How a method is drawn."""

    color: str
    marker: str


# Close to Paul Tol's "muted" scheme, which is safe for the colour-blind; marks tell apart what a grey print does not. A
# variant of a method has its colour.
_STYLES = {
    "bicubic": Style("#222222", "X"),
    "metasr": Style("#88ccee", "v"),
    "liif": Style("#332288", "o"),
    "lte": Style("#117733", "s"),
    "srno": Style("#999933", "D"),
    "linf": Style("#44aa99", "^"),
    "linf-patch": Style("#44aa99", ">"),
    "lmf": Style("#882255", "P"),
    "lm-liif": Style("#332288", "h"),
    "lm-lte": Style("#117733", "8"),
    "ciaosr": Style("#ddaa33", "d"),
    "gaussiansr": Style("#aa4499", "<"),
    "gsasr": Style("#cc0409", "*"),
}
_OTHERS = [Style(color, marker) for marker in "pH1234" for color in ("#0077bb", "#ee7733", "#009988", "#bbbbbb")]
_SETTINGS: dict[str, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "pdf.fonttype": 42,
}


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """Colour and mark by method's name, the same in every figure; methods of others' get what is left, in order."""
    others = iter(_OTHERS * (1 + len(methods) // len(_OTHERS)))
    return {name: _STYLES[name] if name in _STYLES else next(others) for name in methods}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.

    Raises:
        ReportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ReportError("Figures need matplotlib: install it with `pip install 'asrbench[figures]'`.") from None
    return Figure(figsize=(width, height), layout="constrained")


def drawing() -> Any:
    """A context in which axes look the same in all figures.

    Raises:
        ReportError: matplotlib is not installed.
    """
    new_figure(1, 1)
    from matplotlib import rc_context

    return rc_context(_SETTINGS)  # type: ignore[arg-type]


def write_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as `stem`.png and .pdf, which has no date, so that equal figures are equal files.

    Raises:
        ReportError: a file cannot be written.
    """
    files = []
    for kind, options in {"png": {"dpi": 220}, "pdf": {"metadata": {"CreationDate": None}}}.items():
        buffer = BytesIO()
        figure.savefig(buffer, format=kind, **options)  # type: ignore[arg-type]
        files.append(write_atomic(stem.with_name(f"{stem.name}.{kind}"), buffer.getvalue()))
    return files


def plain_ticks(axis: Any, values: Iterable[float]) -> None:
    """Label the powers of ten of a logarithmic axis as plain numbers, and 2 and 5 where these values are close."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    found = list(values)
    axis.set_major_locator(LogLocator(subs=(1.0,) if max(found) > 100 * min(found) else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def point(look: Style, *, hollow: bool) -> dict[str, Any]:
    """How a method's mark is drawn; hollow where it was measured otherwise than the rest."""
    size = {"*": 8.5, "X": 6.0, "P": 6.0}.get(look.marker, 5.0)
    face = {"mfc": "white", "mec": look.color, "mew": 1.0} if hollow else {"mec": "white", "mew": 0.4}
    return {"marker": look.marker, "markersize": size, **face}


def method_legend(
    figure: Figure,
    methods: Iterable[str],
    titles: Mapping[str, str],
    *,
    columns: int,
    lines: bool,
    hollow: bool = False,
) -> None:
    """One legend below all panels of the methods in them, in the order of `titles`.

    lines: whether points are joined. hollow: whether some are hollow.
    """
    from matplotlib.lines import Line2D

    looks, present = styles(list(titles)), set(methods)
    style = "-" if lines else ""
    handles = [
        Line2D([], [], ls=style, linewidth=1, color=looks[name].color, label=title, **point(looks[name], hollow=False))
        for name, title in titles.items()
        if name in present
    ]
    if hollow:
        ring = point(Style(GREY, "o"), hollow=True)
        handles.append(Line2D([], [], linestyle="", color=GREY, label="hollow: chunks or tiles", **ring))
    options: dict[str, Any] = {"ncols": columns, "frameon": False, "handletextpad": 0.4, "columnspacing": 1.2}
    figure.legend(handles=handles, loc="outside lower center", **options)
