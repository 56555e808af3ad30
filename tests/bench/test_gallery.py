"""`bench gallery`: every method on one photograph, with the scores that a run gives."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bench.gallery import renderings
from bench.runner import run
from bench.settings import make_settings
from methods.errors import UserError


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "set").mkdir()
    y, x = np.indices((50, 44))
    image = np.stack([127 + 120 * np.sin(y / 5), 3 * y + x, 5 * x], -1).clip(0, 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "set" / "waves.png")
    return tmp_path / "set" / "waves.png"


def test_scores_are_those_of_a_run(photo, tmp_path):
    settings = make_settings(methods="liif", scales="3.5", metrics="psnr_y", datasets=str(photo.parent))
    rows = {row.method: row.psnr_y for row in run(settings, tmp_path / "results").rows}
    first, *others = renderings(photo, settings)
    assert (first.title, first.note) == ("HR", "")
    assert [found.title for found in others] == ["Bicubic", "LIIF"]
    assert [found.note for found in others] == [f"{rows['bicubic']:.2f} dB", f"{rows['liif']:.2f} dB"]
    assert {found.image.shape for found in (first, *others)} == {(49, 42, 3)}


def test_the_photograph_itself_enlarged(photo):
    settings = make_settings(methods="liif", scales="2")
    first, *others = renderings(photo, settings, enlarge=True)
    assert first.title == "LR"
    assert np.array_equal(first.image[::2, ::2], np.asarray(Image.open(photo)))
    assert [found.note for found in others] == ["", ""]
    assert {found.image.shape for found in others} == {(100, 88, 3)}


def test_a_method_that_fails_leaves_the_others(photo):
    settings = make_settings(methods="liif,gsasr", scales="2", weights="liif=no/such.pth")
    found = {rendering.title.split(" (")[0]: rendering for rendering in renderings(photo, settings)}
    assert found["LIIF"].image is None
    assert "no/such.pth" in found["LIIF"].note
    assert found["GSASR"].image is not None


def test_without_a_method_that_can_run(photo):
    settings = make_settings(methods="liif", scales="2", weights="liif=no/such.pth")
    with pytest.raises(UserError, match=r"no/such\.pth"):
        list(renderings(photo, settings))
