from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from reports.errors import ReportError
from reports.zoo import (
    SCORES,
    WEIGHTS,
    difference,
    differences_table,
    means_table,
    paper_means,
    read_scores,
    store_scores,
    write_page,
)

ENTRIES = [
    {
        "method": method,
        "backbone": "edsr-micro",
        "machine": "a machine",
        "steps": 100,
        "cpu_seconds": 600,
        "bytes": 1_500_000,
        "parameters": 360_000,
        "sha256": f"{len(method):02}cafe" * 8,
    }
    for method in ("liif", "gsasr")
]


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    lines = []
    for scale in (2.0, 4.0):
        for image in range(6):
            base = 30 - scale + rng.normal()
            for method, title, gain in (("bicubic", "Bicubic", 0), ("liif", "LIIF", 1.5), ("gsasr", "GSASR", 1.4)):
                lines.append(["Set", scale, f"{image}.png", method, title, base + gain + 0.2 * rng.normal()])
    return pd.DataFrame(lines, columns=["dataset", "scale", "image", "method", "title", "psnr_y"])


def test_intervals_are_scipys():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.3, 1, 40), rng.normal(0, 1, 40)
    found = difference(ours, theirs)
    expected = stats.bootstrap((ours - theirs,), np.mean, n_resamples=10_000, method="percentile").confidence_interval
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]


def test_means_are_of_all_images_and_the_best_is_marked(scores):
    head, _, *lines = cells(means_table(scores))
    assert head[2:] == ["Bicubic", "LIIF", "GSASR"]
    assert [line[0] for line in lines] == ["Set (6)", ""]
    for line, scale in zip(lines, (2, 4), strict=True):
        means = scores[scores["scale"] == scale].groupby("title")["psnr_y"].mean().round(2)
        best, second = means.sort_values(ascending=False).index[:2]
        for title, cell in zip(head[2:], line[2:], strict=True):
            marks = {best: f"**{means[title]:.2f}**", second: f"<u>{means[title]:.2f}</u>"}
            assert cell == marks.get(title, f"{means[title]:.2f}")


def test_differences_are_paired(scores):
    head, _, *lines = cells(differences_table(scores, "GSASR"))
    assert head[2:] == ["Bicubic", "LIIF"]
    for line, scale in zip(lines, (2, 4), strict=True):
        of_title = dict(list(scores[scores["scale"] == scale].groupby("title")["psnr_y"]))
        for title, cell in zip(head[2:], line[2:], strict=True):
            expected = difference(of_title["GSASR"], of_title[title])
            assert cell == f"{expected.mean:+.2f}<br>[{expected.low:+.2f}, {expected.high:+.2f}]"


def test_the_page_says_whether_the_order_is_the_papers(scores, tmp_path):
    scores.pivot(index=["dataset", "scale", "image"], columns="method", values="psnr_y").to_csv(tmp_path / SCORES)
    weights = [(name, title, f"{len(name):02}cafe" * 8) for name, title in (("gsasr", "GSASR"), ("liif", "LIIF"))]
    weights.append(("bicubic", "Bicubic", ""))
    pd.DataFrame(weights, columns=["method", "title", "checkpoint_sha256"]).to_csv(tmp_path / WEIGHTS, index=False)
    (tmp_path / "logs").mkdir()
    for method in ("liif", "gsasr"):
        (tmp_path / "logs" / f"{method}.csv").write_text(
            "step,cpu_seconds,psnr_y_x2,psnr_y_x4\n10,60,,\n20,120,29.1,26.2\n30,180,30.1,26.3\n"
        )
    (tmp_path / "remarks.md").write_text("Seen by eye.\n")
    published = pd.DataFrame({"method": ["LIIF", "GSASR"] * 2, "scale": [2, 2, 4, 4], "value": [30, 31, 27.0, 26.0]})
    entries = [ENTRIES[0], {**ENTRIES[1], "machine": "another", "cpu_seconds": 1200}]
    text = write_page(tmp_path, entries, tmp_path / "out", published=published).read_text()
    assert "×2: another order. Here LIIF > GSASR" in text
    assert "×4: the same order" in text
    assert "×3" not in text
    at_4 = scores[scores["scale"] == 4].pivot(index="image", columns="title", values="psnr_y")
    gap = difference(at_4["GSASR"], at_4["LIIF"])
    assert f"over all 6 images: {gap.mean:+.2f} dB, 95 % interval [{gap.low:+.2f}, {gap.high:+.2f}]" in text
    assert "## Remarks\n\nSeen by eye.\n\n## Cost" in text
    assert "each for 10 to 10 minutes of one CPU thread (a machine; GSASR for 20 on another)" in text
    assert ["LIIF", "360,000", "100", "6.000", "10.0", "1.50"] in cells(text)
    image = Image.open(io.BytesIO((tmp_path / "out" / "zoo-curves.png").read_bytes()))
    assert image.size == (1200, 540)


