"""The compiled backends against the official kernel and float64: for the CPU, and for GPUs by the emulator."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from native_cases import NAMES, both, equal, errors, gaussians, images, scene, truth, upstream_of

from kernels import cuda
from kernels.coordinates import dmax_to_window, from_kernel_units
from kernels.prepare import boxes

CASES = sorted((Path(__file__).parents[1] / "parity" / "rasterizer").glob("*.json"))
SIZE = (20, 27)
IMAGE, GRADIENTS, MEDIAN = 3e-6, 5e-6, 1e-6
"""Bounds on errors by the array's largest value, and on the median relative one."""


def far_off():
    """Some reach the image from a thousand pixels away; the last ones are absurdly far."""
    inputs = gaussians(100, SIZE, spread=(0.3, 1e3), margin=2000)
    inputs[0][0, -4:] = torch.tensor([[1e9, 3.0], [3.0, -1e9], [-1e30, 1e30], [3e38, 3e38]])
    return scene(inputs, SIZE)


def needles(every=None):
    """1 - |rho| from 1 to 1e-6, log-uniform, and sigma from 1e-4 to 1e3 pixels, near pixels. every: |rho| of all."""
    mu, sigma, rho, color = gaussians(300, SIZE, spread=(1e-4, 1e3))
    draw = torch.Generator().manual_seed(2)
    mu = mu.round() + torch.randn(mu.shape, generator=draw) * sigma.clamp(max=0.4)
    free = 10 ** (-6 * torch.rand(rho.shape, generator=draw))
    return scene([mu, sigma, rho.sign() * (every or (1 - free).clamp(max=0.999999)), color], SIZE)


SCENES = {
    "scattered": lambda: scene(gaussians(batch=3), SIZE),
    "windows and sizes": lambda: scene(
        gaussians(batch=2), (37, 41), sizes=((37, 13), (20, 41)), window=((3.25, 5.5), (11.0, 1.5))
    ),
    "one row": lambda: scene(gaussians(size=(1, 37)), (1, 37)),
    "one column": lambda: scene(gaussians(size=(41, 1)), (41, 1)),
    "one pixel": lambda: scene(gaussians(size=(1, 1)), (1, 1)),
    "several bands": lambda: scene(gaussians(100, (150, 40)), (150, 40)),
    "boxes of hundreds of rows": lambda: scene(gaussians(12, (1100, 5), spread=(5, 200)), (1100, 5)),
    "two slices": lambda: scene(gaussians(8250, (16, 18), spread=(0.3, 1), margin=12), (16, 18)),
    "far off": far_off,
    "needles": needles,
    "needles of 0.999999": lambda: needles(0.999999),
}
LOOSER = {
    # The exponent is the square of a difference of larger numbers: by the distance, or by 1 / sqrt(1 - rho^2).
    "far off": (IMAGE, GRADIENTS, 4e-6),
    "needles": (IMAGE, 2e-5, 2e-6),
    # The dense sum in float32 is as far off: half a unit in the last place of sigma changes this image by 0.2.
    "needles of 0.999999": (1e-5, 2e-4, 4e-5),
}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_official_kernel(path, backend):
    case, arrays = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    inputs = {name: torch.from_numpy(arrays[name]).requires_grad_() for name in ("sigmas", "coords", "colors")}
    size = (case["h"], case["w"])
    parameters = [*from_kernel_units(inputs["sigmas"][None], inputs["coords"][None], size), inputs["colors"][None]]
    window = (dmax_to_window(float(np.float32(case["dmax"])), size),)
    drawn = scene([value.detach() for value in parameters], size, cutoff=14.0, window=window)
    assert_close(backend.render(drawn)[0].permute(1, 2, 0), arrays["image"], case["rtol"])
    if "grad_image" in arrays:
        upstream = torch.from_numpy(arrays["grad_image"]).permute(2, 0, 1)[None]
        torch.autograd.backward(parameters, backend.gradients(drawn, upstream))
        for name, value in inputs.items():
            assert_close(value.grad, arrays[f"grad_{name}"], case["rtol_grad"])


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("name", SCENES)
def test_float64(name, backend):
    drawn = SCENES[name]()
    assert_accurate(backend, drawn, *LOOSER.get(name, (IMAGE, GRADIENTS, MEDIAN)))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7, 9])
def test_channels(channels, backend):
    assert_accurate(backend, scene(gaussians(40, SIZE, batch=2, channels=channels), SIZE))


def assert_accurate(backend, drawn, image=IMAGE, gradients=GRADIENTS, median=MEDIAN):
    exact = truth(drawn)
    assert all(value.abs().max() > 0 for value in exact), "nothing to compare"
    found = errors(both(backend, drawn), exact)
    worst = dict(zip(("image", *NAMES), found, strict=True))
    assert found[0][0] <= image, worst
    assert max(error for error, _ in found[1:]) <= gradients, worst
    assert max(error for _, error in found) <= median, worst


