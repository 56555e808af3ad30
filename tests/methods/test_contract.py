"""What the runner relies on, of every registered method: chunks, batches, sizes, scales, types, devices."""

from __future__ import annotations

import copy
import math
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.memory import peak_bytes
from bench.tracking import tracking
from methods import build
from methods.gsasr.gaussians import Rendering
from methods.registry import list_methods

LMF = {"depth": 2}
SMALL = {
    "bicubic": {},
    "metasr": {"hidden": 8},
    "liif": {"hidden": (16, 12)},
    "lte": {"dim": 16, "hidden": (12, 10)},
    "srno": {"width": 16, "blocks": 4},
    "linf": {"dim": 8, "depth": 1, "flow_layers": 2},
    "linf-patch": {"dim": 8, "depth": 1, "flow_layers": 2},
    "lmf": {**LMF, "hidden": (16, 12)},
    "lm-liif": {**LMF, "hidden": 16},
    "lm-lte": {**LMF, "dim": 16, "hidden": 16},
    "ciaosr": {"hidden": (16, 12)},
    "gaussiansr": {"points": 16, "dim": 16, "hidden": (12, 10)},
    "gsasr": {"channels": 12, "heads": 2, "window": 4, "self_blocks": 1, "self_layers": 2},
}
"""Hyperparameters of a network that takes milliseconds."""
SPECS = {spec.name: spec for spec in list_methods()}
TRAINED = [name for name, spec in SPECS.items() if spec.learned]
every_method = pytest.mark.parametrize("name", SPECS)


