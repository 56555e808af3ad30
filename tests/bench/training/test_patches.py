from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from bench.resize import resize
from bench.training.patches import PatchSampler, downscale
from bench.training.pool import open_pool


@pytest.fixture
def sampler(root, tiny):
    def make(*overrides):
        recipe = tiny("batch=3", "scale=[1.0, 4.0]", "val=[]", "queries=40", *overrides)
        return PatchSampler(open_pool(root, recipe)[0].images, recipe)

    return make


def to_uint8(images):
    scaled = images.permute(0, 2, 3, 1) * 255
    assert (scaled - scaled.round()).abs().max() < 1e-4
    return scaled.round().to(torch.uint8).numpy()


@pytest.mark.parametrize("per", ["image", "batch"])
def test_lr_patches_are_the_protocols(sampler, per):
    draw = sampler(f"scale_per={per}")
    for step in range(8):
        batch = draw(step)
        assert (len(set(batch.sides)) == 1) == (per == "batch")
        for lr, hr, side, scale in zip(to_uint8(batch.lr), to_uint8(batch.hr), batch.sides, batch.scales, strict=True):
            assert not hr[side:].any()
            assert not hr[:, side:].any()
            expected = resize(hr[:side, :side], 1 / scale, out_size=(8, 8))
            differ = np.abs(lr.astype(int) - expected)
            assert differ.max() <= 1  # where float32 decides between two levels
            assert differ.mean() < 0.01


@pytest.mark.parametrize(("side", "out"), [(48, 24), (61, 24), (96, 24), (24, 24), (133, 48)])
def test_pillows_patches_are_pillows(side, out):
    image = data.astronaut()[60 : 60 + side, 200 : 200 + side]
    expected = np.asarray(Image.fromarray(image).resize((out, out), Image.Resampling.BICUBIC)).astype(int)
    hr = torch.from_numpy(image).permute(2, 0, 1)[None]
    found = to_uint8(downscale(hr, out, "pillow"))[0].astype(int)
    assert np.abs(found - expected).max() <= 1  # whose weights are whole numbers
    assert (found != expected).mean() < 0.01


def test_lr_patches_need_not_be_rounded(sampler):
    batch, rounded = sampler("round_lr=false")(1), sampler()(1)
    assert 0 < (batch.lr - rounded.lr).abs().max() <= 0.5 / 255 + 1e-6


def test_hr_patches_are_oriented_cuts_of_the_images(root, tiny, sampler):
    images = open_pool(root, tiny("val=[]"))[0].images
    batch = sampler("scale=[2.0, 2.0]")(3)
    cuts = [
        cut
        for image in images
        for cut in np.lib.stride_tricks.sliding_window_view(image, (16, 16), (0, 1)).reshape(-1, 3, 16, 16)
    ]
    known = {cut.tobytes() for cut in cuts}
    for hr in to_uint8(batch.hr).transpose(0, 3, 1, 2):
        turned = [np.rot90(side, k, (1, 2)) for side in (hr, hr[:, ::-1]) for k in range(4)]
        assert any(np.ascontiguousarray(t).tobytes() in known for t in turned)


def test_a_batch_depends_on_seed_and_step_alone(sampler):
    draw = sampler()
    first = draw(7)
    draw(8)
    for again in (draw(7), sampler()(7)):
        assert torch.equal(again.hr, first.hr)
        assert torch.equal(again.index, first.index)
    assert sampler("seed=1")(7).scales != first.scales
    scales = [scale for step in range(20) for scale in draw(step).scales]
    assert 1 <= min(scales) < 1.4 < 3.6 < max(scales) <= 4


def test_parts_are_of_the_whole(sampler):
    draw = sampler()
    whole, part = draw(5), draw(5, slice(1, 3))
    assert part.sides == whole.sides[1:]
    assert torch.equal(part.lr, whole.lr[1:])
    assert torch.equal(part.index, whole.index[1:])


def test_every_window_comes_once_per_epoch(sampler):
    draw = sampler("sub_image=32", "sub_stride=8")
    count = len(draw.windows)
    assert sorted(draw._order(0)) == sorted(draw._order(1)) == list(range(count))
    assert list(draw._order(0)) != list(draw._order(1))


def test_pixels_to_train_on_are_different_ones(sampler):
    for step in range(5):
        batch = sampler()(step)
        for row, side in zip(batch.index.tolist(), batch.sides, strict=True):
            assert len(set(row)) == 40
            assert max(row) < side**2
    assert sampler("queries=100")(0).index.shape[1] == 64  # as many as an LR patch has, which any HR patch has
