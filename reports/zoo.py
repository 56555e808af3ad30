"""The page of the zoo: shipped networks that were trained under one budget, compared image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from reports.errors import ReportError
from reports.files import write_atomic
from reports.plots import new_figure, styles
from reports.rows import load_run, titles_of

_PUBLISHED = Path(__file__).parent / "published"
SCORES, WEIGHTS, LOGS, REMARKS = "scores.csv", "weights.csv", "logs", "remarks.md"
"""In the zoo's folder of results."""
RESAMPLES = 10_000
"""Of the images, for a bootstrap interval."""
_INTRODUCTION = """\
{count} methods on one small encoder ({backbone}), widths scaled down by one rule, trained by one recipe on the same
images with the same seed, each for {first:.0f} to {last:.0f} minutes of one CPU thread ({machine}{elsewhere}).
[docs/training.md](../docs/training.md) has the rule and the commands. These are small networks after minutes: the
comparison is of what each method learns in that time, not of what it can reach.
"""
_MEANS = """\
In brackets: how many images, of the larger sets the first ones by name. Best bold, second underlined.
"""
_DIFFERENCES = """\
Mean over images of {reference} less the other, in dB, with a 95 % bootstrap interval ({resamples:,} resamples of the
images). An interval without 0 tells two networks apart on these images; of other seeds it says nothing.
"""
_IMAGE = ["dataset", "scale", "image"]


class Difference(NamedTuple):
    """Mean of paired differences in dB, and a 95 % bootstrap interval of it."""

    mean: float
    low: float
    high: float


def store_scores(run_dirs: Sequence[str | Path], folder: Path) -> Path:
    """Keep what the page needs of runs, in the zoo's folder: PSNR-Y per image, and which weights they are of.

    Scores that are there already stay if they are of the same weights, so that runs may add images, or a network that
    was trained again; together they must have every method on every image of the runs. Of runs with `--limit`, finished
    or not, all is kept too, but only those images of a data set count that all methods have at all scales.

    Raises:
        ReportError: there is no such run, it is not finished, weights differ between runs, or an image has no score.
    """
    runs = [load_run(run_dir) for run_dir in run_dirs]
    for run in runs:
        if run.partial and run.manifest.get("limit") is None:
            raise ReportError(f"The run {run.name} is not final ({run.partial}): finish it first.")
        if not (run.rows["status"] == "ok").all():
            raise ReportError(f"Some images of {run.name} have no score: repeat the run, which tries them again.")
    if len(protocols := {run.protocol for run in runs}) > 1:
        raise ReportError(f"The runs follow the protocols {' and '.join(sorted(protocols))}, which do not compare.")
    titles = titles_of(runs, "methods")
    rows = pd.concat([run.rows for run in runs])
    weights = rows[["method", "checkpoint_sha256"]].drop_duplicates()
    if repeated := list(weights.loc[weights["method"].duplicated(), "method"]):
        raise ReportError(f"The runs have different weights of {repeated[0]}: score all with the same.")
    rows = rows.drop_duplicates([*_IMAGE, "method"])
    scores = rows.pivot(index=_IMAGE, columns="method", values="psnr_y")
    weights = weights.assign(title=weights["method"].map(titles)).set_index("method").loc[list(titles)]
    sets, images = list(titles_of(runs, "datasets")), scores.index
    scores, weights, sets = _with_earlier(scores, weights, sets, folder)
    limited = {name for run in runs if run.manifest.get("limit") for name in run.rows["dataset"].unique()}
    optional = scores.index.get_level_values("dataset").isin(limited) | ~scores.index.isin(images)
    if (wanting := scores[~optional].isna().any()).any():
        lacking = wanting.index[wanting][0]
        raise ReportError(f"{lacking} was not scored on every image that other methods were: add the run that does.")
    write_atomic(folder / WEIGHTS, weights.to_csv(lineterminator="\n").encode())
    found = scores.reset_index().astype({"dataset": pd.CategoricalDtype(sets)}).sort_values(_IMAGE, kind="stable")
    text = found.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    return write_atomic(folder / SCORES, text.encode())