@pytest.fixture
def first(make_run, row, tmp_path):
    """A run of three methods on two images."""
    names = ("bicubic", "liif", "gsasr")
    rows = [row(name, f"{i}.png", psnr_y=30.0 + i) for name in names for i in range(2)]
    return make_run(rows).rename(tmp_path / "first")


@pytest.fixture
def second(make_run, row):
    """Write a run of them on one image of another set, its rows of GSASR changed."""

    def make(gsasr=None, **manifest):
        names = ("bicubic", "gsasr", "liif")
        rows = [row(name, "9.png", dataset="Another", psnr_y=29.0 + len(name)) for name in names]
        return make_run([{**one, **gsasr} if gsasr and one["method"] == "gsasr" else one for one in rows], **manifest)

    return make


def test_scores_of_several_runs_are_joined(first, second, tmp_path):
    store_scores([first, second(partial=True, limit=1)], tmp_path)
    scores = read_scores(tmp_path, ENTRIES)
    assert list(scores["dataset"].unique()) == ["Set5", "Another"]
    assert list(scores["title"].unique()) == ["Bicubic", "LIIF", "GSASR"]
    found = scores.set_index(["dataset", "image", "method"])["psnr_y"]
    assert len(found) == 9
    assert (found["Set5", "1.png", "liif"], found["Another", "9.png", "gsasr"]) == (31.0, 34.0)


def test_methods_stand_in_the_suites_order_whatever_run_they_are_of(make_run, row, tmp_path):
    runs = []
    for name, title, order in (("gsasr", "GSASR", 9), ("liif", "LIIF", 2), ("bicubic", "Bicubic", 0)):
        about = [{"name": name, "title": title, "order": order}]
        runs.append(make_run([row(name, "0.png", psnr_y=30.0)], methods=about).rename(tmp_path / name))
    store_scores(runs, tmp_path)
    assert list(read_scores(tmp_path, ENTRIES)["title"].unique()) == ["Bicubic", "LIIF", "GSASR"]


def test_earlier_scores_of_the_same_weights_stay(first, second, tmp_path):
    store_scores([first], tmp_path)
    store_scores([second(partial=True, limit=1)], tmp_path)
    found = read_scores(tmp_path, ENTRIES).set_index(["dataset", "image", "method"])["psnr_y"]
    assert len(found) == 9
    assert (found["Set5", "1.png", "liif"], found["Another", "9.png", "gsasr"]) == (31.0, 34.0)


