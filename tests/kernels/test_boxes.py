"""Which pixels count: the boxes against a search, the cut-off against its bound, what is out of range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels import available_backends, from_kernel_units, from_unit, raster_ratio_to_window, rasterize
from kernels.prepare import boxes
from kernels.scene import Scene

SIZE = (24, 31)
FIELDS = ("mu", "sigma", "rho", "color")


def single(y=11.3, x=14.9, sigma=(3.0, 2.0), rho=0.8):
    return [torch.tensor([[[y, x]]]), torch.tensor([[sigma]]), torch.tensor([[rho]]), torch.ones(1, 1, 1)]


@pytest.mark.parametrize("window", [None, (4.0, 2.5)])
def test_boxes_equal_a_search(window):
    draw, cutoff = np.random.default_rng(0), 7.0
    mu, sigma = draw.uniform(-8, 36, (300, 2)).astype("f4"), draw.uniform(0.05, 4, (300, 2)).astype("f4")
    inputs = [torch.from_numpy(v)[None] for v in (mu, sigma)] + [torch.zeros(1, 300), torch.ones(1, 300, 1)]
    scene = Scene(*inputs, SIZE, window=None if window is None else (window,), cutoff=cutoff)
    first, last = boxes(scene)[:, :, 0].numpy()
    reach = np.minimum(sigma * math.sqrt(2 * cutoff), window or (math.inf, math.inf))
    touched = [np.abs(np.arange(side) - mu[:, i : i + 1]) <= reach[:, i : i + 1] for i, side in enumerate(SIZE)]
    hit = touched[0].any(1) & touched[1].any(1)
    assert 0 < hit.sum() < 300
    for i, side in enumerate(SIZE):
        inside = (first[i][:, None] <= np.arange(side)) & (np.arange(side) <= last[i][:, None])
        np.testing.assert_array_equal(inside, touched[i] & hit[:, None])


@pytest.mark.parametrize("backend", available_backends())
class TestEveryBackend:
    @pytest.mark.parametrize("cutoff", [4.6, 9.2])
    def test_dropped_pairs_are_below_the_bound(self, backend, cutoff):
        whole = rasterize(*single(), SIZE, cutoff=math.inf, backend=backend)
        dropped = (whole - rasterize(*single(), SIZE, cutoff=cutoff, backend=backend)).abs().max()
        assert 0 < dropped <= math.exp(-cutoff)

    def test_no_reach_keeps_exact_hits_only(self, backend):
        pairs = zip(single(4.0, 7.0), single(5.5, 9.0), strict=True)
        image = rasterize(*(torch.cat(pair, 1) for pair in pairs), SIZE, cutoff=0.0, backend=backend)[0, 0]
        assert image.nonzero().tolist() == [[4, 7]]
        assert image[4, 7] == 1

    @pytest.mark.parametrize("field", FIELDS)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_touches_nothing(self, backend, field, value):
        self.assert_untouched(backend, {field: value})

    @pytest.mark.parametrize("change", [{"sigma": 0.0}, {"sigma": -1.0}, {"rho": -1.0}, {"rho": 1.5}, {"mu": 1e30}])
    def test_out_of_range_touches_nothing(self, backend, change):
        self.assert_untouched(backend, change)

    def assert_untouched(self, backend, change):
        inputs = [torch.full_like(v, change.get(name, v)).requires_grad_() if name in change else v.requires_grad_()
                  for name, v in zip(FIELDS, single(), strict=True)]  # fmt: skip
        image = rasterize(*inputs, SIZE, cutoff=math.inf, backend=backend)
        image.sum().backward()
        assert image.eq(0).all()
        assert all(value.grad.eq(0).all() for value in inputs)


@pytest.mark.parametrize("per_image", [False, True])
def test_boxes_of_several_images_are_those_of_each(per_image):
    sizes, windows = ((9, 31), (24, 5), (24, 31)), ((2.0, 7.5), (11.0, 0.5), (math.inf, 1e300))
    inputs = [torch.cat([single(y, 14.9, (5.0, 5.0))[i] for y in (2.0, 9.5, 23.0)]) for i in range(4)]
    together = boxes(Scene(*inputs, SIZE, sizes, windows if per_image else windows[:1]))
    for i, size in enumerate(sizes):
        window = windows[i if per_image else 0]
        alone = boxes(Scene(*(value[i : i + 1] for value in inputs), size, window=(window,)))
        assert torch.equal(together[:, :, i : i + 1], alone)


@pytest.mark.parametrize("backend", available_backends())
def test_windows_per_image_equal_separate_calls(backend):
    inputs = [torch.cat([v, v]) for v in single(sigma=(5.0, 5.0))]
    windows = torch.tensor([[2.0, 7.5], [11.0, 0.5]])
    together = rasterize(*inputs, SIZE, window=windows, backend=backend)
    for i, window in enumerate(windows.tolist()):
        alone = rasterize(*single(sigma=(5.0, 5.0)), SIZE, window=tuple(window), backend=backend)
        assert torch.equal(together[i : i + 1], alone)


def test_units():
    mean = torch.tensor([[[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]])
    assert from_unit(mean, torch.tensor([[4, 10]])).tolist() == [[[-0.5, -0.5], [1.5, 4.5], [3.5, 9.5]]]
    assert raster_ratio_to_window(0.25, (32, 48)) == (8.0, 12.0)
    assert raster_ratio_to_window(0.5, torch.tensor([[33, 49]])).tolist() == [[16.5, 24.5]]
    mu, sigma, rho = from_kernel_units(torch.tensor([[0.25, 0.5, 0.1]]), torch.tensor([[-1.0, 1.0]]), (5, 9))
    assert (mu.tolist(), sigma.tolist(), rho.tolist()) == ([[4.0, 0.0]], [[1.0, 1.0]], pytest.approx([0.1]))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"mu": torch.zeros(1, 1, 2, dtype=torch.int64)},
            TypeError,
            "mu must be a floating-point tensor, not torch.int64",
        ),
        ({"rho": torch.zeros(1, 1, 1)}, ValueError, r"rho must have the shape \(1, 1\) to fit mu, not \(1, 1, 1\)"),
        ({"color": torch.zeros(1, 1, 0)}, ValueError, "color must have at least one channel"),
        ({"color": torch.zeros(1, 1, 3, device="meta")}, ValueError, "on one device"),
        ({"out_size": (4, 70000)}, ValueError, r"between 1 and 65535, not \[4, 70000\]"),
        ({"out_size": (4.0, 4.0)}, TypeError, "out_size must hold integers"),
        ({"out_size": torch.ones(3, 2, dtype=torch.int64)}, ValueError, r"of the shape \(1, 2\), not \(3, 2\)"),
        ({"window": (math.nan, 1.0)}, ValueError, "window must not be negative or NaN"),
        ({"window": (1.0,)}, ValueError, r"window must be \(half_y, half_x\)"),
    ],
)
def test_wrong_arguments(change, error, sentence):
    arguments = dict(zip(FIELDS, single(), strict=True)) | {"out_size": SIZE} | change
    with pytest.raises(error, match=sentence):
        rasterize(**arguments)
