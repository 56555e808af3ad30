"""The kernels' source built for the CPU: boxes, patches of the GPU backend and others, threads, the time to build."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_int32, c_void_p
from dataclasses import replace

import numpy as np
import pytest
import torch
from native_cases import NAMES, both, equal, errors, gaussians, scene, truth, upstream_of
from torch.nn.functional import pad

from kernels import build, host
from kernels.native import native_scene
from kernels.prepare import boxes

SIZE = (70, 45)
DRAWN = ("draw_8x8", "draw_8x16", "draw_1x4")


def native(drawn):
    found = native_scene(drawn)
    found.channels = found.all_channels
    return found


def drawn_by(patches, name, drawn, bin_side=0):
    image = torch.full((drawn.mu.shape[0], 3, *drawn.canvas), math.nan)
    getattr(patches, name)(byref(native(drawn)), c_int32(bin_side), c_void_p(image.data_ptr()))
    return image


def gathered_by(patches, lanes, drawn):
    upstream = pad(upstream_of(drawn), (0, lanes))
    gradients = [torch.zeros_like(getattr(drawn, name)) for name in NAMES]
    places = (c_void_p(value.data_ptr()) for value in gradients)
    row = c_int32(upstream.shape[-1])
    getattr(patches, f"gather_{lanes}")(byref(native(drawn)), c_void_p(upstream.data_ptr()), row, *places)
    return gradients


def boxes_of(patches, name, drawn):
    """(2, 2, B, N) like `kernels.prepare.boxes`."""
    out = torch.empty(*drawn.rho.shape, 2, 2, dtype=torch.int32)
    getattr(patches, name)(byref(native(drawn)), c_void_p(out.data_ptr()))
    return out.permute(2, 3, 0, 1)


@pytest.fixture(scope="module")
def drawn():
    """More Gaussians than a group has lanes, many on every patch, windows that cut them, images of two sizes."""
    return scene(gaussians(150, SIZE, batch=2), SIZE, sizes=(SIZE, (33, 40)), window=((9.5, 14.0), (30.0, 3.25)))


class TestPatches:
    @pytest.mark.parametrize("name", DRAWN)
    def test_float64(self, name, patches, drawn):
        error, median = errors([drawn_by(patches, name, drawn)], truth(drawn)[:1])[0]
        assert error <= 3e-6
        assert median <= 1e-6

    @pytest.mark.parametrize("bin_side", [0, 16, 32, 48])
    @pytest.mark.parametrize("name", DRAWN)
    def test_equal_the_bands_bit_for_bit(self, name, bin_side, patches, drawn):
        """So patches equal one another, whatever their sizes and those of bins."""
        assert torch.equal(drawn_by(patches, name, drawn, bin_side), host.render(drawn))

    @pytest.mark.parametrize("lanes", [4, 8, 16, 32])
    def test_gradients_in_float64(self, lanes, patches, drawn):
        found = errors(gathered_by(patches, lanes, drawn), truth(drawn)[1:])
        assert max(error for error, _ in found) <= 5e-6
        assert max(median for _, median in found) <= 1e-6

    def test_gradients_equal_those_of_tabulated_rows_bit_for_bit(self, patches, drawn):
        lanes = host.library().asrbench_lanes()
        assert equal(gathered_by(patches, lanes, drawn), host.gradients(drawn, upstream_of(drawn)))

    def test_the_emulator_agrees(self, patches, drawn, emulated):
        ours = [drawn_by(patches, "draw_8x8", drawn), *gathered_by(patches, 8, drawn)]
        assert max(error for error, _ in errors(both(emulated, drawn), ours)) <= 2e-6


class TestBoxes:
    @pytest.fixture(params=["boxes_1", "boxes_16"])
    def name(self, request):
        return request.param

    @pytest.mark.parametrize("cutoff", [0.5, 14.0, math.inf])
    @pytest.mark.parametrize("window", [None, ((4.7, 2.3),), ((4.7, 2.3), (30.1, 1e-3))])
    def test_equal_a_search(self, window, cutoff, name, patches):
        inputs = gaussians(2001, SIZE, batch=2, spread=(0.01, 8), margin=15)
        drawn = scene(inputs, SIZE, cutoff=cutoff, window=window, sizes=(SIZE, (33, 40)))
        self.assert_found(drawn, boxes_of(patches, name, drawn))

    @pytest.mark.parametrize("half", [(0.0, 0.0), (2.0, 3.0), (1.25, 4.75)])
    def test_hits_on_the_windows_edge(self, half, name, patches):
        """Centres and windows on quarters of pixels: a sixteenth of the edges are pixels."""
        mu, sigma, rho, color = gaussians(2000, SIZE, spread=(5, 50))
        drawn = scene([(4 * mu).round() / 4, sigma, rho, color], SIZE, window=(half,))
        self.assert_found(drawn, boxes_of(patches, name, drawn))

    def test_hits_on_the_cutoffs_edge(self, name, patches):
        """k = 2 at E = 2."""
        mu, sigma, rho, color = gaussians(2000, SIZE)
        drawn = scene([(4 * mu).round() / 4, (8 * sigma).ceil() / 8, rho, color], SIZE, cutoff=2.0)
        self.assert_found(drawn, boxes_of(patches, name, drawn))

    @pytest.mark.parametrize("field", NAMES)
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -2.0, 0.0, 1.0, 1e30, 3e38, 1e-9, 1e-30])
    def test_extreme_values(self, field, value, name, patches):
        inputs = dict(zip(NAMES, gaussians(33, SIZE, spread=(0.5, 4)), strict=True))
        inputs[field][:, ::2] = value
        drawn = scene(inputs.values(), SIZE, window=((20.0, 20.0),))
        self.assert_same(drawn, boxes_of(patches, name, drawn))

    def test_the_largest_image(self, name, patches):
        """65,535 is the last number that 16 bits hold, and 65,534 the last pixel."""
        side = 65535
        mu = torch.tensor([[[0.0, side - 1], [side - 1, 0.0], [side, side], [side / 2, side / 2]]])
        inputs = [mu, torch.tensor([1.0, 1.0, 1.0, 1e5])[None, :, None].expand(1, 4, 2), torch.zeros(1, 4)]
        drawn = scene([*inputs, torch.ones(1, 4, 3)], (side, side), cutoff=2.0)
        found = boxes_of(patches, name, drawn)
        self.assert_same(drawn, found)
        assert found[:, :, 0, 3].tolist() == [[0, 0], [side - 1, side - 1]]

    def assert_found(self, drawn, found):
        """Both implementations against the definition, evaluated in float64 for every pixel."""
        self.assert_same(drawn, found)
        k = torch.tensor(math.sqrt(2 * drawn.cutoff), dtype=torch.float32)
        windows = drawn.window or ((math.inf, math.inf),)
        reach = torch.minimum(drawn.sigma * k, torch.tensor(windows)[:, None]).double().numpy()
        sizes = np.array(drawn.sizes or [drawn.canvas])
        first, last = found.numpy()
        touched = []
        for axis, side in enumerate(drawn.canvas):
            pixel = np.arange(side)
            distance = np.abs(pixel - drawn.mu[..., axis, None].double().numpy())
            touched.append((distance <= reach[..., axis, None]) & (pixel < sizes[:, axis, None, None]))
        hit = touched[0].any(-1) & touched[1].any(-1)
        assert hit.any()
        for axis, side in enumerate(drawn.canvas):
            pixel = np.arange(side)
            inside = (first[axis][..., None] <= pixel) & (pixel <= last[axis][..., None])
            np.testing.assert_array_equal(inside, touched[axis] & hit[..., None])

    def assert_same(self, drawn, found):
        expected = boxes(drawn)
        hit = expected[0, 0] <= expected[1, 0]
        assert torch.equal(found[0, 0] <= found[1, 0], hit)
        assert torch.equal(found[0, 1] <= found[1, 1], hit)
        assert torch.equal(found[..., hit], expected[..., hit])


@pytest.mark.usefixtures("cpu")
class TestThreads:
    @pytest.fixture
    def many(self):
        """Two slices and several bands in each of three images, and more channels than are summed at a time."""
        return scene(gaussians(9000, (90, 40), batch=3, channels=5, spread=(0.2, 1.5)), (90, 40), cutoff=8.0)

    @pytest.fixture
    def run(self):
        before = torch.get_num_threads()

        def run(drawn, threads):
            torch.set_num_threads(threads)
            return both(host, drawn)

        yield run
        torch.set_num_threads(before)

    def test_their_number_changes_nothing(self, many, run):
        first = run(many, 1)
        assert all(value.count_nonzero() > 0 for value in first)
        for threads in (2, 3, 7, 1):
            assert equal(run(many, threads), first)

    def test_more_of_them_than_tasks(self, run):
        one = scene(gaussians(3, (4, 5)), (4, 5))
        assert equal(run(one, 7), run(one, 1))

    def test_callers_on_several_threads(self, many, run):
        """Buffers and counters are those of a call."""
        scenes = [replace(many, cutoff=float(cutoff)) for cutoff in (2, 4, 8)]
        expected = [run(drawn, 1) for drawn in scenes]
        torch.set_num_threads(3)
        with ThreadPoolExecutor(3) as callers:
            assert all(map(equal, callers.map(lambda drawn: both(host, drawn), scenes), expected))


@pytest.mark.usefixtures("compiler")
def test_the_first_call_is_soon(tmp_path):
    start = time.perf_counter()
    build.compile_library(build.SOURCE, tmp_path / "host.so", build._find_compiler().native)
    seconds = time.perf_counter() - start
    print(f"\ncompiling host.cpp: {seconds:.1f} s")
    assert seconds < 15  # 3 s are expected; machines that run tests are busy
