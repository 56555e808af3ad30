from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional as F

from bench.resize import resize
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


@pytest.mark.parametrize("up", [(1,), (2,), (3,), (2, 2)])
def test_the_start_of_gsasr_resembles_the_input(up):
    image = resize(data.astronaut(), 1 / 21, out_size=(24, 24))
    lr = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        sr = started("gsasr", lr_window=4.0, up=up)(lr, (48, 48), 2.0)
    expected = F.interpolate(lr, size=(48, 48), mode="bilinear")
    assert np.corrcoef(sr.flatten(), expected.flatten())[0, 1] > 0.9
    assert abs(sr.mean() - expected.mean()) < 0.15


def test_it_is_refused_for_other_networks():
    class Other(torch.nn.Module):
        encoder = None

    with pytest.raises(UserError, match="Other"):
        interpolate(Other())
    with pytest.raises(UserError, match="EDSR encoder, not RDN"):
        interpolate(build("liif", "rdn"))
