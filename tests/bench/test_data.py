"""Finding datasets: every layout of the archives, and every way in which a folder can be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import DATA_ROOT_VARIABLE, Dataset, find_dataset
from bench.descriptors import descriptor, list_datasets, read_descriptor
from methods.errors import UserError

SET5 = {"baby": (512, 512), "bird": (288, 288), "butterfly": (256, 256), "head": (280, 280), "woman": (344, 228)}


def draw(path: Path, size: tuple[int, int] = (12, 16), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0])).save(path)


def draw_set5(folder: Path, pattern: str = "{}.png", mode: str = "RGB", scale: int = 1) -> None:
    for name, (height, width) in SET5.items():
        draw(folder / pattern.format(name), (height - height % scale, width - width % scale), mode)


def names(dataset: Dataset, scale: float = 2) -> list[str]:
    return [image.name for image in dataset.images(scale)]


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


def test_descriptors_are_complete() -> None:
    expected = {"embedded": 8, "Set5": 5, "Set14": 14, "BSDS100": 100, "Urban100": 100, "Manga109": 109}
    expected |= {"General100": 100, "DIV2K100": 100, "DIV2K-GT720": 100, "LSDIR": 250}
    assert {name: known.count for name, known in list_datasets().items()} == expected
    for known in list_datasets().values():
        assert known.licence
        assert known.citation
        assert known.source


@pytest.mark.parametrize("folder", ["Set5/HR", "Set5/GT", "Set5/original", "Set5", "benchmark/Set5/HR"])
@pytest.mark.parametrize("pattern", ["{}.png", "{}.bmp", "{}.JPG"])
def test_full_size_layouts(tmp_path: Path, folder: str, pattern: str) -> None:
    draw_set5(tmp_path / folder, pattern, "L")
    dataset = find_dataset("Set5", tmp_path)
    assert {image.name: image.size for image in dataset.images(3.5)} == SET5
    assert dataset.folder == tmp_path / folder


def test_data_root_from_the_environment_or_the_set_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_set5(tmp_path / "Set5" / "HR")
    assert names(find_dataset("set5", tmp_path / "Set5")) == list(SET5)
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    assert names(find_dataset("Set5")) == list(SET5)


def test_ready_lr_is_paired_by_name(tmp_path: Path) -> None:
    draw_set5(tmp_path / "benchmark/Set5/HR")
    for name in reversed(SET5):
        draw(tmp_path / f"benchmark/Set5/LR_bicubic/X2/{name}x2.png")
    dataset = find_dataset("Set5", tmp_path)
    assert [image.lr.name for image in dataset.images(2, ready_lr=True) if image.lr] == [f"{n}x2.png" for n in SET5]
    assert all(image.lr is None for image in dataset.images(3, ready_lr=True))
    assert all(image.lr is None for image in dataset.images(2))
    (tmp_path / "benchmark/Set5/LR_bicubic/X2/headx2.png").unlink()
    with pytest.raises(UserError, match="headx2"):
        dataset.images(2, ready_lr=True)


@pytest.mark.parametrize("prefix", ["", "data/"])
def test_selfexsr_is_per_scale(tmp_path: Path, prefix: str) -> None:
    for scale in (3, 4):
        folder = tmp_path / f"{prefix}Set5/image_SRF_{scale}"
        for index, (height, width) in enumerate(SET5.values(), 1):
            hr = height - height % scale, width - width % scale
            draw(folder / f"img_{index:03d}_SRF_{scale}_HR.png", hr)
            draw(folder / f"img_{index:03d}_SRF_{scale}_LR.png", (hr[0] // scale, hr[1] // scale))
    dataset = find_dataset("Set5", tmp_path)
    images = dataset.images(3, ready_lr=True)
    assert images[0].size == (510, 510)
    assert images[0].lr == tmp_path / f"{prefix}Set5/image_SRF_3/img_001_SRF_3_LR.png"
    assert names(dataset, 4) == list(SET5)
    for scale in (2, 3.5):
        with pytest.raises(UserError, match=r"cropped for the scales 3, 4"):
            dataset.images(scale)


def test_gsasr_sets_are_per_scale(tmp_path: Path) -> None:
    draw_set5(tmp_path / "Set5/x4/GT", scale=4)
    draw_set5(tmp_path / "Set5/x4/LR")
    dataset = find_dataset("Set5", tmp_path)
    assert names(dataset, 4) == list(SET5)
    assert dataset.images(4, ready_lr=True)[4].lr == tmp_path / "Set5/x4/LR/woman.png"
    with pytest.raises(UserError, match="scale 2"):
        dataset.images(2)


def urban100(root: Path, scale: int, reduction: int) -> None:
    for index, (height, width) in enumerate(descriptor("Urban100").sizes, 1):
        path = root / f"Urban100/image_SRF_{scale}/img_{index:03d}_SRF_{scale}_HR.png"
        draw(path, (height // reduction, width // reduction), "1")


def test_urban100_takes_its_originals_from_the_x4_folder(tmp_path: Path) -> None:
    urban100(tmp_path, 2, 2)
    with pytest.raises(UserError, match="holds no image of Urban100"):
        find_dataset("Urban100", tmp_path)
    urban100(tmp_path, 4, 1)
    image = find_dataset("Urban100", tmp_path).images(2, ready_lr=True)[0]
    assert image.size == (644, 1024)
    assert image.path.name == "img_001_SRF_4_HR.png"
    assert image.lr is not None
    assert image.lr.name == "img_001_SRF_2_HR.png"


def test_div2k_and_names_of_any_width(tmp_path: Path) -> None:
    for index in range(801, 901):
        draw(tmp_path / f"DIV2K_valid_HR/{index}.png")
        draw(tmp_path / f"DIV2K_valid_LR_bicubic/X3/{index:04d}x3.png")
    images = find_dataset("DIV2K100", tmp_path).images(3, ready_lr=True)
    assert [image.name for image in images] == [f"{index:04d}" for index in range(801, 901)]
    assert images[99].lr == tmp_path / "DIV2K_valid_LR_bicubic/X3/0900x3.png"


def test_gt720_checks_sizes(tmp_path: Path) -> None:
    for index in range(801, 901):
        draw(tmp_path / f"DIV2K100_GT720/x2/GT/{index:04d}.png", (720, 720), "1")
    dataset = find_dataset("DIV2K-GT720", tmp_path)
    assert len(dataset.images(2)) == 100
    draw(tmp_path / "DIV2K100_GT720/x2/GT/0850.png", (720, 719), "1")
    with pytest.raises(UserError, match=r"0850\.png has 719x720 pixels"):
        dataset.images(2)


@pytest.mark.parametrize("folder", ["val1/HR/val", "LSDIR/val1/HR/val", "LSDIR_val1/HR"])
def test_lsdir_has_250_images_of_any_name(tmp_path: Path, folder: str) -> None:
    for index in range(250):
        draw(tmp_path / folder / f"{index * 7:07d}.png", (2, 2))
    assert len(find_dataset("LSDIR", tmp_path).images(2)) == 250
    (tmp_path / folder / "0000007.png").unlink()
    with pytest.raises(UserError, match=r"has 250 images, but .* holds 249"):
        find_dataset("LSDIR", tmp_path).images(2)


@pytest.mark.parametrize("folder", ["BSDS500/data/images/val", "B100/HR", "BSD100/HR"])
def test_bsds100_in_string_order(tmp_path: Path, folder: str) -> None:
    for name in descriptor("BSDS100").names:
        draw(tmp_path / folder / f"{name}.jpg", (321, 481), "L")
    found = names(find_dataset("BSDS100", tmp_path))
    assert found == sorted(found)
    assert (found[0], found[-1]) == ("101085", "97033")


def test_general100_bmp(tmp_path: Path) -> None:
    for index in range(1, 101):
        draw(tmp_path / f"General-100/im_{index}.bmp", (2, 2))
    assert names(find_dataset("General100", tmp_path))[:2] == ["im_1", "im_2"]


def test_manga109_by_number_and_size(tmp_path: Path) -> None:
    for index in range(109):
        draw(tmp_path / f"Manga109/Title{index}.png", (1072, 742) if index == 5 else (1170, 827), "1")
    assert len(find_dataset("Manga109", tmp_path).images(2)) == 109


def test_embedded_is_found_hashed_and_cropped() -> None:
    skimage = pytest.importorskip("skimage")
    dataset = find_dataset("embedded")
    images = {image.name: image for image in dataset.images(2)}
    assert images["chelsea"].size == (300, 451)
    assert images["chelsea"].crop is None
    assert images["rocket"].size == (427, 480)
    assert images["retina"].crop == (465, 465, 480, 480)
    expected = skimage.data.coffee()[:, 60:540]
    np.testing.assert_array_equal(images["coffee"].read(), expected)
    assert dataset.notes() == ()


def test_embedded_hashes_are_those_of_scikit_image() -> None:
    shipped = pytest.importorskip("skimage.data._registry").registry
    known = descriptor("embedded")
    for name, sha256 in known.sha256.items():
        stem = known.files.get(name, name)
        assert sha256 in (shipped.get(f"data/{stem}.png"), shipped.get(f"data/{stem}.jpg"))


def test_embedded_without_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.data.find_spec", lambda name: None if name == "skimage" else find_spec(name))
    with pytest.raises(UserError, match="pip install scikit-image"):
        find_dataset("embedded")


def test_a_folder_is_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "my photos {name}"
    for name in ("b.png", "a.JPEG", "10.bmp"):
        draw(folder / name)
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    draw(folder / "LR_bicubic/X2/ax2.png")
    dataset = find_dataset(str(folder))
    assert dataset.name == "my photos {name}"
    assert names(dataset) == ["10", "a", "b"]
    assert dataset.notes() == (f"{folder}: notes.txt left aside, not images.",)
    with pytest.raises(UserError, match="lacks 10x2, bx2"):
        dataset.images(2, ready_lr=True)


@pytest.mark.parametrize("inner", ["GT", "HR", "original"])
def test_a_folder_with_hr_inside(tmp_path: Path, inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "mine" / inner / "a.png")
    monkeypatch.chdir(tmp_path)
    assert names(find_dataset("mine")) == ["a"]


def test_a_name_wins_over_a_folder_unless_written_as_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "Set5" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert names(find_dataset("./Set5")) == ["a"]
    with pytest.raises(UserError, match="--data-root"):
        find_dataset("Set5")


def test_missing_images_are_named(tmp_path: Path) -> None:
    draw_set5(tmp_path / "Set5/HR")
    (tmp_path / "Set5/HR/bird.png").unlink()
    (tmp_path / "Set5/HR/head.png").unlink()
    with pytest.raises(UserError, match=re.escape("lacks 2 of 5 images (bird, head)")):
        find_dataset("Set5", tmp_path).images(2)


def test_doubled_images_are_named(tmp_path: Path) -> None:
    draw_set5(tmp_path / "Set5/HR")
    draw(tmp_path / "Set5/HR/bird.bmp", SET5["bird"])
    with pytest.raises(UserError, match=re.escape("(bird.bmp and bird.png)")):
        find_dataset("Set5", tmp_path).images(2)
    draw(tmp_path / "mine/01.png")
    draw(tmp_path / "mine/1.png")
    assert names(find_dataset(str(tmp_path / "mine"))) == ["01", "1"]


def test_extra_images_are_noted(tmp_path: Path) -> None:
    draw_set5(tmp_path / "Set5/HR")
    draw(tmp_path / "Set5/HR/lenna.png")
    note = f"{tmp_path / 'Set5/HR'}: lenna.png left aside, not part of Set5."
    assert find_dataset("Set5", tmp_path).notes() == (note,)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nbroken", b"text"])
def test_damaged_images_are_kept_for_their_row(tmp_path: Path, content: bytes) -> None:
    draw_set5(tmp_path / "Set5/HR")
    (tmp_path / "Set5/HR/bird.png").write_bytes(content)
    damaged = find_dataset("Set5", tmp_path).images(2)[1]
    assert damaged.size is None
    assert "bird.png" in (damaged.damage or "")
    with pytest.raises(UserError, match=r"bird\.png"):
        damaged.read()


def wrong_cases(root: Path) -> Iterable[tuple[str, Path | None, str]]:
    (root / "Set14/HR").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "file.png").write_text("x")
    return [
        ("Set5", None, "--data-root FOLDER"),
        ("Set5", root / "nowhere", "is not a folder"),
        ("Set5", root, "is not under"),
        ("Set14", root, "holds no image of Set14"),
        (str(root / "empty"), None, "holds no image of empty"),
        (str(root / "nowhere"), None, "There is no folder"),
        (str(root / "file.png"), None, "There is no folder"),
        ("Set6", root, "did you mean Set5"),
    ]


@pytest.mark.parametrize("case", range(8))
def test_what_is_not_there_gets_one_sentence(tmp_path: Path, case: int) -> None:
    name, root, words = list(wrong_cases(tmp_path))[case]
    with pytest.raises(UserError, match=words) as caught:
        find_dataset(name, root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cuont = 1", "did you mean 'count'"),
        ("count = 'many'", "'count'"),
        ("count = 3\nnames = ['a', 'b']", "lists 2 names but counts 3"),
        ("count = 1\nlayouts = ['plane']", "did you mean plain"),
        ("count = ", "is not TOML"),
    ],
)
def test_wrong_descriptors_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\ntitle = "Mine"\nfamily = "benchmark"\n{text}\n')
    with pytest.raises(UserError, match=words):
        read_descriptor(path)
