"""LTE against its published form in float64; LTE+ checkpoints; waves per row and column against single queries."""

from __future__ import annotations

import pytest
import torch
from published_lte import lte as published

from methods import UserError, build
from methods.fourier import GridWaves, halves, waves
from methods.grid import Axis, members

SIZES = [((4, 5), (8, 20)), ((5, 3), (17, 8)), ((7, 6), (31, 23)), ((1, 4), (6, 9)), ((1, 1), (4, 6)), ((8, 8), (5, 3))]


def small(**hparams):
    torch.manual_seed(0)
    sizes = {"dim": 12, "hidden": (10, 9)}
    return build("lte", "edsr-micro", encoder={"blocks": 1, "channels": 6}, **sizes, **hparams).double()


def test_published_size():
    model = build("lte", "edsr-baseline")
    decoder = [p.numel() for name, p in model.named_parameters() if not name.startswith("encoder.")]
    assert sum(decoder) == 493_827


@pytest.mark.parametrize(("size", "out_size"), SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_published_form(size, out_size, batch):
    model, lr = small(cell="true"), torch.rand(batch, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(lr, out_size), published(model, lr, out_size), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("scale", "factor"), [(3.0, 1.0), (6.0, 1.5), (12.0, 3.0)])
def test_clipped_cell_is_the_default(scale, factor):
    model, lr = small(), torch.rand(1, 3, 4, 6, dtype=torch.float64)
    out_size = (round(4 * scale + 1), round(6 * scale + 1))
    expected = published(model, lr, out_size, cell_factor=factor)
    torch.testing.assert_close(model(lr, out_size, scale), expected, rtol=0, atol=2e-5)
    assert not torch.allclose(small(cell="true")(lr, (61, 90), 15.0), model(lr, (61, 90), 15.0))


def test_gradients_of_published_form():
    model, lr = small(), torch.rand(2, 3, 5, 7, dtype=torch.float64)
    target = torch.rand(2, 3, 12, 18, dtype=torch.float64)
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((sr - target).pow(2).mean(), parameters)
        for sr in (model(lr, (12, 18)), published(model, lr, (12, 18)))
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-4 * expected.norm()
        assert expected.norm() > 0


def test_render_at_picks_pixels():
    model, lr = small(), torch.rand(2, 3, 6, 5, dtype=torch.float64)
    feat, scale = model.encode(lr), (3.5, 3.4)
    index = torch.randint(21 * 17, (2, 40))
    whole = model.render(feat, (21, 17), scale).flatten(2)
    picked = model.render_at(feat, index, (21, 17), scale)
    torch.testing.assert_close(picked, whole.gather(2, index[:, None].expand(-1, 3, -1)), rtol=0, atol=1e-12)


def test_lte_plus_is_the_same_network():
    model = small()
    plus = {key: value for key, value in model.to_reference(model.state_dict()).items() if not key.startswith("imnet.")}
    for key in ("freq.weight", "freq.bias"):
        plus[key] = halves(plus[key])
    for key, value in model.imnet.state_dict().items():
        plus[key] = value[..., None, None] if value.ndim == 2 else value
    found = model.from_reference(plus)
    assert found.keys() == model.state_dict().keys()
    assert all(found[key].equal(value) for key, value in model.state_dict().items())


def test_waves_by_row_and_column():
    torch.manual_seed(0)
    y, x = members(Axis(4, 11, 4)), members(Axis(5, 7, 5))
    coef, freq, phase = torch.randn(4, 5, 6).double(), torch.randn(4, 5, 6).double(), torch.randn(3).double()
    grid = GridWaves(coef, freq, [m[:2] for m in y], [m[:2] for m in x], phase)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixel = (y[i].pixel[:, None] * 5 + x[j].pixel).flatten()
        rel = torch.stack(torch.broadcast_tensors(y[i].rel[:, None], x[j].rel), -1).flatten(0, 1)
        expected = waves(coef.flatten(0, 1)[pixel], freq.flatten(0, 1)[pixel], rel, phase).view(11, 7, 6)
        torch.testing.assert_close(torch.cat([grid(slice(0, 4), (i, j)), grid(slice(4, 11), (i, j))]), expected)


def test_unknown_cell():
    with pytest.raises(UserError, match="LTE has no cell 'round'"):
        small(cell="round")
