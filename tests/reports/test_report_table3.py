from __future__ import annotations

import csv
import json
import shutil
import subprocess

import pytest

from reports.errors import ReportError
from reports.tables import write_report


def table_lines(text, heading=None):
    """The cells of the first table, or of the first one below a heading."""
    if heading is not None:
        text = text[text.index(heading) :]
    lines = iter(text.splitlines())
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return [table[0], *table[2:]]


def markdown_of(folder, **options):
    (path,) = write_report(folder, 3, ["md"], **options)
    return path.read_text()


def test_ranks_and_ties_by_hand(make_cost_run, cost_row):
    scores = {"ssim_y": 0.9, "lpips": 0.1, "dists": 0.1}
    rows = [
        cost_row("bicubic", latency_ms=1.004, alloc_peak_mib=20.04, psnr_y=30.0, **scores),
        cost_row("liif", latency_ms=100.4, alloc_peak_mib=500.0, psnr_y=31.0, **scores),
        cost_row("gsasr", latency_ms=99.96, alloc_peak_mib=20.01, psnr_y=32.0, **(scores | {"lpips": 0.05})),
    ]
    folder = make_cost_run(rows, protocol={"repeats": 1})
    text = markdown_of(folder)
    assert (folder / "reports" / "table3.md").is_file()
    assert table_lines(text) == [
        ["Scale", "Metric", "Bicubic", "LIIF", "GSASR"],
        ["×2", "PSNR ↑", "30.00", "<u>31.00</u>", "**32.00**"],
        ["", "SSIM ↑", "**0.9000**", "**0.9000**", "**0.9000**"],
        ["", "LPIPS ↓", "<u>0.1000</u>", "<u>0.1000</u>", "**0.0500**"],
        ["", "DISTS ↓", "**0.1000**", "**0.1000**", "**0.1000**"],
        ["", "Time (ms) ↓", "**1.00**", "<u>100</u>", "<u>100</u>"],
        ["", "Memory (MiB) ↓", "**20.0**", "<u>500</u>", "**20.0**"],
    ]


def test_the_caption_says_how_it_was_measured(make_cost_run, cost_row):
    absent = json.dumps({"lpips": "LPIPS needs x.pth: put it there."})
    settings = {"tf32": "matmul+conv", "autotune": True, "acceleration": "channels-last+compile"}
    text = markdown_of(make_cost_run([cost_row("liif", psnr_y=30.0, absent=absent, **settings)]))
    assert "## EDSR-baseline, 720×720 crops of DIV2K GT720, NVIDIA H200, float32" in text
    assert "Cost protocol steady (at least 10 warm-ups and 30 repeats" in text
    assert "Inside the clock: encoder, decoder and rendering" in text
    assert "outside: reading, degrading" in text
    assert "TF32 in matrix products and convolutions, cuDNN autotuned, channels-last, compiled encoders." in text
    assert "Median of the repeats: time, and memory (peak of torch's CUDA allocator, weights and input in it)" in text
    assert "LIIF official (sha256 04cafe04)" in text
    assert "LPIPS not computed: LPIPS needs x.pth." in text
    assert "Partial" not in text
    host = {"device": "cpu", "device_name": "A CPU", "tf32": "", "threads": 2, "rss_peak_mib": 9.0, "rss_base_mib": 1.0}
    text = markdown_of(make_cost_run([cost_row("liif", alloc_peak_mib=None, **host)]))
    assert "A CPU, float32" in text
    assert "Settings: 2 threads." in text
    assert "memory (peak resident memory of the process less" in text
    assert table_lines(text)[2] == ["", "Memory (MiB) ↓", "8.00"]


def test_failures_are_dashes_with_reasons_in_every_format(make_cost_run, cost_row, failed_cost_row):
    rows = [cost_row("liif", psnr_y=30.0, alloc_peak_mib=None, absent='{"alloc_peak_mib":"not on this device"}')]
    rows += [failed_cost_row("gsasr", status="error", reason="the process was killed.")]
    folder = make_cost_run(rows, protocol={"repeats": 1})
    markdown, latex, table = (path.read_text() for path in write_report(folder, 3))
    assert table_lines(markdown)[1:] == [
        ["×2", "PSNR ↑", "**30.00**", "—<sup>a</sup>"],
        ["", "Time (ms) ↓", "**100**", "—<sup>a</sup>"],
        ["", "Memory (MiB) ↓", "—<sup>b</sup>", "—<sup>a</sup>"],
    ]
    assert "<sup>a</sup> the process was killed." in markdown
    assert "<sup>b</sup> not on this device." in markdown
    assert r"\textemdash\textsuperscript{a}" in latex
    lines = {line["method"]: line for line in csv.DictReader(table.splitlines())}
    assert (lines["gsasr"]["status"], lines["gsasr"]["reason"]) == ("error", "the process was killed.")
    assert lines["gsasr"]["latency_ms"] == ""
    assert (lines["liif"]["latency_ms"], lines["liif"]["device_name"]) == ("100.0", "NVIDIA H200")


