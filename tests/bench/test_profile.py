"""`profile`: what it counts, that its times add up, and what it refuses."""

from __future__ import annotations

import time

import pytest
import torch

from bench.console import console
from bench.profile import (
    PartCost,
    _times,
    matmul_gflops,
    parse_sides,
    profile,
    profile_notes,
    profile_table,
)
from methods.errors import UserError
from methods.parts import part

SMALL = {"lr_size": (8, 10), "scale": 2.5, "device": "cpu", "repeats": 1}


@pytest.fixture(scope="module")
def liif():
    return profile("liif", "edsr-micro", **SMALL)


def test_macs_by_hand(liif):
    macs = {cost.name: cost.macs for cost in liif.parts}
    pixels, queries, hidden = 8 * 10, 20 * 25, 256
    assert macs["encoder"] == pixels * 9 * (3 * 48 + 13 * 48 * 48)
    assert macs["MLP, first layer"] == pixels * 9 * 48 * hidden
    assert macs["MLP, other layers"] == queries * (4 * (3 * hidden + 3 * hidden**2) + 3 * hidden)
    assert liif.macs == sum(macs.values())


def test_the_parts_are_the_whole(liif):
    assert [cost.name for cost in liif.parts] == ["encoder", "MLP, first layer", "MLP, other layers", "other"]
    assert liif.ms == pytest.approx(sum(cost.ms for cost in liif.parts))
    assert liif.peak_bytes == max(cost.peak_bytes for cost in liif.parts)
    assert (liif.parameters, liif.weight_bytes) == (581_555, 4 * 581_555)
    assert (liif.device, liif.dtype, liif.acceleration, liif.chunk) == ("cpu", "float32", "", None)
    assert liif.threads == torch.get_num_threads()


def test_times_belong_to_the_part_that_took_them():
    def run():
        time.sleep(0.01)
        with part("outer"):
            time.sleep(0.02)
            with part("inner"):
                time.sleep(0.04)
            time.sleep(0.02)

    seconds = _times(run, torch.device("cpu"))
    assert list(seconds) == ["other", "outer", "inner"]
    for name, least in (("other", 0.01), ("outer", 0.04), ("inner", 0.04)):
        assert least <= seconds[name] < least + 0.03


def test_a_method_without_weights_or_parts():
    found = profile("bicubic", **SMALL)
    assert [cost.name for cost in found.parts] == ["other"]
    assert (found.macs, found.parameters) == (0, 0)
    assert found.ms > 0


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "autocast-bfloat16"])
def test_types(dtype, liif):
    found = profile("liif", "edsr-micro", dtype=dtype, **SMALL)
    assert found.dtype == dtype
    assert found.macs == liif.macs
    assert found.weight_bytes == found.parameters * {"float64": 8, "bfloat16": 2}.get(dtype, 4)


def test_a_limit_chooses_the_chunk():
    sizes = {**SMALL, "lr_size": (40, 40)}
    free = profile("liif", "edsr-micro", **sizes)
    bounded = profile("liif", "edsr-micro", max_memory=free.weight_bytes + free.peak_bytes // 2, **sizes)
    assert bounded.chunk is not None
    assert bounded.peak_bytes <= free.peak_bytes // 2
    assert bounded.macs == pytest.approx(free.macs, rel=1e-5)  # a matrix of the MLP is made once per chunk
    with pytest.raises(UserError, match="10x8 pixels needs at least 4 MiB for 25x20, more than 0 MiB"):
        profile("liif", "edsr-micro", max_memory=1000, **SMALL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr_size": (0, 5)}, "An LR image of 5x0 is out of range"),
        ({"lr_size": (5, 5000)}, "An LR image of 5000x5 is out of range"),
        ({"scale": 0.0}, "The scale 0 is out of range"),
        ({"scale": float("nan")}, "The scale nan is out of range"),
        ({"repeats": 0}, "0 repeats are out of range"),
        ({"chunk": 0}, "A chunk of 0 queries"),
        ({"chunk": 5, "max_memory": 10**9}, "or a limit of memory instead"),
        ({"threads": 0}, "0 threads are out of range"),
        ({"dtype": "float8"}, "no dtype called 'float8'"),
        ({"device": "cuda:77"}, "The device 'cuda:77' is not usable here"),
        ({"options": {"cel": "true"}}, "no option of liif called 'cel': did you mean cell"),
        ({"backbone": "vgg"}, "no backbone called 'vgg'"),
        ({"method": "lif"}, "no method called 'lif'"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_wrong_arguments_get_one_sentence(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        profile(**{"method": "liif", "backbone": "edsr-micro", **SMALL, **changes})
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_is_said(monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("methods.liif.LIIF.render", fail)
    with pytest.raises(UserError, match="Memory ran out on cpu: choose a smaller image or chunk"):
        profile("liif", "edsr-micro", **SMALL)


@pytest.mark.parametrize(("text", "size"), [("180", (180, 180)), ("180x120", (120, 180)), (" 5x7 ", (7, 5))])
def test_sizes_as_typed(text, size):
    assert parse_sides(text) == size


@pytest.mark.parametrize("text", ["", "x", "5x", "x5", "5x5x5", "-5", "1.5", "5 x 5"])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="is not the size of an image"):
        parse_sides(text)


def test_rates():
    assert PartCost("any", 3_000_000, 2.0, 0).gflops == 3.0
    assert PartCost("none", 0, 0.0, 0).gflops == 0.0
    assert 0.1 < matmul_gflops(torch.device("cpu"), torch.float32) < 1e5


def test_the_table_has_a_line_per_part_and_the_whole(liif, capsys):
    console().print(profile_table(liif, "liif, LR 10x8, x2.5"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "liif, LR 10x8, x2.5"
    assert [line.split("  ")[0].strip() for line in lines[-6:-1]] == [*(cost.name for cost in liif.parts), "total"]
    assert f"{liif.macs / 1e9:.3f}" in lines[-2]
    assert "100.0%" in lines[-2]
    first, second = profile_notes(liif)
    assert first.startswith("581,555 parameters, 2 MiB beside the peak; cpu, float32, ")
    assert f"runs at {liif.matmul_gflops:.1f} GFLOP/s here; the whole reaches" in second
