"""Reading a run: its manifest and its rows, one per scored image (of a cost run: one per timed inference)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from reports.errors import ReportError

SCORES = ("psnr_y", "ssim_y", "lpips", "dists", "psnr_rgb")
PLACE = ("protocol", "dataset", "method", "backbone", "weights", "options", "scale", "image")
"""What a row is about; of several with the same, the last appended counts (a retry, or new weights of an old name)."""
_TEXT = ["method", "backbone", "weights", "dataset", "image", "options", "reason", "checkpoint_sha256"]
_KINDS = {"run": ("scores", "bench run"), "cost": ("cost", "bench cost")}
"""What manifests call a run: what it holds, and which command makes one."""


@dataclass(frozen=True)
class Run:
    """One run's manifest and rows, one row per image of a cell; of a cost run, one per timed inference."""

    path: Path
    manifest: dict[str, Any]
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """The run's id."""
        return str(self.manifest.get("run_id") or self.path.name)

    @property
    def protocol(self) -> str:
        """The protocol's name; `load_run` has checked that there is one only."""
        return str(self.rows["protocol"].iloc[0])

    @property
    def partial(self) -> str | None:
        """Why the numbers are not final; None when every image of the data sets was tried."""
        if self.manifest.get("partial"):
            limit = self.manifest.get("limit")
            return "images were left out" if limit is None else f"--limit {limit} left images out"
        if self.manifest.get("state", "finished") != "finished":
            return "the run has not finished"
        counts = self.manifest.get("counts") or {}
        planned, tried = counts.get("planned", 0), sum(counts.get(kind, 0) for kind in ("done", "skipped", "failed"))
        what = "cells" if kind_of(self.manifest) == "cost" else "images"
        return f"{tried} of {planned} planned {what} were run" if tried < planned else None

    def titles(self, kind: str) -> dict[str, str]:
        """Names to titles of the rows' methods, backbones or datasets (`kind`): the manifest's order, then theirs."""
        return titles_of([self], kind)


def titles_of(runs: Sequence[Run], kind: str) -> dict[str, str]:
    """Names to titles of the methods, backbones or datasets (`kind`) of all rows: the manifests' order, then theirs."""
    found: dict[str, tuple[float, str]] = {}
    for run in runs:
        listed = run.manifest.get(kind) or []
        if isinstance(listed, dict):
            listed = [{"name": name, **(entry if isinstance(entry, dict) else {})} for name, entry in listed.items()]
        for entry in filter(lambda entry: isinstance(entry, dict), listed):
            name = str(entry.get("name"))
            found[name] = entry.get("order", 0), str(entry.get("title") or name)
    names = dict.fromkeys(str(name) for run in runs for name in run.rows[kind.removesuffix("s")].unique())
    ordered = sorted(found, key=lambda name: found[name][0])
    titles = {name: found[name][1] for name in ordered if name in names}
    return titles | {name: name for name in names if name not in titles}


def load_run(path: str | Path) -> Run:
    """Read `results/<run_id>/` of a quality run.

    The JSON lines are preferred to the Parquet file, which is written only when a run ends.

    Raises:
        ReportError: there is no such run, it holds cost, a file is damaged, or the rows mix protocols or weights.
    """
    run = read_run(path, "run")
    rows = _tidy(run.rows, run.path)
    refuse_several(rows, "protocol", run.path)
    refuse_other_networks(rows, run.path)
    return replace(run, rows=rows)


def read_run(path: str | Path, kind: str) -> Run:
    """A run of this kind with its rows as they were written, of which there is at least one.

    Raises:
        ReportError: there is no such run, it is of the other kind or has no rows, or a file is damaged.
    """
    path = Path(path)
    holds, command = _KINDS[kind]
    if not path.is_dir():
        raise ReportError(
            f"There is no run folder {str(path)!r}: give one that `{command}` made, such as results/<run_id>."
        )
    manifest = _read_manifest(path / "manifest.json")
    if (found := kind_of(manifest)) != kind:
        other = _KINDS.get(found, (found, ""))[0]
        raise ReportError(f"The run {str(path)!r} holds {other}, not {holds}: make one with `{command}`.")
    rows = _read_rows(path)
    if rows.empty:
        raise ReportError(f"The run {str(path)!r} has no rows yet: let `{command}` finish an image first.")
    return Run(path, manifest, rows)


def kind_of(manifest: dict[str, Any]) -> str:
    """What a manifest is of: quality or cost."""
    return str(manifest.get("kind") or "run")


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{str(file.parent)!r} is not a run: it holds no manifest.json.") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"The manifest {str(file)!r} cannot be read ({error}): repeat the run.") from None
    if not isinstance(manifest, dict):
        raise ReportError(f"The manifest {str(file)!r} is not a JSON object: repeat the run.")
    return manifest


def _read_rows(path: Path) -> pd.DataFrame:
    logs = sorted((path / "rows").glob("*.jsonl"))
    parquet = path / "rows.parquet"
    if logs:
        return pd.DataFrame([row for log in logs for row in _read_log(log)])
    if parquet.is_file():
        try:
            return pd.read_parquet(parquet)
        except (OSError, ValueError) as error:
            raise ReportError(f"{str(parquet)!r} cannot be read ({error}): repeat the run.") from None
    return pd.DataFrame()


def _read_log(log: Path) -> Iterator[dict[str, Any]]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError:
            if number < len(lines):  # a killed writer tears the last line and no other
                raise ReportError(f"Line {number} of {str(log)!r} is not a row: repeat the run with --fresh.") from None


def require(rows: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Refuse rows that lack a column.

    Raises:
        ReportError: they do.
    """
    if lacking := [column for column in columns if column not in rows]:
        raise ReportError(
            f"The rows of {str(path)!r} lack {', '.join(lacking)}: give a run that this version of bench made."
        )


def with_text(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows with these columns as text, empty where there is none."""
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *columns])))
    rows[list(columns)] = rows[list(columns)].map(lambda value: "" if pd.isna(value) else str(value))
    return rows


def with_numbers(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows with these columns as float64, NaN where there is no number."""
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *columns])))
    rows[list(columns)] = rows[list(columns)].astype("float64")
    return rows


def _tidy(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    require(rows, (*PLACE, "status"), path)
    rows = with_numbers(with_text(rows, _TEXT), SCORES)
    if "row_key" in rows:  # of a network that could not be loaded at first, options and so the place may differ
        rows = rows.drop_duplicates("row_key", keep="last")
    return rows.drop_duplicates(list(PLACE), keep="last", ignore_index=True)


def refuse_several(rows: pd.DataFrame, column: str, path: Path) -> None:
    """Refuse rows of several protocols (`column` names the kind).

    Raises:
        ReportError: there are several.
    """
    found = rows[column].unique()
    if len(found) > 1:
        raise ReportError(
            f"The rows of {str(path)!r} mix the {column}s {' and '.join(map(str, found))}, whose numbers do not "
            "compare: split the run."
        )


def refuse_other_networks(rows: pd.DataFrame, path: Path) -> None:
    """Refuse rows in which one method with one backbone has several weights or options.

    Raises:
        ReportError: one has.
    """
    for what in ("weights", "checkpoint_sha256", "options"):
        kinds = rows[["method", "backbone", what]].drop_duplicates()
        for (method, backbone), group in kinds.groupby(["method", "backbone"]):
            if len(group) > 1:
                network = f"{method} {backbone}".strip()
                names = " and ".join(repr(value[:60]) for value in group[what])
                raise ReportError(
                    f"The rows of {network} in {str(path)!r} mix the {what} {names}: give each a run id of its own."
                )
