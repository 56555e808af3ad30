from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.errors import ReportError
from reports.tables import write_report

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
METRICS = {"psnr": "psnr_y", "ssim": "ssim_y", "lpips": "lpips", "dists": "dists"}


@pytest.fixture
def small(make_run, row):
    """Means by hand: PSNR bicubic 30.005 (two images), LIIF 30.304, GSASR 30.2959; SSIM ties after rounding."""
    return make_run(
        [
            row("bicubic", "a", psnr_y=29.0, ssim_y=0.8),
            row("bicubic", "b", psnr_y=31.0, ssim_y=0.9),
            row("liif", "a", psnr_y=30.004, ssim_y=0.90001),
            row("liif", "b", psnr_y=30.604, ssim_y=0.90001),
            row("gsasr", "a", psnr_y=30.0, ssim_y=0.90002),
            row("gsasr", "b", psnr_y=30.5918, ssim_y=0.90002),
        ]
    )


def table_lines(path):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in path.read_text().splitlines()
        if line.startswith("|") and not line.startswith("|:")
    ]


def csv_lines(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_best_second_and_ties_by_hand(small):
    (path,) = write_report(small, formats=["md"])
    assert path == small / "reports" / "table1.md"
    assert table_lines(path) == [
        ["Scale", "Metric", "Bicubic", "LIIF", "GSASR"],
        ["×2", "PSNR ↑", "<u>30.00</u>", "**30.30**", "**30.30**"],
        ["", "SSIM ↑", "<u>0.8500</u>", "**0.9000**", "**0.9000**"],
    ]


def test_lower_is_better_where_it_is(make_run, row):
    folder = make_run([row("bicubic", "a", lpips=0.3), row("liif", "a", lpips=0.2), row("gsasr", "a", lpips=0.1)])
    (path,) = write_report(folder, formats=["md"])
    assert table_lines(path)[1] == ["×2", "LPIPS ↓", "0.3000", "<u>0.2000</u>", "**0.1000**"]


def test_the_caption_names_protocol_weights_and_sets(small):
    (path,) = write_report(small, formats=["md"])
    text = path.read_text()
    assert "Protocol gsasr (PSNR & SSIM on Y)" in text
    assert "LIIF shipped (sha256 04cafe04), GSASR shipped (sha256 05cafe05)" in text
    assert "Means over the images of Set5 (2)" in text
    assert "LPIPS not computed" in text
    assert "Partial" not in text


def test_a_metric_without_any_value_is_named_with_its_reason(make_run, row):
    reason = "lpips: LPIPS needs x.pth: put it into /a/folder.; dists: DISTS needs y.pth."
    (path,) = write_report(make_run([row("liif", "a", psnr_y=30.0, reason=reason)]), formats=["md"])
    assert "SSIM not computed. LPIPS not computed: LPIPS needs x.pth. DISTS not computed: DISTS needs y.pth." in (
        path.read_text()
    )
    assert len(table_lines(path)) == 2


def test_an_incomplete_mean_is_a_dash_with_its_reason(make_run, row):
    folder = make_run(
        [
            row("bicubic", "a", psnr_y=29.0, ssim_y=0.8),
            row("bicubic", "b", psnr_y=31.0, ssim_y=0.8, lpips=0.5),
            row("liif", "a", status="oom", reason="out of memory"),
            row("liif", "b", psnr_y=30.0, reason="ssim_y: too small; lpips: no trunk."),
            row("gsasr", "a", psnr_y=30.0, ssim_y=0.9, lpips=0.1),
        ]
    )
    markdown, table = write_report(folder, formats=["md", "csv"])
    assert table_lines(markdown)[1] == ["×2", "PSNR ↑", "**30.00**", "—<sup>a</sup>", "—<sup>b</sup>"]
    assert "<sup>a</sup> 1 of 2 images: out of memory." in markdown.read_text()
    assert "<sup>b</sup> 1 of 2 images: not run." in markdown.read_text()
    lines = {(line["metric"], line["method"]): line for line in csv_lines(table)}
    assert lines["psnr_y", "bicubic"]["mean"] == "30.0"
    assert lines["psnr_y", "liif"]["mean"] == ""
    assert (lines["ssim_y", "liif"]["scored"], lines["ssim_y", "liif"]["images"]) == ("0", "2")
    assert lines["lpips", "liif"]["reason"] == "1 of 2 images: out of memory; 1 of 2 images: no trunk"


def test_images_that_nobody_can_be_run_on_do_not_count(make_run, row):
    skipped = {"status": "skipped", "reason": "too small"}
    rows = [row("bicubic", "a", psnr_y=29.0), row("liif", "a", psnr_y=30.0)]
    rows += [row(method, "b", **skipped) for method in ("bicubic", "liif")]
    (path,) = write_report(make_run(rows), formats=["md"])
    assert table_lines(path)[1] == ["×2", "PSNR ↑", "<u>29.00</u>", "**30.00**"]


def test_one_block_per_backbone_with_bicubic_in_each(make_run, row):
    rows = [row("bicubic", "a", psnr_y=29.0)]
    rows += [row("liif", "a", backbone=backbone, psnr_y=30.0) for backbone in ("rdn", "edsr-micro")]
    (path,) = write_report(make_run(rows), formats=["md"])
    text = path.read_text()
    assert text.index("## Backbone: EDSR-micro") < text.index("## Backbone: RDN")
    assert text.count(" Bicubic |") == 2


def test_partial_runs_are_marked_in_every_format(make_run, row):
    folder = make_run([row("liif", "a", psnr_y=30.0)], partial=True, limit=1)
    markdown, latex, table = write_report(folder)
    assert "**Partial run, not final:** --limit 1 left images out." in markdown.read_text()
    assert r"\textbf{Partial run, not final:} -{}-limit 1 left" in latex.read_text()
    assert {line["partial"] for line in csv_lines(table)} == {"True"}


def published_run(make_run, row):
    """The paper's Table 1 as if every set had one image."""
    cells = {}
    for line in csv_lines(PUBLISHED / "table1.csv"):
        key = line["method"], line["scale"], line["dataset"]
        cells.setdefault(key, {})[METRICS[line["metric"]]] = float(line["value"])
    rows = [
        row(method, "0801", scale=float(scale), dataset=dataset, **values)
        for (method, scale, dataset), values in cells.items()
    ]
    return make_run(rows, methods=[])


def test_mirrors_the_published_table(make_run, row):
    (path,) = write_report(published_run(make_run, row), formats=["md"])
    head, *lines = table_lines(path)
    assert head[2] == "DIV2K<br>Meta-SR"
    assert head[-1] == "LSDIR<br>GSASR"
    assert len(lines) == 40
    psnr = "28.07 28.20 28.26 28.34 28.26 28.31 <u>28.38</u> 28.19 **28.60** "
    psnr += "24.29 24.38 24.43 24.50 24.41 24.47 <u>24.54</u> 24.38 **24.71**"
    dists = "0.4474 0.4375 0.4445 0.4400 0.4500 0.4476 <u>0.4339</u> 0.4821 **0.4232** "
    dists += "0.4702 0.4603 0.4645 0.4597 0.4702 0.4608 <u>0.4535</u> 0.4986 **0.4417**"
    assert lines[12] == ["×6", "PSNR ↑", *psnr.split()]
    assert lines[39] == ["", "DISTS ↓", *dists.split()]


def test_latex_is_booktabs_and_escaped(make_run, row):
    rows = [row("liif", "a", dataset="50%_{my} & $set$", psnr_y=30.0), row("gsasr", "a", dataset="Set5", psnr_y=31.0)]
    (path,) = write_report(make_run(rows), formats=["latex"])
    text = path.read_text()
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"50\%\_\{my\} \& \$set\$" in text
    assert r"\documentclass" not in text
    assert r"$\times$2 & PSNR $\uparrow$" in text


def test_latex_compiles(make_run, row, tmp_path):
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("no LaTeX engine: neither pdflatex nor tectonic is installed")
    folder = published_run(make_run, row)
    nasty = row(
        "liif", "a", dataset='\\~^#_%&${}<>|"×—é雪', backbone="rdn", status="error", reason="50% of #1 {x} \\y_z"
    )
    with (folder / "rows" / "0.jsonl").open("a") as file:
        file.write(json.dumps(nasty) + "\n")
    (path,) = write_report(folder, formats=["latex"], out=tmp_path / "latex", standalone=True)
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    done = subprocess.run([engine, *options, path.name], cwd=path.parent, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"table": 9}, "no table 9"),
        ({"formats": ["pdf"]}, "pdf: choose from md, latex, csv"),
        ({"formats": []}, "given"),
    ],
)
def test_wrong_requests_are_one_sentence(small, arguments, named):
    with pytest.raises(ReportError, match=named):
        write_report(small, **arguments)


def test_an_unwritable_place_is_named(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(small, out=tmp_path / "file" / "reports")


def test_reports_replace_whole_files(small):
    write_report(small)
    write_report(small)
    assert sorted(path.name for path in (small / "reports").iterdir()) == ["table1.csv", "table1.md", "table1.tex"]


def test_published_tables_parse():
    methods = {"Meta-SR", "LIIF", "LTE", "SRNO", "LINF", "LMF", "CiaoSR", "GaussianSR", "GSASR"}
    for name, count in {"table1": 720, "table2": 720, "table3": 324}.items():
        lines = csv_lines(PUBLISHED / f"{name}.csv")
        assert len(lines) == count
        assert {line["method"] for line in lines} == methods
        assert all(float(line["value"]) > 0 and float(line["scale"]) >= 2 for line in lines)
    assert {line["kind"] for line in csv_lines(PUBLISHED / "anomalies.csv")} >= {"typo", "format", "outlier"}
