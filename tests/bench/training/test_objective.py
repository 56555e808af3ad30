from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.training.objective import Objective
from bench.training.patches import Batch
from methods import build
from methods.errors import UserError

SMALL = {
    "liif": {"hidden": (8, 8)},
    "gsasr": {"channels": 12, "heads": 2, "window": 4, "self_blocks": 1, "self_layers": 1, "head_ratio": 1},
    "linf": {"dim": 8, "depth": 1, "flow_layers": 2},
}


def small(name):
    torch.manual_seed(0)
    return build(name, "edsr-micro", encoder={"blocks": 1, "channels": 12}, **SMALL[name])


def batch(sides, pixels=None):
    generator = torch.Generator().manual_seed(1)
    hr = torch.zeros(len(sides), 3, max(sides), max(sides))
    for image, side in zip(hr, sides, strict=True):
        image[:, :side, :side] = torch.rand(3, side, side, generator=generator)
    index = None
    if pixels:
        index = torch.stack([torch.randperm(side**2, generator=generator)[:pixels] for side in sides])
    return Batch(torch.rand(len(sides), 3, 8, 8, generator=generator), hr, tuple(sides), index)


@pytest.mark.parametrize("name", ["liif", "gsasr"])
@pytest.mark.parametrize("sides", [(20, 20), (12, 31, 12)])
def test_l1_is_the_mean_of_the_patches_means(name, sides):
    model, given = small(name), batch(sides)
    expected = [
        F.l1_loss(model(lr[None], (side, side), side / 8), hr[None, :, :side, :side])
        for lr, hr, side in zip(given.lr, given.hr, sides, strict=True)
    ]
    torch.testing.assert_close(Objective(model)("l1", given), torch.stack(expected).mean())


def test_chosen_pixels_are_compared_with_their_own_targets():
    given = batch((20, 30, 20), pixels=50)

    class Oracle(nn.Module):
        """Answers with the truth."""

        def encode(self, lr):
            return torch.arange(len(lr))

        def render_at(self, feat, index, out_size, scale):
            assert all(len(set(row)) == 50 for row in index.tolist())
            truth = given.hr[feat][..., : out_size[0], : out_size[1]].flatten(2)
            return truth.gather(2, index[:, None].expand(-1, 3, -1))

    assert Objective(Oracle())("l1", given) == 0


def test_all_pixels_are_as_many_as_the_image():
    given, model = batch((20, 20)), small("liif")
    every = Batch(given.lr, given.hr, given.sides, torch.arange(400).expand(2, -1))
    torch.testing.assert_close(Objective(model)("l1", every), Objective(model)("l1", given))


def test_likelihood_is_linfs():
    given, model = batch((16, 24)), small("linf")
    expected = [
        -model.log_density(model.encode(lr[None]), hr[None, :, :side, :side], (side / 8, side / 8)).mean()
        for lr, hr, side in zip(given.lr, given.hr, given.sides, strict=True)
    ]
    torch.testing.assert_close(Objective(model)("nll", given), torch.stack(expected).mean())
    with pytest.raises(UserError, match="LIIF has no likelihood"):
        Objective(small("liif"))("nll", given)
