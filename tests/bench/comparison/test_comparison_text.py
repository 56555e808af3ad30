from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from comparison_runs import COST, cost_rows, manifest, quality_rows, write_run
from rich.console import Console

from bench.comparison import compare
from bench.comparison.text import markdown, screen_tables

REGRESSION = """\
**Regression**: now (NEW) against old (BASE); 1 of 2 comparisons worsened.

GSASR's rules; cpu float32; Some CPU

| cell | quantity | BASE | NEW | change | verdict | details |
| --- | --- | ---: | ---: | ---: | --- | --- |
| lte/edsr-micro x2 Set5 | PSNR-Y (dB) | 32.000 | 31.960 | -0.0400 | regressed | 5 images, 95 % interval -0.1200 to 0, \
too few for a test, worst bi\\_\\|rd -0.2000 |

<details>
<summary>All comparisons</summary>

**Quality, mean over images**

| cell | quantity | BASE | NEW | change | verdict | details |
| --- | --- | ---: | ---: | ---: | --- | --- |
| liif/edsr-micro x2 Set5 | PSNR-Y (dB) | 32.000 | 32.000 | 0 | same | 5 images, none differs |
| lte/edsr-micro x2 Set5 | PSNR-Y (dB) | 32.000 | 31.960 | -0.0400 | regressed | 5 images, 95 % interval -0.1200 to 0, \
too few for a test, worst bi\\_\\|rd -0.2000 |

- Packages differ: torch 2.9.0 and 2.10.0.

</details>
"""


def one_image_worse(tmp_path):
    odd = [replace(row, image="bi_|rd") if row.image == "bird" else row for row in quality_rows(method="lte")]
    worse = [replace(row, psnr_y=row.psnr_y - 0.2) if row.image == "bi_|rd" else row for row in odd]
    about = manifest()
    about["environment"]["packages"]["torch"] = "2.10.0"
    old = write_run(tmp_path / "old", [*quality_rows(), *odd])
    return compare(old, write_run(tmp_path / "now", [*quality_rows(), *worse], about))


def slower(tmp_path):
    about = manifest(**COST)
    old = write_run(tmp_path / "old", cost_rows([100.0] * 10, energy_j=2.0), about)
    now = cost_rows([150.0] * 10, energy_j=3.0, rss_peak_mib=500.0)
    return compare(old, write_run(tmp_path / "now", now, about))


def test_a_comment_for_a_pull_request(tmp_path):
    assert markdown(one_image_worse(tmp_path)) == REGRESSION


def test_a_comment_on_costs(tmp_path):
    text = markdown(slower(tmp_path))
    cell = "liif/edsr-micro x2 Set5 720 px"
    assert text.startswith(
        "**Regression**: now (NEW) against old (BASE); 2 of 3 comparisons worsened.\n\n"
        "GSASR's rules; 30 repeats; cpu float32; Some CPU\n\n"
    )
    assert f"| {cell} | time (calibrations) | 10 | 15 | +50.0 % | regressed | p \\< 0.001, 10 repeats, " in text
    assert "100 and 150 ms, spread 0 % |" in text
    assert f"| {cell} | peak memory (MiB) | 100.0 | 300.0 | +200.0 % | regressed |  |" in text
    assert f"| {cell} | energy per image (J) | 2.000 | 3.000 | +50.0 % | not gated | for information |" in text
    assert "Speed: tripwire for slow-downs of 25 %, in units of the calibration workload; the runs were" in text


def test_no_regression_has_no_table_before_the_fold(tmp_path):
    runs = [write_run(tmp_path / name, quality_rows()) for name in ("old", "now")]
    before, _, after = markdown(compare(*runs)).partition("<details>")
    assert before.startswith("**No regression**: now (NEW) against old (BASE); 0 of 1 comparisons worsened.\n")
    assert "|" not in before
    assert "none differs" in after


@pytest.mark.parametrize("name", ["<b>x</b>", "@someone", "a`b", "a|b", "[red]x"])
def test_names_stay_text(tmp_path, name):
    rows = [replace(row, dataset=name) for row in quality_rows()]
    found = compare(write_run(tmp_path / "old", rows), write_run(tmp_path / "now", rows))
    assert name not in markdown(found)
    assert name in screen(found)


def screen(comparison, color=None):
    out = StringIO()
    console = Console(file=out, width=300, force_terminal=color is not None, color_system=color, highlight=False)
    console.print(*screen_tables(comparison))
    return out.getvalue()


def test_tables_for_the_screen(tmp_path):
    found = slower(tmp_path)
    assert [table.title for table in screen_tables(found)] == [
        "Quality, mean over images",
        "Speed, median over repeats",
        "Memory and energy, median over repeats",
    ]
    (line,) = [line for line in screen(found).splitlines() if "calibrations" in line]
    assert line.split()[-16:-12] == ["15", "+50.0", "%", "regressed"]


def test_only_verdicts_have_colour(tmp_path):
    text = screen(slower(tmp_path), color="standard")
    assert "\x1b[1;31mregressed" in text
    assert "\x1b[33mnot gated" in text
    assert "\x1b[31m" not in text.replace("\x1b[1;31mregressed", "")
