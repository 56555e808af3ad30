"""CiaoSR and its non-local attention against their published forms in float64."""

from __future__ import annotations

import pytest
import torch
from published_ciaosr import attention, published

from methods import UserError, build
from methods.crossscale import CrossScaleAttention

PEAK = """
import torch
from methods import load
model = load("ciaosr", "edsr-baseline", weights="random")
with torch.inference_mode():
    assert model(torch.rand(1, 3, 96, 96), (384, 384), 4.0).isfinite().all()
"""


def small(**hparams):
    torch.manual_seed(0)
    return build("ciaosr", "edsr-micro", encoder={"blocks": 1, "channels": 4}, hidden=(9, 8), **hparams).double()


def test_published_size():
    model = build("ciaosr", "edsr-baseline")
    decoder = [p.numel() for name, p in model.named_parameters() if not name.startswith("encoder.")]
    assert sum(decoder) + 1 == 1_428_614 + 1  # escape_NaN is a buffer


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (8, 3), (2, 2)])
@pytest.mark.parametrize("chunk", [None, 1, 50])
def test_attention_of_all_pairs(size, chunk):
    torch.manual_seed(0)
    module, x = CrossScaleAttention(6).double(), torch.randn(2, 6, *size, dtype=torch.float64)
    expected = torch.cat([attention(module, one) for one in x.split(1)])
    torch.testing.assert_close(module(x, chunk=chunk), expected, rtol=0, atol=1e-12)


def test_attention_gradients():
    torch.manual_seed(0)
    module, x = CrossScaleAttention(4).double(), torch.randn(1, 4, 6, 5, dtype=torch.float64)
    inputs = list(module.parameters())
    ours, theirs = (torch.autograd.grad(y.square().sum(), inputs) for y in (module(x, chunk=60), attention(module, x)))
    for gradient, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("size", "out_size"), [((6, 5), (12, 10)), ((5, 7), (17, 26)), ((4, 9), (22, 41)), ((3, 3), (4, 5))]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_published_form(size, out_size, batch):
    model, lr = small(), torch.rand(batch, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(lr, out_size), published(model, lr, out_size), rtol=0, atol=2e-6)


def test_gradients_of_published_form():
    model, lr = small(), torch.rand(1, 3, 5, 6, dtype=torch.float64)
    target = torch.rand(1, 3, 13, 17, dtype=torch.float64)
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((sr - target).pow(2).mean(), parameters)
        for sr in (model(lr, (13, 17)), published(model, lr, (13, 17)))
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-9


def test_an_image_of_one_tile_is_the_whole_image():
    lr = torch.rand(1, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(small(tile=8, tile_overlap=2)(lr, (12, 12), 2.0), small()(lr, (12, 12), 2.0))


def test_tiles_are_averaged():
    model, whole = small(tile=6, tile_overlap=2), small()
    lr = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    left, right = (whole(lr[..., x : x + 6], (12, 12)) for x in (0, 2))
    sr = model(lr, (12, 16), 2.0)
    torch.testing.assert_close(sr[..., :4], left[..., :4])
    torch.testing.assert_close(sr[..., 12:], right[..., 8:])
    torch.testing.assert_close(sr[..., 4:12], (left[..., 4:] + right[..., :8]) / 2)


def test_refusals():
    with pytest.raises(UserError, match="tiles of 8 pixels that overlap by 8"):
        small(tile=8, tile_overlap=8)
    with pytest.raises(UserError, match=r"whole scale only, not at 2\.5 x 2\.5"):
        small(tile=4, tile_overlap=1)(torch.rand(1, 3, 6, 6).double(), (15, 15))


def test_port_layout_is_read_too():
    model = small()
    official = model.to_reference(model.state_dict())
    assert all(key.startswith("generator.") for key in official)
    bare = {key.removeprefix("generator."): value for key, value in official.items()}
    for state in (official, bare):
        assert model.from_reference(state).keys() == model.state_dict().keys()


@pytest.mark.slow
def test_peak_memory(peak_mib):
    assert peak_mib(PEAK) < 768
