"""Counts against hand calculation, live bytes against torch's own memory profiler."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.memory import peak_bytes
from bench.tracking import tracking
from methods import build
from methods.parts import part

A, B, V = torch.rand(5, 7), torch.rand(7, 3), torch.rand(7)
BATCH, OTHER = torch.rand(4, 5, 7), torch.rand(4, 7, 3)
IMAGE, KERNEL = torch.rand(2, 4, 9, 8), torch.rand(6, 4, 3, 3)
TOKENS = torch.rand(2, 3, 10, 8)

PRODUCTS = {
    "mm": (lambda: A @ B, 5 * 7 * 3),
    "mv": (lambda: A @ V, 5 * 7),
    "dot": (lambda: V @ V, 7),
    "bmm": (lambda: BATCH @ OTHER, 4 * 5 * 7 * 3),
    "broadcast": (lambda: BATCH @ B, 4 * 5 * 7 * 3),
    "addmm": (lambda: torch.addmm(torch.zeros(3), A, B), 5 * 7 * 3),
    "addmm_": (lambda: torch.zeros(5, 3).addmm_(A, B), 5 * 7 * 3),
    "addmm.out": (lambda: torch.addmm(torch.zeros(3), A, B, out=torch.zeros(5, 3)), 5 * 7 * 3),
    "addmv_": (lambda: torch.zeros(5).addmv_(A, V), 5 * 7),
    "addbmm_": (lambda: torch.zeros(5, 3).addbmm_(BATCH, OTHER), 4 * 5 * 7 * 3),
    "baddbmm": (lambda: torch.baddbmm(torch.zeros(1), BATCH, OTHER), 4 * 5 * 7 * 3),
    "baddbmm_": (lambda: torch.zeros(4, 5, 3).baddbmm_(BATCH, OTHER), 4 * 5 * 7 * 3),
    "mm.out": (lambda: torch.mm(A, B, out=torch.zeros(5, 3)), 5 * 7 * 3),
    "linear": (lambda: F.linear(BATCH, B.T, torch.zeros(3)), 4 * 5 * 7 * 3),
    "einsum": (lambda: torch.einsum("bij,jk->bik", BATCH, B), 4 * 5 * 7 * 3),
    "tensordot": (lambda: torch.tensordot(BATCH, B, dims=1), 4 * 5 * 7 * 3),
    "conv2d": (lambda: F.conv2d(IMAGE, KERNEL, padding=1), 2 * 6 * 9 * 8 * 4 * 9),
    "grouped": (lambda: F.conv2d(IMAGE, KERNEL[:4, :2], groups=2), 2 * 4 * 7 * 6 * 2 * 9),
    "strided": (lambda: F.conv2d(IMAGE, KERNEL, stride=2), 2 * 6 * 4 * 3 * 4 * 9),
    "attention": (lambda: F.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS), 2 * 2 * 3 * 10 * 10 * 8),
}
"""Multiply-adds by hand."""


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("inference", [False, True])
def test_products_and_convolutions(name, inference):
    compute, macs = PRODUCTS[name]
    with torch.inference_mode(inference), tracking() as tracker:
        compute()
    assert tracker.macs == macs


def test_bias_and_elementwise_work_do_not_count():
    with tracking() as tracker:
        (A * 2).relu().sum()
    assert tracker.macs == 0


def test_autocast_changes_no_count():
    layer = nn.Linear(7, 3)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), tracking() as tracker:
        assert layer(A).dtype == torch.bfloat16
    assert tracker.macs == 5 * 7 * 3


def test_parts_nest_and_the_innermost_counts():
    with tracking() as tracker:
        A @ B
        with part("outer"):
            A @ B
            with part("inner"):
                A @ V
            A @ B
        with part("inner"):
            A @ V
    assert {name: work.macs for name, work in tracker.parts.items()} == {"other": 105, "outer": 210, "inner": 70}


def test_live_bytes_follow_storages_not_tensors():
    with tracking() as tracker:
        x = torch.zeros(1000)
        view = x[10:].view(-1, 10)
        x += 1
        assert tracker.live == 4000
        y = x * 2
        assert tracker.live == 8000
        del x
        assert tracker.live == 8000  # the view holds the storage
        del view
        assert tracker.live == 4000
        del y
    assert (tracker.live, tracker.peak) == (0, 8000)


def test_peaks_of_parts_include_what_others_hold():
    with tracking() as tracker:
        x = torch.zeros(1000)
        with part("large"):
            (x + 1).sum()
        with part("small"):
            x[:1] + 1
        del x
    assert {name: work.peak for name, work in tracker.parts.items()} == {"other": 4000, "large": 8004, "small": 4004}
    assert tracker.peak == 8004


def chain(device):
    """What needs no scratch memory inside of operators."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96), nn.GELU(), nn.Linear(96, 8))
    return layers.to(device), torch.empty(300, 64, device=device)


def profiled_peak(run):
    """The most bytes allocated at once, from every allocation and release on the CPU as torch reports them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    live = peak = 0
    memory = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(memory, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_peak_is_that_of_the_allocator(device):
    layers, x = chain(device)
    with torch.inference_mode():
        with tracking() as tracker:
            layers(x)
        real, image = chain("cpu")
        gc.collect()
        expected = profiled_peak(lambda: real(image))
    assert tracker.peak == pytest.approx(expected, abs=256)  # allocations are rounded up


@pytest.mark.parametrize(("name", "hparams"), [("bicubic", {}), ("liif", {"hidden": (16, 12)}), ("gsasr", {})])
def test_meta_needs_and_counts_what_the_cpu_does(name, hparams):
    encoder = {"encoder": {"blocks": 1, "channels": 6}} if name != "bicubic" else {}
    small = (
        {"channels": 12, "heads": 2, "window": 4, "self_blocks": 1, "self_layers": 2} if name == "gsasr" else hparams
    )
    model = build(name, "edsr-micro" if encoder else None, **encoder, **small).eval()
    lr = torch.rand(1, 3, 11, 9)
    with torch.inference_mode(), tracking() as tracker:
        model(lr, (33, 27), 3.0)
    state = [*model.parameters(), *model.buffers()]
    real = tracker.peak + lr.nbytes + sum(value.nbytes for value in state)
    # A device other than the CPU gets copies of the index tensors, which are made on the CPU.
    assert real <= peak_bytes(model, lr, (33, 27), 3.0) <= 1.05 * real
    ghost = model.to("meta")
    with torch.inference_mode(), tracking() as other:
        ghost(lr.to("meta"), (33, 27), 3.0)
    assert other.macs == tracker.macs
