from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.images import image_size, read_for_upscale, read_image, write_png
from methods.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(width: int, height: int, depth: int = 8, color: int = 2, data: bytes = b"") -> bytes:
    """A PNG file written by hand, so that any header and any bit depth can be had."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".PNG"])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"image{suffix}", Image.fromarray(RGB))
    np.testing.assert_array_equal(read_image(path), RGB)
    assert image_size(path) == (5, 7)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "grey.png", Image.fromarray(RGB[..., 0]))
    np.testing.assert_array_equal(read_image(path), np.stack([RGB[..., 0]] * 3, -1))
    assert read_for_upscale(path)[1:] == (None, True)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(16)
    path = save(tmp_path / "palette.png", image)
    np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_opaque_alpha_is_dropped(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    image.putalpha(255)
    path = save(tmp_path / "opaque.png", image)
    np.testing.assert_array_equal(read_image(path), RGB)
    assert read_for_upscale(path)[1] is None


def test_transparency_is_refused_or_kept(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7)
    image.putalpha(Image.fromarray(alpha))
    path = save(tmp_path / "transparent.png", image)
    with pytest.raises(UserError, match=r"transparent\.png has transparent pixels"):
        read_image(path)
    pixels, read_alpha, grey = read_for_upscale(path)
    np.testing.assert_array_equal(pixels, RGB)
    np.testing.assert_array_equal(read_alpha, alpha)
    assert not grey


def test_transparent_color_of_a_palette(tmp_path: Path) -> None:
    path = save(tmp_path / "keyed.png", Image.fromarray(RGB).quantize(4), transparency=1)
    with pytest.raises(UserError, match="transparent pixels"):
        read_image(path)
    alpha = read_for_upscale(path)[1]
    assert alpha is not None
    assert alpha.min() == 0


def test_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in (".png", ".jpg", ".tif"):
        path = save(tmp_path / f"rotated{suffix}", Image.fromarray(RGB), exif=exif)
        with pytest.raises(UserError, match="rotated by an EXIF tag"):
            read_image(path)
        assert read_for_upscale(path)[0].shape == (7, 5, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello", "damaged or not an image"),
        ("cut.png", png(7, 5, data=b"\0" * 30), "is damaged"),
        ("no-data.png", png(9500, 9500), "is damaged"),
        ("huge.png", png(20000, 20000), "178 million pixels"),
        ("nothing.png", png(0, 5), "damaged or not an image"),
        ("deep.png", png(1, 1, 16, 2, b"\0" + b"\x9c\x40" * 3), "more than 8 bits"),
        ("deep-grey.png", png(1, 1, 16, 0, b"\0\x9c\x40"), "more than 8 bits"),
        ("deep.ppm", b"P6 1 1 65535\n" + b"\x9c\x40" * 3, "more than 8 bits"),
        ("deep.pgm", b"P5 1 1 65535\n\x9c\x40", "more than 8 bits"),
    ],
)
def test_damaged_and_deep_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_image, read_for_upscale):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_every_truncation_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", Image.fromarray(np.tile(RGB, (8, 8, 1)))).read_bytes()
    path = tmp_path / f"cut{suffix}"
    for kept in (1, 10, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match="damaged"):
            read_image(path)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "print.jpg", Image.fromarray(RGB).convert("CMYK"))
    for read in (read_image, read_for_upscale):
        with pytest.raises(UserError, match="is CMYK, not RGB"):
            read(path)


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    path = save(tmp_path / "film.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several frames"):
        read_image(path)


def test_phone_photographs_are_jpeg(tmp_path: Path) -> None:
    photograph = Image.new("RGB", (16, 8), (200, 100, 50))
    path = save(
        tmp_path / "phone.jpg", photograph, format="MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))]
    )
    assert np.abs(read_image(path).astype(int) - [200, 100, 50]).max() <= 2
    assert read_for_upscale(path)[0].shape == (8, 16, 3)


def test_wrong_suffix(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.fromarray(RGB), format="BMP")
    with pytest.raises(UserError, match=r"holds BMP data: rename it to \.bmp"):
        read_image(path)
    np.testing.assert_array_equal(read_for_upscale(path)[0], RGB)


@pytest.mark.parametrize("name", ["missing.png", "x" * 300, "nul\0.png"])
def test_names_without_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"There is no file|cannot be read"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_write_png(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "new" / "folder" / "image.png"
    for _ in range(2):
        write_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [entry.name for entry in path.parent.iterdir()] == ["image.png"]


def test_write_png_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    write_png(path, RGB)
    before = path.read_bytes()

    def full(self: Image.Image, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"image\.png cannot be written \(No space left on device\)"):
        write_png(path, 255 - RGB)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["image.png"]


def test_write_png_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="cannot be written"):
        write_png(tmp_path / "file" / "image.png", RGB)
