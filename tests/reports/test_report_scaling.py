from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from reports.cost import MEMORY, load_cost_run
from reports.errors import ReportError
from reports.growth import fit_power, groups, law
from reports.scaling import write_scaling

SIZES = (128, 256, 512, 720)
LAWS = {"liif": (1e-4, 1.0, 1e-3, 1.0), "ciaosr": (1e-5, 1.3, 1e-7, 2.0), "gaussiansr": (2e-3, 0.9, 5000.0, 0.0)}


def test_fits_are_scipys():
    rng = np.random.default_rng(0)
    pixels = np.array([1e4, 6e4, 2e5, 7e5, 3e6])
    values = 3e-3 * pixels**0.8 * rng.lognormal(0, 0.1, 5)
    expected = stats.linregress(np.log(pixels), np.log(values))
    found = fit_power(pixels.tolist(), values.tolist())
    assert found.exponent == pytest.approx(expected.slope)
    assert found.error == pytest.approx(expected.stderr)
    assert found.r2 == pytest.approx(expected.rvalue**2)
    assert found.intercept == pytest.approx(expected.intercept)


def test_standard_errors_cover_the_truth_as_they_claim():
    """Of t intervals at 95 %, about that many hold the exponent that the points were drawn with."""
    rng = np.random.default_rng(1)
    pixels = np.array(SIZES, float) ** 2
    reach = stats.t.ppf(0.975, len(pixels) - 2)
    fits = [fit_power(pixels.tolist(), (pixels**1.1 * rng.lognormal(0, 0.2, 4)).tolist()) for _ in range(2000)]
    inside = np.mean([abs(fit.exponent - 1.1) <= reach * fit.error for fit in fits])
    assert inside == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("values", "noise", "why"),
    [
        ([100.0, 102.0, 101.0], 0.0, "constant, 100 to 102"),
        ([100.0, 130.0, 120.0], 15.0, "constant, 100 to 130"),
        ([0.0, 0.0, 0.0], 0.0, "constant, 0.000"),
        ([-1.0, 50.0, 90.0], 0.0, "too little to measure, -1.000 to 90.0"),
        ([1.0, 2.0], 0.0, "measured at 2 of at least 3 sizes"),
    ],
)
def test_what_does_not_grow_is_not_fitted(values, noise, why):
    found = law([1e4, 1e5, 1e6][: len(values)], values, noise, MEMORY)
    assert found.fit is None
    assert found.why == why
    assert law([1e4, 1e5, 1e6], [100.0, 130.0, 120.0], 14.0, MEMORY).fit is not None


def test_finds_the_laws_that_the_rows_were_drawn_with(make_cost_run, scaling_rows):
    (group,) = groups(load_cost_run(make_cost_run(scaling_rows(SIZES, LAWS))))
    assert [growth.method for growth in group.growths] == ["liif", "ciaosr", "gaussiansr"]
    for growth in group.growths:
        _, time, _, memory = LAWS[growth.method]
        assert growth.time.pixels == [size**2 for size in SIZES]
        assert growth.time.fit.exponent == pytest.approx(time, abs=0.01)
        if memory:
            assert growth.memory.fit.exponent == pytest.approx(memory, abs=1e-9)
            assert growth.memory.fit.r2 == pytest.approx(1)
        else:
            assert growth.memory.why == "constant, 5000"


def test_writes_table_and_figure(make_cost_run, scaling_rows, tmp_path):
    folder = make_cost_run(scaling_rows(SIZES, LAWS))
    files = write_scaling(folder, tmp_path / "out", ["md", "csv"])
    assert [file.name for file in files] == ["scaling.md", "scaling.csv", "scaling.png", "scaling.pdf"]
    text = files[0].read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert lines[0] == ["Method", "Sizes", "Exponent of time", "R²", "Exponent of memory", "R²"]
    assert lines[3][0::4] == ["CiaoSR", "2.000 ± 0.000"]
    assert lines[4][4:] == ["constant, 5000", ""]
    assert "![Time and memory over output pixels](scaling.png)" in text
    table = {(line["method"], line["quantity"]): line for line in csv.DictReader(files[1].read_text().splitlines())}
    assert float(table["ciaosr", "time"]["exponent"]) == pytest.approx(1.3, abs=0.01)
    assert table["gaussiansr", "memory"]["exponent"] == ""
    with Image.open(files[2]) as image:
        assert image.width > 1400
    assert files[3].read_bytes().startswith(b"%PDF")


def test_failed_cells_and_fallbacks_are_no_points(make_cost_run, scaling_rows, failed_cost_row, cost_row):
    rows = [row for row in scaling_rows(SIZES, LAWS) if (row["method"], row["crop"]) != ("ciaosr", 720)]
    rows += [failed_cost_row("ciaosr", 4.0, crop=720), cost_row("ciaosr", 4.0, crop=720, fallback="tiles")]
    (group,) = groups(load_cost_run(make_cost_run(rows)))
    points = {growth.method: len(growth.time.values) for growth in group.growths}
    assert points == {"liif": 4, "ciaosr": 3, "gaussiansr": 4}


@pytest.mark.slow
def test_one_figure_per_scale(make_cost_run, scaling_rows):
    rows = scaling_rows(SIZES, LAWS) + scaling_rows(SIZES, LAWS, scale=2.0)
    files = write_scaling(make_cost_run(rows), formats=["latex"])
    assert [file.name for file in files if file.suffix == ".png"] == ["scaling-1.png", "scaling-2.png"]
    assert files[0].read_text().count(r"\toprule") == 2


def test_fewer_than_three_sizes_are_an_error(make_cost_run, scaling_rows):
    folder = make_cost_run(scaling_rows(SIZES[:2], LAWS))
    with pytest.raises(ReportError, match="crops of 128, 256 pixels, but growth needs 3 sizes"):
        write_scaling(folder)
    with pytest.raises(ReportError, match="pdf: choose from md, latex, csv"):
        write_scaling(folder, formats=["pdf"])