def _complete(scores: pd.DataFrame) -> pd.Series[bool]:
    """Whether an image has all scores, at every scale that its data set has."""
    whole = scores.notna().all(axis=1)
    scales = scores.index.to_frame().groupby(level="dataset", observed=True)["scale"].transform("nunique")
    return whole.groupby(level=["dataset", "image"], observed=True).transform("sum") == scales


def _with_earlier(
    scores: pd.DataFrame, weights: pd.DataFrame, sets: list[str], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The scores, weights and data sets together with those in the folder that are of no other weights."""
    try:
        earlier, of = pd.read_csv(folder / SCORES, index_col=_IMAGE), pd.read_csv(folder / WEIGHTS, index_col="method")
    except (OSError, ValueError):
        return scores[list(weights.index)], weights, sets
    # A method that no manifest of the runs lists has its name for a title: an earlier one is better.
    weights = weights.assign(title=weights["title"].mask(weights["title"] == weights.index, of["title"]))
    weights["title"] = weights["title"].fillna(weights.index.to_series())
    now, before = (table["checkpoint_sha256"].fillna("").to_dict() for table in (weights, of))
    earlier = earlier.drop(columns=[name for name in now.keys() & before.keys() if now[name] != before[name]])
    known = list(earlier.index.get_level_values("dataset").unique())
    both = weights.combine_first(of).loc[list(dict.fromkeys([*of.index, *weights.index]))]
    return scores.combine_first(earlier)[list(both.index)], both[weights.columns], [*dict.fromkeys([*known, *sets])]


def read_scores(folder: Path, entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """PSNR-Y as `store_scores` kept them, one line per method and image that all have, titles beside.

    Raises:
        ReportError: there are none, or they are of other weights than the `entries`, the shipped checkpoints'.
    """
    try:
        scores, weights = pd.read_csv(folder / SCORES, index_col=_IMAGE), pd.read_csv(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ReportError(f"{str(folder / SCORES)!r} cannot be read ({error}): store a run's scores first.") from None
    scored = dict(zip(weights["method"], weights["checkpoint_sha256"], strict=True))
    for entry in entries:
        if scored.get(entry["method"]) != entry["sha256"]:
            raise ReportError(f"The scores of {entry['method']} are not of the shipped weights: run it again.")
    long = scores[_complete(scores)].reset_index().melt(_IMAGE, var_name="method", value_name="psnr_y")
    return long.assign(title=long["method"].map(dict(zip(weights["method"], weights["title"], strict=True))))


def write_page(
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    published: pd.DataFrame | None = None,
    reference: str = "GSASR",
) -> Path:
    """Write `zoo.md` and `zoo-curves.png` to a folder, and return the former's path.

    folder: of the zoo's results: what `store_scores` wrote, `logs/<method>.csv`, the trainings' logs, and perhaps
    `remarks.md`. entries: of the shipped checkpoints. published: mean PSNR-Y by (method, scale, value) to compare the
    order with; by default the paper's. reference: title of the method that the others are compared with.

    Raises:
        ReportError: there are no scores of these checkpoints, or the folder cannot be written.
    """
    scores = read_scores(folder, entries)
    logs = {path.stem: pd.read_csv(path) for path in sorted((folder / LOGS).glob("*.csv"))}
    titles = dict(zip(scores["method"], scores["title"], strict=True))
    curves = {method: logs[method] for method in titles if method in logs}
    write_atomic(out / "zoo-curves.png", draw_curves(curves, titles))
    text = StringIO()
    for part in (
        "<!-- Written by `python -m bench zoo`; train, score and write again instead of editing. -->\n",
        "# One budget for all methods\n",
        _introduction(entries, titles),
        "## PSNR-Y in dB\n",
        _MEANS,
        means_table(scores),
        f"## Differences to {reference}\n",
        _DIFFERENCES.format(reference=reference, resamples=RESAMPLES),
        differences_table(scores, reference),
        _order(scores, paper_means() if published is None else published, reference),
        _remarks(folder),
        "## Cost\n",
        _costs(entries, titles),
        "## Learning\n",
        "![Validation PSNR over training time](zoo-curves.png)\n",
    ):
        text.write(part + "\n" if part else "")
    return write_atomic(out / "zoo.md", text.getvalue().rstrip("\n").encode() + b"\n")


def paper_means() -> pd.DataFrame:
    """The paper's mean PSNR-Y on DIV2K with EDSR-baseline, misprints corrected: method, scale, value."""
    place = ["backbone", "dataset", "scale", "metric", "method"]
    wrong = pd.read_csv(_PUBLISHED / "anomalies.csv")
    wrong = wrong[(wrong["table"].astype(str) == "1") & (wrong["kind"] == "typo")]
    table = pd.read_csv(_PUBLISHED / "table1.csv").merge(wrong[[*place, "likely"]], "left", place)
    table["value"] = pd.to_numeric(table["likely"]).fillna(table["value"])
    chosen = (table["backbone"] == "EDSR-baseline") & (table["dataset"] == "DIV2K") & (table["metric"] == "psnr")
    return table.loc[chosen, ["method", "scale", "value"]]


def difference(ours: Any, theirs: Any) -> Difference:
    """Of paired scores, arrays of the same length."""
    paired = np.asarray(ours, float) - np.asarray(theirs, float)
    chosen = np.random.default_rng(0).integers(len(paired), size=(RESAMPLES, len(paired)))
    low, high = np.percentile(paired[chosen].mean(1), [2.5, 97.5])
    return Difference(float(paired.mean()), float(low), float(high))


def means_table(scores: pd.DataFrame) -> str:
    """Data sets and scales down, methods across; the best learned one bold, the second underlined."""
    titles = list(dict.fromkeys(scores["title"]))
    lines: list[list[str]] = []
    for (dataset, scale), group in scores.groupby(["dataset", "scale"], sort=False):
        means = [round(float(group.loc[group["title"] == title, "psnr_y"].mean()), 2) for title in titles]
        ranked = sorted(set(means), reverse=True)
        cells = [_marked(value, ranked) for value in means]
        lines.append([f"{dataset} ({group['image'].nunique()})", f"×{scale:g}", *cells])
    align = ("left", "left", *["right"] * len(titles))
    heads = ["data set (images)", "", *titles]
    return tabulate(_once(lines), heads, "pipe", disable_numparse=True, colalign=align) + "\n"


def _once(lines: Sequence[list[str]]) -> list[list[str]]:
    """Lines that begin like the one above begin empty."""
    above = [""] + [line[0] for line in lines[:-1]]
    return [["" if line[0] == before else line[0], *line[1:]] for line, before in zip(lines, above, strict=True)]


def _marked(value: float, ranked: Sequence[float]) -> str:
    text = f"{value:.2f}"
    if value == ranked[0]:
        return f"**{text}**"
    return f"<u>{text}</u>" if len(ranked) > 1 and value == ranked[1] else text


def differences_table(scores: pd.DataFrame, reference: str) -> str:
    """The reference less every other method, per data set and scale."""
    others = [title for title in dict.fromkeys(scores["title"]) if title != reference]
    lines: list[list[str]] = []
    for (dataset, scale), group in scores.groupby(["dataset", "scale"], sort=False):
        of_image = group.pivot(index="image", columns="title", values="psnr_y")
        found = [difference(of_image[reference], of_image[title]) for title in others]
        cells = [f"{one.mean:+.2f}<br>[{one.low:+.2f}, {one.high:+.2f}]" for one in found]
        lines.append([str(dataset), f"×{scale:g}", *cells])
    align = ("left", "left", *["right"] * len(others))
    heads = ["data set", "", *others]
    return tabulate(_once(lines), heads, "pipe", disable_numparse=True, colalign=align) + "\n"


def _introduction(entries: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    machine = Counter(entry["machine"] for entry in entries).most_common(1)[0][0]
    minutes = sorted(entry["cpu_seconds"] / 60 for entry in entries if entry["machine"] == machine)
    elsewhere = "".join(
        f"; {titles.get(entry['method'], entry['method'])} for {entry['cpu_seconds'] / 60:.0f} on {entry['machine']}"
        for entry in entries
        if entry["machine"] != machine
    )
    about = {**entries[0], "machine": machine, "elsewhere": elsewhere}
    return _INTRODUCTION.format(count=len(entries), first=minutes[0], last=minutes[-1], **about)


def _order(scores: pd.DataFrame, published: pd.DataFrame, reference: str) -> str:
    """Whether the methods' order is the paper's, and where the reference stands, in words."""
    lines = ["## The order, and the paper's\n"]
    printed = {title: title.partition(" (")[0] for title in dict.fromkeys(scores["title"])}
    for scale in (2, 3, 4):
        at_scale = scores[scores["scale"] == scale]
        paper = published[published["scale"] == scale].set_index("method")["value"]
        if at_scale.empty or paper.empty:
            continue
        means = at_scale.groupby(["dataset", "title"])["psnr_y"].mean().unstack().rename(columns=printed)
        both = [title for title in printed.values() if title in paper.index]
        ours = means[both].mean().sort_values(ascending=False)
        theirs = paper[both].sort_values(ascending=False)
        correlation = float(ours.rank().corr(theirs.rank()))
        same = "the same" if list(ours.index) == list(theirs.index) else "another"
        lines.append(
            f"×{scale}: {same} order. Here {' > '.join(ours.index)} (mean of the data sets' means); "
            f"in the paper, full-size on DIV2K, {' > '.join(theirs.index)}. Rank correlation {correlation:+.2f}. "
            + _standing(at_scale, reference, [title for title, short in printed.items() if short in both])
        )
    return "\n".join(lines)


def _standing(scores: pd.DataFrame, reference: str, titles: Sequence[str]) -> str:
    """The reference less the best other, over all images."""
    of_image = scores.pivot(index=["dataset", "image"], columns="title", values="psnr_y")
    best = of_image[[title for title in titles if title != reference]].mean().idxmax()
    gap = difference(of_image[reference], of_image[best])
    return (
        f"{reference} less {best}, the best other over all {len(of_image)} images: {gap.mean:+.2f} dB, "
        f"95 % interval [{gap.low:+.2f}, {gap.high:+.2f}].\n"
    )


def _remarks(folder: Path) -> str:
    """What a person noticed in the results, kept beside them."""
    file = folder / REMARKS
    return f"## Remarks\n\n{file.read_text('utf-8')}" if file.is_file() else ""


def _costs(entries: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    lines = [
        [
            titles.get(entry["method"], entry["method"]),
            f"{entry['parameters']:,}",
            f"{entry['steps']:,}",
            f"{entry['cpu_seconds'] / entry['steps']:.3f}",
            f"{entry['cpu_seconds'] / 60:.1f}",
            f"{entry['bytes'] / 1e6:.2f}",
        ]
        for entry in entries
    ]
    headings = ["", "parameters", "steps", "seconds per step", "CPU minutes", "file, MB"]
    align = ("left", *["right"] * (len(headings) - 1))
    return tabulate(lines, headings, "pipe", disable_numparse=True, colalign=align) + "\n"


def draw_curves(logs: Mapping[str, pd.DataFrame], titles: Mapping[str, str]) -> bytes:
    """Validation PSNR over CPU time, a panel per scale, as PNG; logs and titles by method.

    Raises:
        ReportError: matplotlib is not installed, or there are no logs.
    """
    columns = list(dict.fromkeys(c for log in logs.values() for c in log.columns if c.startswith("psnr_y_x")))
    if not columns:
        raise ReportError("There are no training logs with validation scores: keep them as logs/METHOD.csv.")
    figure, looks = new_figure(3.2 * len(columns) + 1.6, 3.6), styles(list(logs))
    panels: Any = figure.subplots(1, len(columns), squeeze=False)[0]
    for panel, column in zip(panels, columns, strict=True):
        for method, log in logs.items():
            scored = log.dropna(subset=[column])
            look = {"color": looks[method].color, "marker": looks[method].marker, "label": titles[method]}
            panel.plot(scored["cpu_seconds"] / 60, scored[column], markersize=3, linewidth=1.2, **look)
        panel.set_title("×" + column.removeprefix("psnr_y_x"), loc="left", fontsize="medium")
        panel.set_xlabel("minutes of one CPU thread")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("validation PSNR-Y (dB)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