def test_fallbacks_are_marked_and_do_not_rank(make_cost_run, cost_row, failed_cost_row):
    rows = [
        failed_cost_row("ciaosr"),
        cost_row("ciaosr", fallback="chunks", latency_ms=1.0, alloc_peak_mib=1.0, psnr_y=33.0, tile=64),
        cost_row("liif", latency_ms=100.0, alloc_peak_mib=50.0, psnr_y=31.0),
        cost_row("gsasr", latency_ms=200.0, alloc_peak_mib=60.0, psnr_y=32.0, tile=4096),
    ]
    text = markdown_of(make_cost_run(rows, protocol={"repeats": 1}))
    assert table_lines(text)[1:] == [
        ["×2", "PSNR ↑", "31.00", "**33.00**", "<u>32.00</u>"],
        ["", "Time (ms) ↓", "**100**", "1.00<sup>a</sup>", "<u>200</u><sup>b</sup>"],
        ["", "Memory (MiB) ↓", "**50.0**", "1.00<sup>a</sup>", "<u>60.0</u><sup>b</sup>"],
    ]
    assert "<sup>a</sup> memory had run out (of 139 GiB, 200 GiB were asked for), so measured in smaller chunks" in text
    assert "<sup>b</sup> 4096 queries rendered at a time" in text
    assert "CiaoSR (chunks)" in text


def test_tiles_change_scores_so_those_do_not_rank_either(make_cost_run, cost_row):
    rows = [cost_row("ciaosr", fallback="tiles", psnr_y=33.0), cost_row("liif", psnr_y=31.0)]
    text = markdown_of(make_cost_run(rows, protocol={"repeats": 1}))
    assert table_lines(text)[1][2:] == ["**31.00**", "33.00<sup>a</sup>"]


def test_noise_throttling_and_missing_repeats_are_remarked_on(make_cost_run, cost_row):
    rows = [cost_row("liif", repeat=i, latency_ms=t) for i, t in enumerate((90.0, 100.0, 110.0))]
    rows += [cost_row("lte", repeat=i, throttled="sw-power-cap" if i else "") for i in range(3)]
    rows += [cost_row("gsasr", repeat=i, latency_ms=300.0 + i) for i in range(2)]
    text = markdown_of(make_cost_run(rows, protocol={"repeats": 3}))
    assert table_lines(text)[1][2:] == ["**100**<sup>a</sup>", "**100**<sup>b</sup>", "<u>300</u><sup>c</sup>"]
    assert "<sup>a</sup> varied by more than 5 %" in text
    assert "<sup>b</sup> clocks were throttled (sw-power-cap)" in text
    assert "<sup>c</sup> 2 of 3 repeats" in text
    details = table_lines(text, "### Spread")
    assert details[1][:6] == ["×2", "LIIF", "3", "100", "95.0 to 105", "**10.0%**"]


def test_company_on_the_gpu_is_remarked_on(make_cost_run, cost_row):
    rows = [cost_row("liif", repeat=i, other_processes=i) for i in range(3)]
    text = markdown_of(make_cost_run(rows, protocol={"repeats": 3}))
    assert "<sup>a</sup> 2 other processes were on the GPU" in text


def test_scores_of_random_weights_are_left_out(make_cost_run, cost_row):
    text = markdown_of(make_cost_run([cost_row("liif", weights="random", psnr_y=7.0)]))
    assert "Scores of random weights mean nothing" in text
    assert [line[1] for line in table_lines(text)[1:]] == ["Time (ms) ↓", "Memory (MiB) ↓"]


