"""Meta-SR against its published form in float64, at whole scales and between."""

from __future__ import annotations

import pytest
import torch
from published_lte import metasr as published

from methods import UserError, build, load

SIZES = [((4, 5), (8, 15)), ((4, 5), (12, 10)), ((5, 3), (17, 8)), ((1, 4), (6, 9)), ((1, 1), (3, 3)), ((6, 6), (5, 4))]


def small(hidden=7):
    torch.manual_seed(0)
    return build("metasr", "edsr-micro", encoder={"blocks": 1, "channels": 6}, hidden=hidden).double()


def test_published_size():
    model = build("metasr", "edsr-baseline")
    assert sum(p.numel() for p in model.imnet.parameters()) == 445_120


@pytest.mark.parametrize(("size", "out_size"), SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_published_form(size, out_size, batch):
    model, lr = small(), torch.rand(batch, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(lr, out_size), published(model, lr, out_size), rtol=0, atol=1e-6)


@pytest.mark.parametrize("out_size", [(10, 15), (11, 13)])
@pytest.mark.parametrize("chunk", [1, 40, 10_000])
def test_chunks_do_not_matter(out_size, chunk):
    model, lr = small(), torch.rand(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(model(lr, out_size, chunk=chunk), model(lr, out_size), rtol=0, atol=1e-13)


@pytest.mark.parametrize("out_size", [(10, 15), (11, 13)])
def test_gradients_of_published_form(out_size):
    model, lr = small(), torch.rand(1, 3, 5, 5, dtype=torch.float64)
    target = torch.rand(1, 3, *out_size, dtype=torch.float64)
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((sr - target).pow(2).mean(), parameters)
        for sr in (model(lr, out_size), published(model, lr, out_size))
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-6 * expected.norm()
        assert expected.norm() > 0


def test_has_no_cell_to_clip():
    with pytest.raises(UserError, match="no option of metasr called 'cell'"):
        load("metasr", "edsr-baseline", weights="random", options={"cell": "clipped"})
