"""LMF's variants: sizes, options, and the modulated rendering against plain loops."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from published_liif import NUDGE, grid, sample

from methods import UserError, build
from methods.cmsr import levels, parse_tables

SMALL = {"lm-liif": {"hidden": 14}, "lm-lte": {"dim": 12, "hidden": 14}, "lmf": {"hidden": (12, 14)}}
SIZES = {"lm-liif": 165_651, "lm-lte": 270_467, "lmf": 734_998}
every_variant = pytest.mark.parametrize("name", SMALL)


def small(name, **hparams):
    torch.manual_seed(0)
    encoder = {"blocks": 1, "channels": 8}
    return build(name, "edsr-micro", encoder=encoder, depth=2, **SMALL[name], **hparams).double()


def published_lmliif(model, lr, out_size, cell_factor=1.0):
    """LM-LIIF with unfolded features and the whole render MLP per query and member."""
    features = model.encoder((lr - 0.5) / 0.5)
    size = torch.tensor(lr.shape[-2:])
    unfolded = F.unfold(features, 3, padding=1).transpose(1, 2)
    cell = (2 / torch.tensor(out_size) * cell_factor * size).to(lr)
    latent = model.hypernet.layers(torch.cat([unfolded, cell.expand(*unfolded.shape[:2], 2)], -1))
    latent = latent.transpose(1, 2).unflatten(2, lr.shape[-2:])
    lr_coords = grid(lr.shape[-2:], lr.dtype)[None].expand(len(lr), -1, -1, -1)
    coord = grid(out_size, lr.dtype).flatten(1).T
    linears = [layer for layer in model.imnet.layers if isinstance(layer, torch.nn.Linear)]
    predictions, areas = [], []
    for direction in product((-1, 1), (-1, 1)):
        shifted = (coord + torch.tensor(direction) / size + NUDGE).clamp(-1 + NUDGE, 1 - NUDGE)
        rel = (coord - sample(lr_coords, shifted)) * size
        modulation = sample(latent, shifted)
        x = torch.cat([modulation[..., 32 * model.depth :], rel, cell.expand_as(rel)], -1)
        for i, linear in enumerate(linears[:-1]):
            scale = modulation[..., 16 * i : 16 * i + 16] + 1
            shift = modulation[..., 16 * (model.depth + i) : 16 * (model.depth + i) + 16]
            x = F.relu(linear(x) * scale + shift)
        predictions.append(linears[-1](x))
        areas.append(rel.prod(-1, keepdim=True).abs() + 1e-9)
    colors = sum(p * a for p, a in zip(predictions, reversed(areas), strict=True)) / sum(areas)
    return 0.5 * colors.transpose(1, 2).unflatten(2, out_size) + 0.5


@every_variant
def test_published_size(name):
    model = build(name, "edsr-baseline")
    decoder = [p.numel() for key, p in model.named_parameters() if not key.startswith("encoder.")]
    assert sum(decoder) == SIZES[name]


@pytest.mark.parametrize(
    ("size", "out_size"), [((4, 5), (8, 20)), ((5, 3), (17, 8)), ((1, 4), (6, 9)), ((1, 1), (4, 6))]
)
@pytest.mark.parametrize("batch", [1, 2])
def test_published_form(size, out_size, batch):
    model, lr = small("lm-liif", cell="true"), torch.rand(batch, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(lr, out_size), published_lmliif(model, lr, out_size), rtol=0, atol=2e-6)


def test_clipped_cell():
    model, lr = small("lm-liif"), torch.rand(1, 3, 4, 5, dtype=torch.float64)
    expected = published_lmliif(model, lr, (33, 41), cell_factor=2.0)
    torch.testing.assert_close(model(lr, (33, 41), 8.0), expected, rtol=0, atol=2e-6)


@every_variant
def test_every_parameter_learns(name):
    model, lr = small(name), torch.rand(2, 3, 6, 5, dtype=torch.float64)
    model.train()(lr, (13, 12)).square().sum().backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not idle


@every_variant
def test_training_and_evaluation_agree(name):
    model, lr = small(name), torch.rand(1, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(model.train()(lr, (10, 11)), model.eval()(lr, (10, 11)))


@every_variant
def test_multi_scale_rendering(name):
    """One level of the whole scale changes nothing inside the outermost LR centres; batches go image by image."""
    lr = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    plain, single = small(name), small(name, cmsr={8: {8: 1.0}})
    sr = single(lr, (48, 48), 8.0)
    torch.testing.assert_close(sr[..., 4:-4, 4:-4], plain(lr, (48, 48), 8.0)[..., 4:-4, 4:-4], rtol=0, atol=1e-5)
    torch.testing.assert_close(sr[1:], single(lr[1:], (48, 48), 8.0))
    assert small(name, cmsr="published")(lr, (48, 48), 8.0).isfinite().all()
    torch.testing.assert_close(single(lr, (24, 24), 4.0), plain(lr, (24, 24), 4.0))  # not above x4


def test_levels_by_hand():
    tables = parse_tables({"8": {"4": 0.5, "1": 0.2}, "4": {"1": 1}})
    assert [tuple(level) for level in levels(tables, 6.0)] == [
        (1.0, -float("inf"), 0.2),
        (4.0, 0.2, 0.5),
        (6.0, 0.5, float("inf")),
    ]
    assert [level.scale for level in levels(tables, 3.0)] == [1.0]
    assert [level.scale for level in levels(tables, 20.0)] == [1.0, 4.0, 20.0]


def test_small_side_has_no_nonlocal_features_officially():
    lr = torch.rand(1, 3, 40, 70, dtype=torch.float64)
    official, whole = small("lmf"), small("lmf", attention="whole")
    assert not official.encode(lr).maps[1].any()
    assert whole.encode(lr).maps[1].any()


@pytest.mark.parametrize(
    ("name", "hparams", "message"),
    [
        ("lmf", {"attention": "none"}, "no attention 'none': choose official or whole"),
        ("lm-liif", {"cmsr": "always"}, "no table for cmsr"),
        ("lm-lte", {"cell": "round"}, "LMF has no cell 'round'"),
    ],
)
def test_refusals(name, hparams, message):
    with pytest.raises(UserError, match=message):
        small(name, **hparams)


def test_multi_scale_rendering_needs_one_scale():
    with pytest.raises(UserError, match="not 8 x 9"):
        small("lm-liif", cmsr="published")(torch.rand(1, 3, 4, 4).double(), (32, 36), (8.0, 9.0))
