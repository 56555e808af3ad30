from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.upscale import Upscaled, upscale
from methods import registry
from methods.errors import UserError


@pytest.fixture(autouse=True)
def nearest(monkeypatch):
    """The method is nearest-neighbour, so that every pixel of the result is known."""
    stub = replace(registry.method_spec("bicubic"), name="nearest", target="stub_methods:Nearest")
    monkeypatch.setattr(registry, "_METHODS", {**registry._METHODS, "nearest": stub})


def enlarge(source: Path, target: Path, scale: float = 2.0) -> list[Upscaled]:
    return list(upscale(source, target, scale, "nearest", device="cpu"))


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(exist_ok=True)
    image.save(path)
    return path


def read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def noise(mode: str, width: int, height: int) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_the_kind_of_image_stays_and_its_pixels_are_enlarged(tmp_path, mode):
    source = noise(mode, 9, 5)
    enlarge(save(tmp_path / "in.png", source), tmp_path / "out.png")
    result = read(tmp_path / "out.png")
    assert (result.mode, result.size) == (mode, (18, 10))
    colors = len(mode.removesuffix("A"))
    repeated = np.asarray(source).reshape(5, 9, -1).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(np.asarray(result).reshape(10, 18, -1)[..., :colors], repeated[..., :colors])


def test_alpha_is_enlarged_smoothly_and_opaque_alpha_is_not_invented(tmp_path):
    source = Image.new("RGBA", (8, 8), (200, 10, 10, 0))
    source.paste((200, 10, 10, 255), (0, 0, 4, 8))
    enlarge(save(tmp_path / "in.png", source), tmp_path / "out.png")
    alpha = np.asarray(read(tmp_path / "out.png"))[..., 3]
    assert (alpha[0, 0], alpha[0, -1]) == (255, 0)
    assert set(alpha[0]) - {0, 255}


@pytest.mark.parametrize(
    ("size", "scale"), [((1, 1), 3.7), ((1, 1), 1.2), ((1, 7), 2.5), ((13, 2), 8.0), ((3, 3), 30.0)]
)
def test_any_size_becomes_the_rounded_multiple(tmp_path, size, scale):
    (result,) = enlarge(save(tmp_path / "in.png", noise("RGB", *size)), tmp_path / "out.png", scale)
    expected = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    assert read(tmp_path / "out.png").size == expected
    assert result.size == expected[::-1]


def test_pixels_land_where_the_method_puts_them(tmp_path):
    source = noise("RGB", 3, 5)
    enlarge(save(tmp_path / "in.png", source), tmp_path / "out.png")
    assert np.array_equal(np.asarray(read(tmp_path / "out.png")), np.asarray(source).repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"])
def test_the_suffix_decides_the_format(tmp_path, suffix):
    enlarge(save(tmp_path / "in.png", noise("RGB", 8, 8)), tmp_path / "new" / f"out{suffix}")
    result = read(tmp_path / "new" / f"out{suffix}")
    assert suffix in {key for key, kind in Image.registered_extensions().items() if kind == result.format}


def test_a_folder_reports_what_fails_and_goes_on(tmp_path):
    save(tmp_path / "in" / "a.png", noise("RGB", 8, 8))
    save(tmp_path / "in" / "c.jpg", noise("L", 8, 8))
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:100])
    (tmp_path / "in" / "notes.txt").write_text("no image")
    results = enlarge(tmp_path / "in", tmp_path / "out")
    assert [(result.target.name, result.failure is None) for result in results] == [
        ("a.png", True),
        ("b.png", False),
        ("c.png", True),
    ]
    assert "b.png is damaged" in (results[1].failure or "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_a_limit_of_memory_is_kept_or_said(tmp_path):
    source = save(tmp_path / "in" / "a.png", noise("RGB", 8, 8))
    chosen = {"method": "nearest", "device": "cpu"}
    (done,) = upscale(source, tmp_path / "a.png", 2.0, max_memory=10_000, **chosen)
    assert done.size == (16, 16)
    with pytest.raises(UserError, match="8x8 pixels needs at least"):
        list(upscale(source, tmp_path / "b.png", 2.0, max_memory=1000, **chosen))
    (failed,) = upscale(source.parent, tmp_path / "out", 2.0, max_memory=1000, **chosen)
    assert "8x8 pixels needs at least" in (failed.failure or "")


def refused(source: Path, target: Path, scale: float = 2.0) -> str:
    with pytest.raises(UserError) as error:
        enlarge(source, target, scale)
    return str(error.value)


def test_what_cannot_be_done_is_said(tmp_path):
    source = save(tmp_path / "in" / "a.png", noise("RGBA", 8, 8))
    folder = source.parent
    other = tmp_path / "other.png"
    assert "is the source itself" in refused(source, source)
    assert "is the source itself" in refused(source, folder)
    assert "is the source itself" in refused(folder, folder)
    assert "There is no file or folder" in refused(tmp_path / "nowhere", other)
    assert "cannot hold the transparency" in refused(source, tmp_path / "out.jpg")
    assert "does not say what to write" in refused(source, tmp_path / "out.xyz")
    large = save(tmp_path / "b.png", Image.new("L", (400, 400)))
    assert "pixels: choose a smaller scale" in refused(large, other, 64.0)
    assert "is a file, but" in refused(folder, tmp_path / "b.png")
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(tmp_path / "empty", tmp_path / "out")
    save(folder / "a.bmp", noise("RGB", 2, 2))
    assert "several images called a" in refused(folder, tmp_path / "out")
    assert f"Cannot write {source}/out.png" in refused(tmp_path / "b.png", source / "out.png")