def test_partial_runs_are_marked(make_cost_run, cost_row):
    folder = make_cost_run([cost_row()], counts={"planned": 4, "done": 1, "skipped": 0, "failed": 0})
    markdown, latex, table = (path.read_text() for path in write_report(folder, 3))
    assert "**Partial run, not final:** 1 of 4 planned cells were run." in markdown
    assert r"\textbf{Partial run, not final:}" in latex
    assert next(csv.DictReader(table.splitlines()))["partial"] == "True"


def test_mirrors_the_paper_and_stands_beside_it(full_cost_run):
    text = markdown_of(full_cost_run, published=True)
    head, *lines = table_lines(text)
    assert head[2:] == [
        "Bicubic",
        "Meta-SR",
        "LIIF",
        "LTE",
        "SRNO",
        "LINF",
        "LMF (LM-CiaoSR)",
        "CiaoSR",
        "GaussianSR",
        "GSASR",
    ]
    assert len(lines) == 36
    psnr = lines[12]
    assert psnr[:4] == ["×4", "PSNR ↑", "29.40", "31.38 / 31.38"]
    assert psnr[9:] == ["<u>31.79</u> / 31.79", "31.49 / 31.49", "**32.01** / 32.01"]
    assert "measured on one NVIDIA A100 under the paper's protocol" in text
    dists, memory = lines[15], lines[11]
    assert dists[8].startswith("0.1930 / 0.1930<sup>")
    assert memory[4].startswith("570 / 570<sup>")
    assert "likely a misprint for 0.1630" in text
    assert "likely a misprint for 370" in text
    assert " / " not in "".join(table_lines(markdown_of(full_cost_run))[1])


@pytest.mark.parametrize(
    ("changes", "stands"),
    [
        ({}, [True, True, True]),
        ({"dataset": "embedded"}, [False, True, True]),
        ({"crop": 360}, [False] * 3),
        ({"backbone": "rdn"}, [False] * 3),
        ({"scale": 5.0}, [False] * 3),
    ],
)
def test_the_paper_stands_beside_what_it_compares_with(make_cost_run, cost_row, changes, stands):
    folder = make_cost_run([cost_row("liif", **({"psnr_y": 37.0} | changes))])
    text = markdown_of(folder, published=True)
    assert [" / " in line[2] for line in table_lines(text)[1:]] == stands
    assert ("has no values for these cells" in text) == (not any(stands))
    (table,) = write_report(folder, 3, ["csv"], published=True)
    line = next(csv.DictReader(table.read_text().splitlines()))
    assert [bool(line["paper_psnr_y"]), bool(line["paper_latency_ms"])] == stands[:2]


def test_shares_of_the_ceiling_by_hand(make_cost_run, cost_row):
    """2 x 500 G multiply-adds in 0.1 s are 10,000 GFLOP/s, a fifth of 50,000."""
    ceilings = {"matmul_gflops": 50_000.0, "copy_gb_s": 4000.0, "exp_g_s": 3100.0, "device": "cuda:0"}
    rows = [cost_row("liif", gmacs=500.0), cost_row("bicubic", latency_ms=1.0)]
    text = markdown_of(make_cost_run(rows, ceilings=ceilings))
    assert table_lines(text, "### Achieved share of this machine's ceilings") == [["Scale", "LIIF"], ["×2", "20.0%"]]
    assert "50 TFLOP/s" in text
    assert "Achieved share" not in markdown_of(make_cost_run(rows, ceilings=ceilings | {"device": "cpu"}))
    assert "Achieved share" not in markdown_of(make_cost_run(rows))


@pytest.mark.parametrize("published", [False, True])
def test_latex_of_costs_compiles(full_cost_run, tmp_path, published):
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("no LaTeX engine: neither pdflatex nor tectonic is installed")
    (path,) = write_report(full_cost_run, 3, ["latex"], tmp_path / "tex", published=published, standalone=True)
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in engine else []
    done = subprocess.run([engine, *options, path.name], cwd=path.parent, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert "too large" not in path.with_suffix(".log").read_text(errors="replace")


def test_tables_of_the_other_kind_are_refused(make_run, make_cost_run, row, cost_row):
    with pytest.raises(ReportError, match="holds scores, not cost"):
        write_report(make_run([row("liif", "a", psnr_y=30.0)]), 3)
    with pytest.raises(ReportError, match="holds cost, not scores"):
        write_report(make_cost_run([cost_row()]), 1)
    with pytest.raises(ReportError, match="beside table 3 only"):
        write_report(make_run([row("liif", "a", psnr_y=30.0)]), 1, published=True)
