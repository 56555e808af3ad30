from __future__ import annotations

import pytest
import torch
from skimage import data
from torch.nn import functional as F

from bench.resize import resize
from bench.training import gsasr_start
from bench.training.starts import interpolate
from methods import build
from methods.errors import UserError

SMALL = {
    "metasr": {"hidden": 8},
    "liif": {"hidden": (8, 8)},
    "lte": {"dim": 16, "hidden": (12, 10)},
    "srno": {"width": 16, "blocks": 4},
    "linf": {"dim": 8, "depth": 1, "flow_layers": 2},
    "linf-patch": {"dim": 8, "depth": 1, "flow_layers": 2},
    "lmf": {"depth": 2, "hidden": (16, 12)},
    "lm-lte": {"depth": 2, "dim": 16, "hidden": 16},
    "ciaosr": {"hidden": (16, 12)},
    "gaussiansr": {"points": 16, "dim": 16, "hidden": (12, 10)},
    "gsasr": {"channels": 16, "heads": 2, "window": 6, "self_blocks": 1, "self_layers": 1, "head_ratio": 1},
}
ENLARGED = {"metasr": "nearest-exact", "gaussiansr": "bicubic"}


def started(name, **hparams):
    torch.manual_seed(0)
    model = build(name, "edsr-micro", encoder={"blocks": 1, "channels": 12}, **SMALL[name], **hparams)
    interpolate(model)
    return model


@pytest.mark.parametrize("name", SMALL.keys() - {"gsasr"})
def test_the_start_interpolates(name):
    lr = torch.rand(2, 3, 7, 9)
    mode = ENLARGED.get(name, "bilinear")
    expected = F.interpolate(lr, size=(14, 18), mode=mode)
    with torch.no_grad():
        torch.testing.assert_close(started(name)(lr, (14, 18), 2.0), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def pair():
    """An image (1, 3, 96, 96) and its half."""
    image = resize(data.astronaut(), 96 / 512, out_size=(96, 96))
    half = resize(image, 0.5, out_size=(48, 48))
    return [torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (image, half)]


@pytest.mark.parametrize("up", [(2,), (3,), (2, 2)])
def test_the_start_of_gsasr_is_better_than_linear_interpolation(up, pair):
    hr, lr = pair
    with torch.no_grad():
        sr = started("gsasr", lr_window=4.0, up=up)(lr, (96, 96), 2.0)
    linear = F.interpolate(lr, size=(96, 96), mode="bilinear")
    assert F.mse_loss(sr[..., 2:-2, 2:-2], hr[..., 2:-2, 2:-2]) < F.mse_loss(linear, hr)
    assert abs(sr.mean() - hr.mean()) < 0.01


@pytest.mark.parametrize("up", [(1,), (2,), (3,), (2, 2)])
def test_the_start_of_gsasr_reaches_the_borders(up):
    lr = torch.full((1, 3, 24, 24), 0.6)
    with torch.no_grad():
        sr = started("gsasr", lr_window=4.0, up=up)(lr, (96, 96), 4.0)
    assert (sr[..., 4:-4, 4:-4] - 0.6).abs().max() < 0.05
    for border in (sr[..., 0, :], sr[..., -1, :], sr[..., 0], sr[..., -1]):
        assert 0.45 < border.mean() < 0.66


@pytest.mark.parametrize("scale", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_the_start_of_gsasr_keeps_brightness_at_whole_scales(scale, grey):
    """Where all pixels may lie at centres of Gaussians, at the crests of their sum."""
    with torch.no_grad():
        side = round(24 * scale)
        sr = started("gsasr", lr_window=4.0, up=(2,))(torch.full((1, 3, 24, 24), grey), (side, side), scale)
    assert (sr[..., side // 3 : -side // 3, side // 3 : -side // 3] - grey).abs().max() * 255 < 0.8


def test_the_start_of_gsasr_bears_noise(pair):
    """A norm of zeros turns the smallest noise of the embeddings into unit variance."""
    model, (_, lr) = started("gsasr", lr_window=4.0, up=(2, 2)), pair
    with torch.no_grad():
        before = model(lr, (96, 96), 2.0)
        for parameter in model.parameters():
            parameter += 1e-4 * torch.randn_like(parameter).sign()
        assert (model(lr, (96, 96), 2.0) - before).abs().mean() < 2e-3


def test_colours_carried_loudly_are_the_same_but_bear_more_noise(pair, monkeypatch):
    _, lr = pair

    def output_and_shift():
        """The output, and how strongly noise of the weights moves its brightness."""
        model = started("gsasr", lr_window=4.0, up=(2,))
        output = model(lr, (96, 96), 2.0)
        gradients = torch.autograd.grad(output.mean(), [*model.parameters()], allow_unused=True)
        return output.detach(), torch.cat([g.flatten() for g in gradients if g is not None]).norm()

    loud, steady = output_and_shift()
    monkeypatch.setattr(gsasr_start, "LOUDNESS", 1.0)
    plain, moved = output_and_shift()
    torch.testing.assert_close(loud, plain, rtol=0, atol=1e-5)
    assert steady < 0.7 * moved


def test_it_is_refused_for_other_networks():
    class Other(torch.nn.Module):
        encoder = None

    with pytest.raises(UserError, match="Other"):
        interpolate(Other())
    with pytest.raises(UserError, match="EDSR encoder, not RDN"):
        interpolate(build("liif", "rdn"))