@cache
def small(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    spec = SPECS[name]
    encoder = {"encoder": {"blocks": 1, "channels": 12}} if spec.backbones else {}
    model = build(name, "edsr-micro" if spec.backbones else None, **encoder, **SMALL[name])
    return model.to(dtype).eval().requires_grad_(False)


def image(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def shuffled(count: int, seed: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * max(1.0, float(expected.abs().max())))


def test_every_method_is_here():
    assert SMALL.keys() == SPECS.keys()


@st.composite
def renderings(draw, square: bool):
    """(LR size, out_size, scale)."""
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    factor = st.one_of(st.integers(1, 8).map(float), st.floats(1, 8))
    y = draw(factor)
    scale = (y, y if square else draw(factor))
    return size, (max(1, math.floor(size[0] * scale[0])), max(1, math.floor(size[1] * scale[1]))), scale


@every_method
def test_chunks_and_batches_do_not_matter(name):
    @given(renderings(SPECS[name].square_scale_only), st.integers(1, 200), st.integers(1, 2))
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    def check(rendering, chunk, batch):
        size, out_size, scale = rendering
        model, lr = small(name), image(batch, 3, *size)
        whole = model(lr, out_size, scale)
        assert whole.shape == (batch, 3, *out_size)
        assert whole.isfinite().all()
        close(model(lr, out_size, scale, chunk=chunk), whole)
        for one, expected in zip(lr, whole, strict=True):
            close(model(one[None], out_size, scale)[0], expected)

    check()


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("gsasr", "linf-patch")])
@pytest.mark.parametrize("scale", [(2.0, 2.0), (3.4, 3.4), (1.3, 2.9)])
def test_single_pixels_are_those_of_the_image(name, scale):
    """But for float32 offsets; LINF's patches lie around every third pixel, so have no such pixels."""
    scale = (scale[1], scale[1]) if SPECS[name].square_scale_only else scale
    model, lr, out_size = small(name), image(2, 3, 8, 7), (int(8 * scale[0]), int(7 * scale[1]))
    index = torch.stack([shuffled(out_size[0] * out_size[1], seed) for seed in (0, 1)])
    if name != "srno":  # whose attention is over the pixels asked for
        index = index[:, : index.shape[1] // 2]
    feat = model.encode(lr)
    expected = model.render(feat, out_size, scale).flatten(2).gather(2, index[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(model.render_at(feat, index, out_size, scale), expected, rtol=0, atol=2e-8)


# GaussianSR chooses kernels, which has no derivative: its gradient is another one's.
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "gaussiansr"])
@pytest.mark.parametrize("pixels", [None, 20])
def test_gradients_are_slopes(name, pixels):
    """Along one direction of all weights at once, in float64."""
    model, lr = copy.deepcopy(small(name)).requires_grad_(True), image(2, 3, 8, 7)
    index = torch.stack([shuffled(20 * 18, seed)[:pixels] for seed in (0, 1)])
    if name == "gsasr":
        model.rendering = Rendering(dmax=math.inf, cutoff=math.inf)  # a window's edge is a jump

    def value():
        if pixels is None or name == "gsasr":
            out = model(lr, (20, 18), 2.5)
        else:
            out = model.render_at(model.encode(lr), index, (20, 18), (2.5, 2.5))
        return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum()

    parameters = list(model.parameters())
    gradient = torch.autograd.grad(value(), parameters, allow_unused=True)
    direction = [image(*p.shape) - 0.5 for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True) if g is not None)
    step, found = 1e-7, []
    with torch.no_grad():
        for sign in (1, -2):
            torch._foreach_add_(parameters, direction, alpha=sign * step)
            found.append(float(value()))
    assert (found[0] - found[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


@every_method
def test_one_scale_stands_for_both_axes(name):
    model, lr = small(name), image(1, 3, 5, 7)
    close(model(lr, (15, 21), 3.0), model(lr, (15, 21), (3.0, 3.0)))
    close(model(lr, (15, 21)), model(lr, (15, 21), 3.0))


@every_method
def test_encoding_serves_many_scales(name):
    model, lr = small(name), image(1, 3, 5, 7)
    feat = model.encode(lr)
    for scale in (3.0, 2.0, 3.0):
        out_size = round(5 * scale), round(7 * scale)
        close(model.render(feat, out_size, (scale, scale)), model(lr, out_size, scale))


@every_method
@pytest.mark.parametrize("autocast", [False, True])
def test_sixteen_bits(name, autocast):
    """Finite, of the right shape, and the image of 32 bits with some noise."""
    dtype = torch.float32 if autocast else torch.bfloat16
    model, lr = small(name, dtype), image(1, 3, 9, 7, dtype=dtype)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sr = model(lr, (27, 21), 3.0)
    expected = small(name, torch.float32)(lr.float(), (27, 21), 3.0)
    assert sr.shape == expected.shape
    assert sr.isfinite().all()
    noise = (sr.float() - expected).square().mean().sqrt() / (expected.max() - expected.min())
    assert noise < 0.01


@every_method
def test_inference_mode_changes_nothing(name):
    model, lr = small(name), image(2, 3, 6, 5)
    with torch.inference_mode():
        inferred = model(lr, (15, 13), (2.5, 2.5))
    close(inferred.clone(), model(lr, (15, 13), (2.5, 2.5)))


@every_method
@pytest.mark.parametrize("chunk", [None, 10])
def test_nothing_is_read_from_the_device(name, chunk):
    """On the meta device there is nothing to read, which is what `--max-memory` counts on."""
    model = build(name, "edsr-micro" if SPECS[name].backbones else None, **SMALL[name]).to("meta").eval()
    lr = torch.empty(2, 3, 9, 7, device="meta")
    with torch.inference_mode():
        assert model(lr, (27, 21), 3.0, chunk=chunk).shape == (2, 3, 27, 21)


@every_method
@pytest.mark.parametrize("chunk", [None, 300])
def test_memory_is_known_before(name, chunk):
    """Never more than the meta device says, which may count a little that the CPU does without."""
    model, lr = small(name), image(1, 3, 18, 15)
    with torch.inference_mode(), tracking() as tracker:
        model(lr, (54, 45), 3.0, chunk=chunk)
    state = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    real = tracker.peak + lr.nbytes + state
    told = peak_bytes(model, lr, (54, 45), 3.0, chunk)
    assert told >= real
    assert told <= 1.3 * real or chunk is None  # by default some take larger chunks where they are not on the CPU


@every_method
def test_the_options_in_force_are_known(name):
    model = small(name)
    assert model.effective_options().keys() == model.options