def test_of_limited_runs_whole_images_count(make_run, row, tmp_path):
    names = ("bicubic", "liif", "gsasr")
    rows = [row(n, f"{i}.png", scale, psnr_y=30.0 + i) for n in names for scale in (2.0, 4.0) for i in range(3)]
    rows = [one for one in rows if (one["method"], one["image"], one["scale"]) != ("gsasr", "1.png", 4.0)]
    store_scores([make_run(rows, partial=True, limit=3, state="interrupted")], tmp_path)
    assert set(read_scores(tmp_path, ENTRIES)["image"]) == {"0.png", "2.png"}
    rest = [row("gsasr", "1.png", 4.0, psnr_y=29.0)]
    store_scores([make_run(rest, partial=True, limit=3, state="interrupted")], tmp_path)
    found = read_scores(tmp_path, ENTRIES).set_index(["image", "method", "scale"])["psnr_y"]
    assert len(found) == 3 * 3 * 2
    assert (found["1.png", "liif", 4.0], found["1.png", "gsasr", 4.0]) == (31.0, 29.0)


def test_a_method_that_only_earlier_scores_have_is_named(first, make_run, row, tmp_path):
    store_scores([first], tmp_path)
    rows = [row(name, "9.png", dataset="Another", psnr_y=29.0) for name in ("bicubic", "liif")]
    with pytest.raises(ReportError, match="gsasr was not scored"):
        store_scores([make_run(rows)], tmp_path)


def test_a_network_trained_again_joins_the_others_earlier_scores(first, make_run, row, tmp_path):
    store_scores([first], tmp_path)
    (path := tmp_path / "weights.csv").write_text(path.read_text().replace(ENTRIES[1]["sha256"], "0" * 64))
    rows = [row("gsasr", image, psnr_y=33.0, checkpoint_sha256=ENTRIES[1]["sha256"]) for image in ("0.png", "1.png")]
    store_scores([make_run(rows)], tmp_path)
    found = read_scores(tmp_path, ENTRIES).set_index(["image", "method"])["psnr_y"]
    assert (found["1.png", "gsasr"], found["1.png", "liif"], found["0.png", "gsasr"]) == (33.0, 31.0, 33.0)


def test_titles_that_a_run_does_not_list_stay(first, make_run, row, tmp_path):
    store_scores([first], tmp_path)
    names = ("bicubic", "liif", "gsasr", "lte")
    rows = [row(name, image, psnr_y=33.0) for name in names for image in ("0.png", "1.png")]
    store_scores([make_run(rows, methods=[])], tmp_path)
    assert list(read_scores(tmp_path, ENTRIES)["title"].unique()) == ["Bicubic", "LIIF", "GSASR", "lte"]


def test_earlier_scores_of_other_weights_go(first, second, tmp_path):
    store_scores([first], tmp_path)
    text = (tmp_path / "weights.csv").read_text()
    (tmp_path / "weights.csv").write_text(text.replace(ENTRIES[0]["sha256"], "0" * 64))
    store_scores([second()], tmp_path)
    assert list(read_scores(tmp_path, ENTRIES)["dataset"].unique()) == ["Another"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gsasr": {"checkpoint_sha256": "f"}}, "different weights of gsasr"),
        ({"gsasr": {"status": "failed"}}, "have no score"),
        ({"gsasr": {"image": "8.png"}}, "was not scored on every image"),
        ({"state": "interrupted"}, "not final"),
    ],
)
def test_scores_that_do_not_belong_together_are_refused(first, second, tmp_path, changes, words):
    with pytest.raises(ReportError, match=words):
        store_scores([first, second(**changes)], tmp_path)
    assert not (tmp_path / SCORES).exists()


def test_scores_of_other_weights_than_the_shipped_are_refused(first, tmp_path):
    store_scores([first], tmp_path)
    with pytest.raises(ReportError, match="scores of liif are not of the shipped weights"):
        read_scores(tmp_path, [{"method": "liif", "sha256": "0"}])


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ReportError, match=r"scores\.csv"):
        write_page(tmp_path, ENTRIES, tmp_path)


def test_the_papers_means_are_read_and_corrected():
    means = paper_means().set_index(["method", "scale"])["value"]
    assert means["LIIF", 2] == 36.05
    assert means["Meta-SR", 4] == 30.36  # printed as 33.36
    assert means["GSASR", 4] == means.xs(4, level="scale").max()
