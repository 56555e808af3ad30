"""SRNO against its published form in float64: geometry, attention over all queries or over some, cells."""

from __future__ import annotations

import pytest
import torch
from published_srno import published

from methods import UserError, build
from methods.srno import SRNO

SIZES = [
    ((7, 5), (14, 10)),
    ((9, 6), (31, 23)),
    ((5, 11), (13, 40)),
    ((5, 5), (15, 15)),  # odd whole scales: queries on the centres of the last row and column
    ((15, 6), (105, 18)),
    ((4, 5), (4, 5)),
    ((1, 4), (6, 9)),
    ((1, 1), (3, 5)),
    ((8, 8), (5, 3)),
]
PEAK = """
import torch
from methods import load
model = load("srno", "edsr-baseline", weights="random")
with torch.inference_mode():
    assert model(torch.rand(1, 3, 240, 360), (960, 1440), 4.0).isfinite().all()
"""


def small(seed=0, **hparams):
    """A small network with gains and offsets of its norms as after training."""
    torch.manual_seed(seed)
    encoder = {"blocks": 1, "channels": 6}
    model = build("srno", "edsr-micro", encoder=encoder, **{"width": 16, "blocks": 4, **hparams}).double()
    with torch.no_grad():
        for norm in (model.conv0.kln, model.conv0.vln, model.conv1.kln, model.conv1.vln):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-0.5, 0.5)
    return model


def images(batch, size, seed=1):
    return torch.rand(batch, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs, atol=2e-6):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def test_published_size():
    model = build("srno", "edsr-baseline")
    decoder = [value for key, value in model.named_parameters() if not key.startswith("encoder.")]
    assert sum(p.numel() for p in decoder) == 794_883
    assert sum(p.numel() for p in model.parameters()) == 2_015_323 - 24  # without the unused mean shifts


def test_official_names():
    model = build("srno", "edsr-micro")
    shapes = {key: tuple(value.shape) for key, value in model.to_reference(model.state_dict()).items()}
    assert shapes["conv0.qkv_proj.weight"] == (768, 256, 1, 1)
    assert shapes["conv1.vln.bias"] == (16, 1, 16)
    assert {
        "conv00.bias",
        "conv1.o_proj1.weight",
        "conv0.o_proj2.bias",
        "conv0.kln.weight",
        "fc2.bias",
    } <= shapes.keys()


def test_hyperparameters_of_official_checkpoints():
    args = {"name": "sronet", "encoder_spec": {"name": "rdn"}, "width": 64, "blocks": 8}
    assert SRNO.reference_hparams(args) == {"width": 64, "blocks": 8}


@pytest.mark.parametrize(("size", "out_size"), SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_published_form(size, out_size, batch):
    model, lr = small(), images(batch, size)
    close(model(lr, out_size), published(model, lr, out_size, max(out_size[0] / size[0] / 4, 1)))


def test_float64_keeps_the_published_coordinates():
    """Rounding them in float64 would change the last column of odd whole scales; the float32 network sees the same."""
    model, lr = small(), images(1, (15, 15))
    close(model.float()(lr.float(), (45, 45)).double(), model.double()(lr, (45, 45)), atol=1e-5)


@pytest.mark.parametrize(("options", "factor"), [({}, 3), ({"scale_max": 6}, 2), ({"cell": "true"}, 1)])
def test_cell_by_the_vertical_scale(options, factor):
    model, lr = small(**options), images(1, (3, 4))
    out_size = (36, 20)
    sr = model(lr, out_size)
    close(sr, published(model, lr, out_size, factor))
    assert (sr - published(model, lr, out_size, factor + 1)).abs().max() > 1e-5


@pytest.mark.parametrize("out_size", [(12, 18), (15, 21)])
def test_gradients_of_published_form(out_size):
    model, lr, target = small(), images(2, (5, 7)), images(2, out_size)
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((sr - target).pow(2).mean(), parameters)
        for sr in (model(lr, out_size), published(model, lr, out_size))
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 0


@pytest.mark.parametrize("chunk", [1, 7, 50, 10_000])
@pytest.mark.parametrize("out_size", [(9, 11), (12, 15), (40, 10), (2, 2)])
def test_chunks_do_not_matter(chunk, out_size):
    model, lr = small(), images(2, (4, 5))
    close(model(lr, out_size, chunk=chunk), model(lr, out_size), atol=1e-12)


def test_chunks_do_not_matter_in_float32():
    model, lr = small().float(), images(1, (20, 20)).float()
    whole = model(lr, (130, 130), chunk=20_000)
    close(model(lr, (130, 130), chunk=1), whole, atol=1e-6 * float(whole.detach().abs().max()))


def test_images_of_a_batch_do_not_matter():
    model, lr = small(), images(2, (6, 5))
    close(model(lr, (13, 15))[1:], model(lr[1:], (13, 15)), atol=1e-12)


@pytest.mark.parametrize(("size", "out_size"), [((6, 5), (21, 17)), ((4, 3), (12, 9))])
def test_render_at_attends_to_the_chosen_pixels(size, out_size):
    model, lr = small(), images(2, size)
    index = torch.randint(out_size[0] * out_size[1], (2, 40))
    picked = model.render_at(model.encode(lr), index, out_size, (3.5, 3.4))
    close(picked, torch.cat([published(model, lr[k : k + 1], out_size, index=index[k]) for k in range(2)]))


def test_render_at_all_pixels_is_render():
    model, lr = small(), images(2, (4, 3))
    picked = model.render_at(model.encode(lr), torch.arange(12 * 9).expand(2, -1), (12, 9), (3.0, 3.0))
    close(picked.unflatten(2, (12, 9)), model(lr, (12, 9)))


@pytest.mark.parametrize("out_size", [(18, 13), (18, 15)])
def test_half_precision_is_near(out_size):
    lr, model = images(1, (6, 5)), small()
    feat = model.encode(lr)
    index = torch.randint(out_size[0] * out_size[1], (1, 60))
    expected, at = model(lr, out_size), model.render_at(feat, index, out_size, (3.0, 3.0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.float()(lr.float(), out_size)
        mixed_at = model.render_at(model.encode(lr.float()), index, out_size, (3.0, 3.0))
    half = model.bfloat16()(lr.bfloat16(), out_size)
    assert (mixed.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for sr, truth in ((mixed, expected), (mixed_at, at), (half, expected)):
        assert (sr.double() - truth).abs().max() < 0.1 * truth.abs().max()


def test_meta_device():
    model = small().float().to("meta")
    assert model(torch.rand(2, 3, 6, 5, device="meta"), (18, 15)).shape == (2, 3, 18, 15)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"width": 16, "blocks": 3}, "a width of 16 into 3 heads: choose a multiple of it"),
        ({"width": 16, "blocks": 16}, "a width of 16 into 16 heads"),
        ({"blocks": 0}, "into 0 heads"),
        ({"cell": "round"}, "SRNO has no cell 'round'"),
    ],
)
def test_refusals(hparams, message):
    with pytest.raises(UserError, match=message):
        small(**hparams)


@pytest.mark.slow
def test_peak_memory_of_x4(peak_mib):
    assert peak_mib(PEAK) < 560
