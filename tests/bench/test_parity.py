"""`bench parity`: cases of reference implementations pass, and what differs from them does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.parity import run_parity
from bench.parity.record import RECORD, record
from bench.parity.weights import fill
from methods.errors import UserError

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "parity"
SLOW_FOLDERS = {"gsasr", "encoders"}
"""Folders of which only some cases are fast."""
FAST = {"edsr_gsasr", "edsr_liif", "edsr_x4_batch2", "imresize", "matlab", "psnr-ssim"}


def is_slow(file):
    if file.parent.name == "rasterizer":
        return file.stem not in {"gsasr_grid", "off_image_nonsquare", "rho_near_one", "tiny_sigma"}
    if file.parent.name in SLOW_FOLDERS | {"metrics"}:
        return file.stem not in FAST
    return any(word in file.stem for word in ("rdn", "x12", "swinir"))


def case_files():
    for file in sorted(CASES.rglob("*.json")):
        marks = [pytest.mark.slow] if is_slow(file) else []
        yield pytest.param(file, id=f"{file.parent.name}-{file.stem}", marks=marks)


def copy_case(name, folder, arrays=None, **changes):
    """A copy of the case with changed JSON entries and arrays."""
    spec = json.loads((CASES / f"{name}.json").read_text()) | changes
    path = folder / f"{Path(name).name}.json"
    path.write_text(json.dumps(spec))
    source = CASES / f"{name}.npz"
    if arrays:
        with np.load(source) as archive:
            np.savez(path.with_suffix(".npz"), **(dict(archive) | arrays))
    elif source.exists():
        shutil.copy(source, path.with_suffix(".npz"))
    return path


def load(name):
    with np.load(CASES / f"{name}.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def on_record():
    """What this run finds, for `list methods`."""
    results = []
    yield results
    record(results, ROOT / RECORD)


@pytest.mark.parametrize("file", list(case_files()))
def test_every_case_passes(file, on_record):
    (result,) = run_parity([file])
    on_record.append(result)
    if result.verdict == "skip" and result.note.startswith("needs"):
        pytest.skip(result.note)
    assert result.verdict == "pass", result
    assert result.error <= result.tolerance


def test_arrays_and_folders_name_their_cases():
    folder = CASES / "rasterizer"
    by_folder = [result.case for result in run_parity([folder])]
    assert by_folder == [f"rasterizer/{name}" for name in sorted(path.stem for path in folder.glob("*.json"))]
    (result,) = run_parity([folder / "tiny_sigma.npz", folder / "tiny_sigma.json"])
    assert (result.case, result.kind) == ("rasterizer/tiny_sigma", "rasterizer")


@pytest.mark.parametrize(
    ("name", "array", "change"),
    [
        ("liif/edsr_x2", "out", 1.001),
        ("liif/edsr_x2", "lr", 0.99),
        ("gsasr/edsr_x4_batch2", "gaussians", 1.001),
        ("encoders/edsr_liif", "out", 1.001),
        ("rasterizer/gsasr_grid", "grad_coords", 1.001),
        ("rasterizer/rho_near_one", "image", 1.001),
        ("metrics/imresize", "half_out", 1.001),
        ("metrics/imresize", "half_out_u8", 2),
        ("metrics/matlab", "face_x2_lr", 2),
    ],
)
def test_a_tampered_case_fails(tmp_path, name, array, change):
    arrays = load(name)
    tampered = (arrays[array] * change).astype(arrays[array].dtype)
    (result,) = run_parity([copy_case(name, tmp_path, {array: tampered})])
    assert result.verdict == "fail"
    assert not result.passed
    assert result.error > result.tolerance


def test_tampered_scores_fail(tmp_path):
    shutil.copy(CASES / "metrics" / "pairs.npz", tmp_path)
    entries = json.loads((CASES / "metrics" / "psnr-ssim.json").read_text())["cases"]
    entries[3]["ssim_y"] += 1e-6
    (result,) = run_parity([copy_case("metrics/psnr-ssim", tmp_path, cases=entries)])
    assert result.verdict == "fail"
    assert result.note == f"ssim_y of pair b, border {entries[3]['crop_border']}"


def test_nan_does_not_pass(tmp_path):
    (result,) = run_parity(
        [copy_case("liif/edsr_x2", tmp_path, {"lr": np.full_like(load("liif/edsr_x2")["lr"], np.nan)})]
    )
    assert result.verdict == "fail"


def test_given_weights_and_gain_replace_the_filled_ones(tmp_path):
    spec = json.loads((CASES / "liif" / "edsr_x2.json").read_text())
    key = "imnet.layers.0.weight"
    given = fill(key, spec["state_dict"][key]) / 2
    (result,) = run_parity([copy_case("liif/edsr_x2", tmp_path, {key: given})])
    assert result.verdict == "fail"
    (result,) = run_parity([copy_case("liif/edsr_x2", tmp_path, {key: given * 2}, gain={key: 7.0})])
    assert result.verdict == "pass"
    (result,) = run_parity([copy_case("liif/edsr_x2", tmp_path, gain={key: 7.0})])
    assert result.verdict == "fail"


def test_another_shape_or_key_is_named(tmp_path):
    spec = json.loads((CASES / "liif" / "edsr_x2.json").read_text())["state_dict"]
    (result,) = run_parity([copy_case("liif/edsr_x2", tmp_path, state_dict=spec | {"imnet.layers.0.bias": [7]})])
    assert result.verdict == "fail"
    assert result.note == "the network and the reference differ in the entries imnet.layers.0.bias"
    (result,) = run_parity([copy_case("liif/edsr_x2", tmp_path, out_size=[48, 41])])
    assert result.verdict == "fail"
    assert "(1, 3, 48, 41)" in result.note


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"method": "nosuch"}, "no method called nosuch in this version"),
        ({"backbone": "rcan"}, "liif does not run on rcan in this version"),
    ],
)
def test_what_this_version_lacks_is_skipped(tmp_path, changes, note):
    (result,) = run_parity([copy_case("liif/edsr_x2", tmp_path, **changes)])
    assert (result.verdict, result.note, result.passed) == ("skip", note, True)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ("\xff", "not a parity case|not JSON"),
        ("[]", "not a parity case"),
        ('{"name": "package"}', "not a parity case"),
        ('{"method": "liif", "backbone": "rdn"}', "lacks scale, config, state_dict"),
        ('{"cases": [{"unheard": 1}]}', "not a parity case"),
    ],
)
def test_what_is_no_case_is_one_sentence(tmp_path, content, named):
    (tmp_path / "case.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=named) as error:
        run_parity([tmp_path])
    assert "\n" not in str(error.value)


def test_missing_paths_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no parity case"):
        run_parity([tmp_path])
    with pytest.raises(UserError, match="No such file"):
        run_parity([tmp_path / "none.json"])


def test_missing_and_damaged_arrays_fail_by_name(tmp_path):
    path = copy_case("liif/edsr_x2", tmp_path)
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 torn")
    (result,) = run_parity([path])
    assert result.verdict == "fail"
    assert "cannot be read" in result.note
    path.with_suffix(".npz").unlink()
    (result,) = run_parity([path])
    assert "lacks its arrays" in result.note


def test_set_means_need_the_test_sets(monkeypatch):
    monkeypatch.delenv("ASRBENCH_DATA", raising=False)
    (result,) = run_parity([CASES / "metrics" / "bicubic.csv"])
    assert (result.verdict, result.kind) == ("skip", "bicubic")
    assert "ASRBENCH_DATA" in result.note


def test_set_means_of_images_made_here(tmp_path, monkeypatch):
    """A constant image survives any resampling: its PSNR is infinite, and no finite expectation is met."""
    from PIL import Image

    folder = tmp_path / "flat"
    folder.mkdir()
    Image.new("RGB", (60, 60), (90, 120, 30)).save(folder / "a.png")
    table = tmp_path / "means.csv"
    table.write_text(f"dataset,scale,images,upsampled_from,psnr,ssim\n{folder},2,1,uint8_lr,40.0,1.0\n")
    monkeypatch.setenv("ASRBENCH_DATA", str(tmp_path))
    (result,) = run_parity([table])
    assert result.verdict == "fail"
    assert result.error == np.inf


@pytest.mark.parametrize(
    ("key", "shape", "start"),
    [
        ("a.weight", (3,), [0.99424034, 0.99809283]),
        ("b.weight", (2, 3, 3, 3), [-0.07660166, 0.033597663]),
        ("x.running_var", (4,), [1.00021, 1.1737928]),
        ("x.bias", (3,), [-0.045424983, 0.11921382]),
        ("scalar", (), [-0.028685307]),
    ],
)
def test_fill_is_the_published_function(key, shape, start):
    """The values are those of the `weights.py` that the cases were made with."""
    values = fill(key, shape)
    assert (values.shape, values.dtype) == (shape, np.float32)
    assert values.ravel()[: len(start)].tolist() == [np.float32(value) for value in start]
