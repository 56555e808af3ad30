from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from reports import cost_figures, plots
from reports.cost import cost_blocks, load_cost_run, shown_cells, summarise
from reports.cost_figures import speed_quality, suffixes, write_cost_figures
from reports.errors import ReportError


def block_of(folder):
    run = load_cost_run(folder)
    (block,) = cost_blocks(run, summarise(run))
    return run, block, shown_cells(block)


def marks_of(axes):
    """What is drawn as marks: {(x, y): colour}."""
    lines = [line for line in axes.get_lines() if line.get_marker() not in ("None", "", "|")]
    return {
        (float(x), float(y)): line.get_color()
        for line in lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


@pytest.mark.slow
def test_writes_both_figures_of_a_whole_run(full_cost_run, tmp_path):
    files = write_cost_figures(full_cost_run, tmp_path)
    names = ["speed-quality.png", "speed-quality.pdf", "memory.png", "memory.pdf"]
    assert [file.name for file in files] == names
    with Image.open(files[0]) as image:
        picture = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for look in plots.styles(["liif", "ciaosr", "gsasr"]).values():
        color = [int(look.color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture.astype(int) - color).max(1) < 3).sum() > 100


def test_points_are_where_time_and_quality_are(make_cost_run, cost_row):
    rows = [
        cost_row("liif", repeat=i, image="a", latency_ms=t, psnr_y=30.0) for i, t in enumerate((90.0, 100.0, 120.0))
    ]
    rows += [cost_row("gsasr", image="a", latency_ms=300.0, psnr_y=32.0)]
    rows += [cost_row("lte", image="a", latency_ms=400.0, psnr_y=29.0)]
    run, _, cells = block_of(make_cost_run(rows))
    (axes,) = speed_quality(run, cells).axes
    looks = plots.styles(["liif", "gsasr", "lte"])
    expected = {"liif": (100.0, 30.0), "gsasr": (300.0, 32.0), "lte": (400.0, 29.0)}
    assert marks_of(axes) == {place: looks[name].color for name, place in expected.items()}
    bars = [bar.get_segments()[0] for bar in axes.collections]
    assert bars[0][:, 0].tolist() == [95.0, 110.0]
    front = next(line for line in axes.get_lines() if line.get_color() == plots.GREY)
    assert front.get_xdata().tolist() == [100.0, 300.0]


def test_a_far_yardstick_is_told_in_words(make_cost_run, cost_row):
    rows = [cost_row("bicubic", image="a", latency_ms=0.2, psnr_y=28.0)]
    rows += [cost_row(name, image="a", latency_ms=t, psnr_y=30.0) for name, t in (("liif", 50.0), ("gsasr", 90.0))]
    run, _, cells = block_of(make_cost_run(rows))
    (axes,) = speed_quality(run, cells).axes
    assert len(marks_of(axes)) == 2
    assert "Bicubic: 28.00 dB in 0.200 ms" in [text.get_text() for text in axes.texts]
    rows[0] = cost_row("bicubic", image="a", latency_ms=45.0, psnr_y=28.0)
    run, _, cells = block_of(make_cost_run(rows))
    (axes,) = speed_quality(run, cells).axes
    assert (45.0, 28.0) in marks_of(axes)


def test_memory_is_drawn_over_scale(make_cost_run, cost_row):
    rows = [cost_row("liif", scale, alloc_peak_mib=1000 / scale) for scale in (2.0, 4.0)]
    run, block, cells = block_of(make_cost_run(rows))
    (axes,) = cost_figures.memory(run, block, cells).axes
    assert set(marks_of(axes)) == {(2.0, 500.0), (4.0, 250.0)}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["×2", "×4"]


def test_blocks_have_files_of_their_own(make_cost_run, cost_row):
    run = load_cost_run(make_cost_run([cost_row("liif", crop=crop) for crop in (360, 720)]))
    assert suffixes(list(cost_blocks(run, summarise(run)))) == ["-360", "-720"]


def test_equal_runs_give_equal_files(make_cost_run, cost_row, tmp_path):
    folder = make_cost_run([cost_row("liif")])
    one, other = (write_cost_figures(folder, tmp_path / name) for name in ("one", "other"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]


def test_a_run_without_scores_has_no_figure_of_quality(make_cost_run, cost_row, failed_cost_row):
    files = write_cost_figures(make_cost_run([cost_row("liif")]))
    assert [file.name for file in files] == ["memory.png", "memory.pdf"]
    with pytest.raises(ReportError, match="neither scores nor memory"):
        write_cost_figures(make_cost_run([failed_cost_row("liif")]))


def test_matplotlib_is_asked_for(make_cost_run, cost_row, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ReportError, match=r"pip install 'asrbench\[figures\]'"):
        write_cost_figures(make_cost_run([cost_row("liif")]))


def test_every_method_keeps_its_look():
    many = ["mine", "bicubic", "gsasr", "yours", "liif"]
    assert plots.styles(many)["gsasr"] == plots.styles(["gsasr"])["gsasr"]
    assert len(set(plots.styles(many).values())) == len(many)


def test_colours_differ_for_the_colour_blind():
    """CIE L*a*b* distances after the dichromat simulations of Machado et al. (2009), severity 1."""
    from skimage.color import rgb2lab

    machado = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    names = ["bicubic", "metasr", "liif", "lte", "srno", "linf", "lmf", "ciaosr", "gaussiansr", "gsasr"]
    colors = [look.color for look in plots.styles(names).values()]
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in machado.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
        nearest = min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(lab, 2))
        assert nearest > 12
