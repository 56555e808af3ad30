"""Types, autocast, memory format and compilation of networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench import compute as module
from bench.compute import DTYPES, acceleration_name, prepare_torch, ready
from bench.inference import MethodFault, super_resolve
from methods.errors import UserError

LR = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
OUT = (27, 36)


def rendered(compute, **options):
    model = ready("liif", "edsr-micro", compute, weights="random", **options)
    return super_resolve(model, LR, OUT, 3.0, compute).sr


def psnr(one, other):
    return -10 * np.log10(np.square(one - other).mean() + 1e-20)


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_is_known_by_its_name_and_renders_the_same_image(name):
    compute = prepare_torch("cpu", name)
    assert compute.dtype_name == name
    assert compute.dtype == (torch.float32 if name.startswith("autocast") else getattr(torch, name))
    assert psnr(rendered(compute), rendered(prepare_torch("cpu", "float64"))) > 40


def test_autocast_computes_in_the_smaller_type():
    compute = prepare_torch("cpu", "autocast-bfloat16")
    found = []
    model = ready("liif", "edsr-micro", compute, weights="random")
    model.encoder.register_forward_hook(lambda *a: found.append(a[-1].dtype))
    model.imnet.layers[2].register_forward_hook(lambda *a: found.append(a[-1].dtype))
    super_resolve(model, LR, OUT, 3.0, compute)
    assert model.imnet.layers[2].weight.dtype == torch.float32
    assert torch.bfloat16 in found


def test_autocast_that_torch_does_not_have_is_refused(monkeypatch):
    assert module._can_autocast(torch.device("cpu"), torch.bfloat16)
    assert not module._can_autocast(torch.device("cpu"), torch.float64)  # torch warns and goes on without
    monkeypatch.setattr(module, "_can_autocast", lambda *_: False)
    with pytest.raises(UserError, match=r"torch has no autocast to float16 on cpu: choose another"):
        prepare_torch("cpu", "autocast-float16")


def test_names_of_accelerations():
    names = [acceleration_name(*on) for on in ((False, False), (True, False), (False, True), (True, True))]
    assert names == ["", "channels-last", "compile", "channels-last+compile"]


def test_channels_last_changes_strides_only():
    compute = prepare_torch("cpu", "float32", channels_last=True)
    model = ready("liif", "edsr-micro", compute, weights="random")
    assert model.encoder.conv_first.weight.is_contiguous(memory_format=torch.channels_last)
    assert psnr(rendered(compute), rendered(prepare_torch("cpu", "float32"))) > 100


def test_the_cell_rule_reaches_methods_that_have_one_and_gives_way_to_options():
    compute = prepare_torch("cpu", "float32")
    published, clipped = (
        ready("liif", "edsr-micro", compute, weights="random", cell=c) for c in ("published", "clipped")
    )
    assert (published.cell, clipped.cell) == ("true", "clipped")
    chosen = ready("liif", "edsr-micro", compute, weights="random", cell="clipped", options={"cell": "true"})
    assert chosen.cell == "true"
    assert ready("bicubic", None, compute, cell="clipped").effective_options() == {}


@pytest.fixture
def interpreted(monkeypatch):
    """`torch.compile` up to the graph, which is then run as it is: without a compiler, in a moment."""
    monkeypatch.setattr(module, "COMPILER", "aot_eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_encoders_render_the_same_image(interpreted):
    compute = prepare_torch("cpu", "float32", compiled=True)
    assert psnr(rendered(compute), rendered(prepare_torch("cpu", "float32"))) > 100


def test_the_limit_of_memory_is_kept_by_compiled_networks_too(interpreted):
    compute = prepare_torch("cpu", "float32", compiled=True)
    model = ready("liif", "edsr-micro", compute, weights="random")
    assert super_resolve(model, LR, OUT, 3.0, compute, max_memory=10**9).chunk is None


def test_what_cannot_be_compiled_is_said_and_not_run_as_it_is(interpreted, monkeypatch):
    class Stubborn(nn.Module):
        channels = 48

        def forward(self, x):
            torch._dynamo.graph_break()
            return x.repeat(1, 16, 1, 1)

    compute = prepare_torch("cpu", "float32", compiled=True)
    monkeypatch.setattr("methods.loading.build_encoder", lambda *_, **__: Stubborn())
    model = ready("liif", "edsr-micro", compute, weights="random")
    with pytest.raises(MethodFault, match=r"The encoder cannot be compiled \(.*\): leave out --compile\.") as caught:
        super_resolve(model, LR, OUT, 3.0, compute)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_real_compiler_at_many_sizes():
    compute = prepare_torch("cpu", "float32", compiled=True, channels_last=True)
    fast, plain = (ready("liif", "edsr-micro", c, weights="random") for c in (compute, prepare_torch("cpu", "float32")))
    for size in ((9, 12), (1, 1), (17, 3), (1, 8), (30, 31), (2, 2)):
        lr = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        out_size = 2 * size[0] + 1, 2 * size[1]
        images = [
            super_resolve(model, lr, out_size, 2.0, c).sr
            for model, c in ((fast, compute), (plain, prepare_torch("cpu", "float32")))
        ]
        np.testing.assert_allclose(*images, rtol=0, atol=1e-5)
