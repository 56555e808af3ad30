"""The GPU backend's lists, keys and capacity, with its kernels run by the emulator; its sums are in test_native.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from native_cases import both, equal, errors, gaussians, scene

from kernels import cuda, host
from kernels.driver import DriverError
from kernels.native import channel_groups, native_scene
from kernels.prepare import boxes

SIZE = (70, 90)
"""3 x 3 bins, the last ones cut off."""


@pytest.fixture
def drawn():
    return scene(gaussians(60, SIZE, batch=2), SIZE, sizes=((70, 33), (40, 90)), window=((9.5, 12.25), (40.0, 40.0)))


@pytest.fixture
def launched(emulated, monkeypatch):
    """Names of the kernels, as they are launched."""
    names, launch = [], cuda._launch

    def record(drawn, native, name, *rest):
        names.append(name)
        launch(drawn, native, name, *rest)

    monkeypatch.setattr(cuda, "_launch", record)
    return names


def lists_of(drawn):
    group = next(channel_groups(native_scene(drawn)))
    _, packed, counts = cuda._prepare(drawn, group)
    return cuda._Lists(drawn, group, packed, counts)


def expected_lists(drawn):
    """Per bin the Gaussians whose box touches it, ascending, numbered through the batch."""
    (y0, x0), (y1, x1) = boxes(drawn)
    rows, columns = (-(-side // 32) for side in drawn.canvas)
    lists = {}
    for image, gaussian in ((y0 <= y1) & (x0 <= x1)).nonzero().tolist():
        at = image, gaussian
        for row in range(y0[at] // 32, y1[at] // 32 + 1):
            for column in range(x0[at] // 32, x1[at] // 32 + 1):
                bin_ = (image * rows + row) * columns + column
                lists.setdefault(bin_, []).append(image * drawn.rho.shape[1] + gaussian)
    return lists


def assert_listed(drawn, lists):
    expected, starts = expected_lists(drawn), lists.starts.tolist()
    assert len(starts) == 1 + len(drawn.rho) * -(-drawn.canvas[0] // 32) * -(-drawn.canvas[1] // 32)
    assert starts[0] == 0
    assert starts[-1] == lists.ends[-1] == sum(map(len, expected.values())) > 0
    found = {i: lists.members[starts[i] : starts[i + 1]].tolist() for i in range(len(starts) - 1)}
    assert {i: members for i, members in found.items() if members} == expected


@pytest.mark.usefixtures("emulated")
class TestLists:
    @pytest.mark.parametrize("capacity", [None, 1000])
    def test_hold_what_touches_their_bins(self, capacity, drawn):
        lists = lists_of(replace(drawn, capacity=capacity))
        assert_listed(drawn, lists)
        assert lists.capacity == len(lists.members) == (capacity or lists.ends[-1])

    @pytest.mark.parametrize(
        ("batch", "canvas", "kernel"),
        # 217 x 151 bins are as many as a short numbers, with one number left for the unused places; 16 x 2048 are more.
        [(217, (20, 4832), "emit_short"), (16, (20, 65535), "emit_int")],
    )
    @pytest.mark.parametrize("capacity", [None, 10_000])
    def test_keys_are_as_long_as_the_bins_need(self, batch, canvas, kernel, capacity, launched):
        drawn = scene(gaussians(5, canvas, batch=batch, spread=(0.5, 60)), canvas, capacity=capacity)
        lists = lists_of(drawn)
        assert launched == ["prepare", kernel]
        assert_listed(drawn, lists)

    def test_are_made_once_for_all_channels(self, launched):
        drawn = scene(gaussians(20, SIZE, channels=9), SIZE)
        cuda.render(drawn)
        assert launched == ["prepare", "emit_short", "draw", "prepare", "draw", "prepare", "draw"]


@pytest.mark.usefixtures("emulated")
class TestCapacity:
    def test_changes_nothing_where_it_suffices(self, drawn):
        needed, image = lists_of(drawn).capacity, cuda.render(drawn)
        for capacity in (needed, needed + 1, 5000):
            assert torch.equal(cuda.render(replace(drawn, capacity=capacity)), image)

    def test_leaves_no_pixel_where_it_does_not(self, drawn):
        needed = lists_of(drawn).capacity
        for capacity in (1, needed - 1):
            assert cuda.render(replace(drawn, capacity=capacity)).isnan().all()

    def test_is_not_met_by_gaussians_off_the_image(self):
        mu, *rest = gaussians(30, SIZE, spread=(0.3, 1))
        assert cuda.render(scene([mu + 1000, *rest], SIZE, capacity=1)).eq(0).all()


@pytest.mark.slow
def test_int_keys_draw_what_the_cpu_draws(launched):
    drawn = scene(gaussians(500, (1, 65535), batch=16, spread=(0.5, 60)), (1, 65535))
    error, _ = errors([cuda.render(drawn)], [host.render(drawn)])[0]
    assert launched == ["prepare", "emit_int", "draw"]
    assert error <= 3e-6


def test_threads_of_a_block_without_a_gaussian_or_patch(emulated):
    """Blocks of 128 threads: from a lone Gaussian to more than one block of each kernel."""
    for count in (1, 3, 4, 5, 17, 127, 129):
        inputs = gaussians(count, (17, 9))
        together = both(emulated, scene(inputs, (17, 9)))
        padded = [torch.cat([value, value[:, :1]], 1) for value in inputs]
        padded[0][:, -1] = 1e6
        more = both(emulated, scene(padded, (17, 9)))
        assert torch.equal(more[0], together[0])
        assert equal([gradient[:, :count] for gradient in more[1:]], together[1:])


def test_errors_of_the_driver_name_the_kernel(emulated):
    module, _ = emulated._target(torch.device("cpu"), 3)
    with pytest.raises(DriverError, match=r"cuModuleGetFunction failed for absent: EMULATOR_ERROR"):
        module.launch("absent", (1, 1, 1), 32, (), 0)
