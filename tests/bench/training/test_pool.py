from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from bench.training.pool import open_pool, windows
from methods.errors import UserError


def test_validation_images_are_held_back(root, tiny):
    pool, val = open_pool(root, tiny())
    assert (pool.names, list(val)) == (("below/chelsea.png", "coffee.png"), ["astronaut.png"])
    pool, val = open_pool(root, tiny("val_data=images/below", 'val=["chelsea.png"]'))
    assert (len(pool.names), list(val)) == (3, ["chelsea.png"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (['val=["nobody.png"]'], r"nobody\.png"),
        (["data=nowhere"], "data-root"),
        (['data=["images/below"]'], "astronaut"),
    ],
)
def test_what_is_missing_is_named(root, tiny, overrides, words):
    with pytest.raises(UserError, match=words):
        open_pool(root, tiny(*overrides))


def test_no_images_are_no_pool(tmp_path, tiny):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no training images"):
        open_pool(tmp_path, tiny("val=[]"))


def test_pixels_and_their_hash_are_the_files(root, tiny):
    digest = hashlib.sha256()
    for attempt in ("decoded", "cached"):
        pool, _ = open_pool(root, tiny())
        for name, pixels in zip(pool.names, pool.images, strict=True):
            expected = np.asarray(Image.open(root / "images" / name))
            np.testing.assert_array_equal(pixels, expected)
            assert not pixels.flags.writeable
            if attempt == "decoded":
                digest.update(f"{name} {expected.shape}".encode() + expected.tobytes())
        assert pool.sha256 == digest.hexdigest()


def test_changed_files_are_decoded_anew(tmp_path, tiny):
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "one.png"
    for value in (3, 200):
        Image.new("RGB", (30, 30), (value, value, value)).save(path)
        os.utime(path, (value, value))
        pool, _ = open_pool(tmp_path, tiny("val=[]"))
        assert (pool.images[0] == value).all()


def test_a_broken_image_is_named_and_leaves_no_cache(tmp_path, tiny):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken\.png"):
            open_pool(tmp_path, tiny("val=[]"))


def test_reduced_images_are_lanczos(root, tiny):
    pool, _ = open_pool(root, tiny("sub_image=32", "shrink=[0.9, 0.5]", "shrink_to_sub_image=true"))
    original = Image.open(root / "images" / "coffee.png")
    assert pool.names[3:] == ("coffee.png", "coffee.png x0.9", "coffee.png to 32")
    for pixels, size in zip(pool.images[3:], [(48, 40), (43, 36), (38, 32)], strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(original.resize(size, Image.Resampling.LANCZOS)))


def test_windows_by_hand():
    images = [np.zeros((100, 70, 3), np.uint8), np.zeros((30, 90, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)]
    assert windows(images, 31, None, 1).tolist() == [[0, 0, 0, 100, 70], [2, 0, 0, 64, 64]]
    found = windows(images, 31, 64, 32)
    assert found[:, 0].tolist() == [0] * 6 + [2]
    assert sorted(map(tuple, found[:6, 1:3].tolist())) == [(0, 0), (0, 6), (32, 0), (32, 6), (36, 0), (36, 6)]
    assert (found[:, 3:] == 64).all()
    with pytest.raises(UserError, match="101"):
        windows(images, 101, None, 1)