def test_the_sum_is_in_the_order_of_the_gaussians(backend):
    """On one pixel: any other order loses the last color beside one of the others."""
    color = torch.tensor([*(2.0**27, -(2.0**27)) * 50, 1.0])[None, :, None]
    count = color.shape[1]
    mu, sigma = torch.full((1, count, 2), 3.0), torch.full((1, count, 2), 0.01)
    image = backend.render(scene([mu, sigma, torch.zeros(1, count), color], SIZE))
    assert image.sum().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_gaussian_leaves_the_others_alone(field, value, backend):
    inputs = gaussians(50, SIZE)
    absent = [tensor.clone() for tensor in inputs]
    absent[0][0, 17] = 1e6
    inputs[NAMES.index(field)][0, 17] = value
    broken, others = both(backend, scene(inputs, SIZE)), both(backend, scene(absent, SIZE))
    assert equal(broken, others)
    assert all(gradient[0, 17].eq(0).all() for gradient in broken[1:])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_pixel_upstream_reaches_the_gaussians_whose_boxes_hold_it(value, backend):
    drawn = scene(gaussians(300, SIZE, spread=(0.3, 1)), SIZE, cutoff=8.0)
    upstream, (y, x) = upstream_of(drawn), (7, 11)
    first, last = boxes(drawn)[:, :, 0]
    pixel = torch.tensor([[y], [x]])
    reached = ((first <= pixel) & (pixel <= last)).all(0)
    assert 0 < reached.sum() < 100
    before = backend.gradients(drawn, upstream)
    upstream[0, 1, y, x] = value
    after = backend.gradients(drawn, upstream)
    assert equal([gradient[:, ~reached] for gradient in after], [gradient[:, ~reached] for gradient in before])
    assert not after[3][0, reached, 1].isfinite().any()


@pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0), (0, 0)])
def test_nothing(batch, count, backend):
    image, *gradients = both(backend, scene(gaussians(count, batch=batch), SIZE))
    assert image.shape == (batch, 3, *SIZE)
    assert image.eq(0).all()
    assert [value.numel() for value in gradients] == [batch * count * numbers for numbers in (2, 2, 1, 3)]
    assert all(value.eq(0).all() for value in gradients)


def test_all_off_the_image(backend):
    mu, *rest = gaussians(30, spread=(0.3, 1))
    assert all(value.eq(0).all() for value in both(backend, scene([mu + 1000, *rest], SIZE)))


def test_an_infinite_cutoff_leaves_the_window(backend):
    drawn = scene(gaussians(20, SIZE, spread=(0.5, 2)), SIZE, cutoff=math.inf)
    assert_accurate(backend, drawn)
    assert_accurate(backend, replace(drawn, window=((2.25, 3.5),)))


def test_repeats_are_equal_bit_for_bit(backend):
    drawn = scene(gaussians(batch=2), SIZE)
    assert equal(both(backend, drawn), both(backend, drawn))


def test_a_batch_equals_its_images_bit_for_bit(backend):
    drawn = scene(gaussians(51, SIZE, batch=3), SIZE)
    together, upstream = both(backend, drawn), upstream_of(drawn)
    for i in range(3):
        alone = images(drawn, i, i + 1)
        ours = [backend.render(alone), *backend.gradients(alone, upstream[i : i + 1])]
        assert equal(ours, [value[i : i + 1] for value in together])


def test_ragged_images_equal_separate_ones_bit_for_bit(backend):
    """Whatever their place on the canvas means for bands, bins and patches."""
    sizes, windows = ((33, 20), (5, 70), (90, 1)), ((4.5, 2.0), (9.0, 30.0), (1.0, 3.25))
    drawn = scene(gaussians(51, (90, 70), batch=3), (90, 70), sizes=sizes, window=windows)
    together, upstream = both(backend, drawn), upstream_of(drawn)
    for i, (height, width) in enumerate(sizes):
        alone = replace(images(drawn, i, i + 1), canvas=sizes[i], sizes=None)
        image = backend.render(alone)
        gradients = backend.gradients(alone, upstream[i : i + 1, :, :height, :width])
        assert torch.equal(together[0][i, :, :height, :width], image[0])
        assert together[0][i].count_nonzero() == image.count_nonzero() > 0
        assert equal(gradients, [value[i : i + 1] for value in together[1:]])


def test_upstream_of_any_type_and_strides(backend):
    drawn = scene(gaussians(), SIZE)
    upstream = upstream_of(drawn).half()
    truth = backend.gradients(drawn, upstream.float())
    strided = upstream.float().double().transpose(2, 3).contiguous().transpose(2, 3)
    assert equal(backend.gradients(drawn, strided), truth)
    assert equal(backend.gradients(drawn, upstream.expand(1, 3, *SIZE)), truth)
    assert backend is not cuda or equal(backend.gradients(drawn, upstream), truth)
