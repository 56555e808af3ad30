"""LIIF against the reference's outputs and against its published form in float64."""

from __future__ import annotations

import pytest
import torch
from published_liif import published

from methods import UserError, build

PEAK = """
import torch
from methods import load
model = load("liif", "edsr-baseline", weights="random")
with torch.inference_mode():
    assert model(torch.rand(1, 3, 180, 180), (720, 720), 4.0).isfinite().all()
"""


def small(seed=0, **hparams):
    torch.manual_seed(seed)
    return build("liif", "edsr-micro", encoder={"blocks": 1, "channels": 6}, hidden=(16, 12, 8), **hparams).double()


def test_published_size():
    model = build("liif", "edsr-baseline")
    assert sum(p.numel() for p in model.imnet.parameters()) == 346_883
    assert sum(p.numel() for p in model.parameters()) == 1_567_323 - 24  # without the unused mean shifts


@pytest.mark.parametrize(
    ("size", "out_size"),
    [((7, 5), (14, 10)), ((9, 6), (31, 23)), ((5, 11), (13, 40)), ((1, 4), (6, 9)), ((1, 1), (4, 6)), ((8, 8), (5, 3))],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_published_form(size, out_size, batch):
    model, lr = small(), torch.rand(batch, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(lr, out_size), published(model, lr, out_size), rtol=0, atol=1e-6)


@pytest.mark.parametrize("switched_off", ["local_ensemble", "feat_unfold", "cell_decode"])
def test_published_ablations(switched_off):
    model, lr = small(**{switched_off: False}), torch.rand(2, 3, 6, 7, dtype=torch.float64)
    out_size = (16, 26)  # without a pixel halfway between two LR pixels, where the nearest one is arbitrary
    torch.testing.assert_close(model(lr, out_size), published(model, lr, out_size), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scale", "factor"), [(3.0, 1.0), (4.0, 1.0), (6.0, 1.5), (12.0, 3.0)])
def test_clipped_cell(scale, factor):
    model, lr = small(cell="clipped"), torch.rand(1, 3, 4, 6, dtype=torch.float64)
    out_size = (round(4 * scale + 1), round(6 * scale + 1))  # no odd integer ratio: ill-conditioned as published
    expected = published(model, lr, out_size, cell_factor=factor)
    torch.testing.assert_close(model(lr, out_size, scale), expected, rtol=0, atol=1e-6)


def test_unknown_cell():
    with pytest.raises(UserError, match='no cell \'round\': choose "true" or "clipped"'):
        small(cell="round")


def test_gradients_of_published_form():
    model, lr = small(), torch.rand(2, 3, 5, 7, dtype=torch.float64)
    target = torch.rand(2, 3, 12, 18, dtype=torch.float64)
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((sr - target).pow(2).mean(), parameters)
        for sr in (model(lr, (12, 18)), published(model, lr, (12, 18)))
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 0


@pytest.mark.parametrize("chunk", [1, 7, 100, 10_000])
def test_chunks_do_not_matter(chunk):
    model, lr = small(), torch.rand(3, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(model(lr, (9, 11), chunk=chunk), model(lr, (9, 11)), rtol=0, atol=1e-13)


def test_render_at_picks_pixels():
    model, lr = small(), torch.rand(2, 3, 6, 5, dtype=torch.float64)
    feat, scale = model.encode(lr), (3.5, 3.4)
    index = torch.randint(21 * 17, (2, 40))
    whole = model.render(feat, (21, 17), scale).flatten(2)
    picked = model.render_at(feat, index, (21, 17), scale)
    torch.testing.assert_close(picked, whole.gather(2, index[:, None].expand(-1, 3, -1)), rtol=0, atol=1e-13)


def test_half_precision_runs():
    model = small().bfloat16()
    sr = model(torch.rand(1, 3, 5, 5, dtype=torch.bfloat16), (12, 12))
    assert sr.dtype == torch.bfloat16
    assert sr.isfinite().all()


@pytest.mark.slow
def test_peak_memory_of_180_pixels_x4(peak_mib):
    assert peak_mib(PEAK) < 640
