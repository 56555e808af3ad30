"""Writing a run's table: the paper's Table 1 of scores, or its Table 3 of costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from reports import table1, table3
from reports.cost import load_cost_run, summarise
from reports.errors import ReportError
from reports.files import write_atomic
from reports.means import set_scores
from reports.rows import Run, load_run

FORMATS = {"md": "md", "latex": "tex", "csv": "csv"}
"""What `--format` takes, and the suffix of the file it writes."""


def write_report(
    run_dir: str | Path,
    table: int = 1,
    formats: Sequence[str] = tuple(FORMATS),
    out: str | Path | None = None,
    *,
    published: bool = False,
    standalone: bool = False,
) -> list[Path]:
    """Write the table of a run, by default into its folder `reports/`, and return the files' paths.

    table: 1 of the scores of a quality run, 3 of a cost run. published: with the paper's values beside ours (table 3).
    standalone: make the LaTeX file a document of its own; otherwise it is for `\\input` into one that loads booktabs,
    graphicx and multirow.

    Raises:
        ReportError: there is no such run, table or format, the run is of the other kind, or the folder cannot be
            written.
    """
    if table not in (1, 3):
        raise ReportError(f"There is no table {table} in this version: give --table 1 or --table 3.")
    chosen = checked_formats(formats)
    if table == 1:
        if published:
            raise ReportError("Published values stand beside table 3 only: give --table 3, or leave them out.")
        run, make = _scores(run_dir, standalone)
    else:
        run, make = _costs(run_dir, published, standalone)
    folder = Path(out) if out is not None else run.path / "reports"
    return [write_atomic(folder / f"table{table}.{FORMATS[name]}", make[name]().encode()) for name in chosen]


def checked_formats(formats: Iterable[str]) -> list[str]:
    """Names of formats, each once.

    Raises:
        ReportError: there is none, or one is unknown.
    """
    chosen = list(dict.fromkeys(formats))
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        raise ReportError(
            f"There is no report format {', '.join(unknown) or 'given'}: choose from {', '.join(FORMATS)}."
        )
    return chosen


def _scores(run_dir: str | Path, standalone: bool) -> tuple[Run, dict[str, Callable[[], str]]]:
    run = load_run(run_dir)
    scores = set_scores(run)
    return run, {
        "md": lambda: table1.markdown(run, scores),
        "latex": lambda: table1.latex(run, scores, standalone=standalone),
        "csv": lambda: table1.csv(run, scores),
    }


def _costs(run_dir: str | Path, published: bool, standalone: bool) -> tuple[Run, dict[str, Callable[[], str]]]:
    run = load_cost_run(run_dir)
    cells = summarise(run)
    return run, {
        "md": lambda: table3.markdown(run, cells, published=published),
        "latex": lambda: table3.latex(run, cells, published=published, standalone=standalone),
        "csv": lambda: table3.csv(run, cells, published=published),
    }
