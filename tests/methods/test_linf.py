"""LINF against its published form in float64: rows, patches, samples, densities."""

from __future__ import annotations

import pytest
import torch
from published_linf import log_density, published

from methods import UserError, build
from methods.linf import LINF

SIZES = [
    ((7, 5), (14, 10)),
    ((9, 6), (31, 23)),
    ((5, 11), (13, 40)),
    ((7, 6), (21, 30)),  # odd whole scales: queries on the centres of the last row and column
    ((1, 4), (6, 9)),
    ((1, 1), (3, 5)),
    ((8, 8), (5, 3)),
]
PEAK = """
import torch
from methods import load
model = load("linf", "edsr-baseline", weights="random")
with torch.inference_mode():
    assert model(torch.rand(1, 3, 180, 180), (720, 720), 4.0).isfinite().all()
"""


def small(name="linf", seed=0, encoder=("edsr-micro", {"blocks": 1, "channels": 6}), **hparams):
    """A small network with matrices and biases as after training: neither orthogonal nor zero."""
    torch.manual_seed(seed)
    model = build(name, encoder[0], encoder=encoder[1], dim=8, flow_layers=3, **hparams).double()
    with torch.no_grad():
        for key, value in model.imnet.named_parameters():
            value.add_(torch.randn_like(value), alpha=0.5 if key.endswith("bias") else 0.1)
    return model


def images(batch, size, seed=1):
    return torch.rand(batch, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs, atol=1e-6):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize(("name", "decoder"), [("linf", 705_216), ("linf-patch", 705_216 + 480 * 257 + 11 * 744)])
def test_published_size(name, decoder):
    model = build(name, "edsr-baseline")
    assert sum(p.numel() for p in model.parameters()) == 1_220_416 + decoder  # without the unused mean shifts


def test_official_names():
    keys = build("linf", "edsr-micro").to_reference(build("linf", "edsr-micro").state_dict()).keys()
    assert {"coef.bias", "phase.weight", "layers.6.weight", "imnet.linears.9._weight", "imnet.last.bias"} <= keys


def test_hyperparameters_of_official_checkpoints():
    args = {"name": "linf-patch", "flow_layers": 4, "num_layer": 2, "hidden_dim": 16, "patch_size": 5}
    assert LINF.reference_hparams(args) == {"flow_layers": 4, "depth": 2, "dim": 16, "patch": 5}


@pytest.mark.parametrize(("size", "out_size"), SIZES)
@pytest.mark.parametrize("name", ["linf", "linf-patch"])
def test_published_form(name, size, out_size):
    model = small(name)
    for lr in (images(1, size), images(2, size)):
        close(model(lr, out_size), published(model, lr, out_size))


@pytest.mark.parametrize(("patch", "out_size"), [(3, (15, 1)), (3, (2, 9)), (5, (20, 13)), (5, (22, 18)), (5, (4, 2))])
def test_patches_that_do_not_fit(patch, out_size):
    model, lr = small(patch=patch), images(2, (4, 3))
    close(model(lr, out_size), published(model, lr, out_size))


@pytest.mark.parametrize(("size", "scale"), [((5, 7), 3), ((4, 8), 2)])
def test_published_form_in_windows(size, scale):
    hparams = {"channels": 6, "embed": 12, "stages": 1, "blocks": 2, "heads": 2, "window": 4}
    model, lr = small(encoder=("swinir", hparams)), images(1, size)
    out_size = (size[0] * scale, size[1] * scale)
    close(model(lr, out_size), published(model, lr, out_size, window=4))


@pytest.mark.parametrize(("options", "factor"), [({}, 1), ({"scale_max": 4}, 3), ({"cell": "true", "scale_max": 4}, 1)])
def test_cell(options, factor):
    model, lr = small(**options), images(1, (3, 4))
    close(model(lr, (36, 48), 12.0), published(model, lr, (36, 48), cell_factor=factor))


@pytest.mark.parametrize("name", ["linf", "linf-patch"])
def test_gradients_of_published_form(name):
    model, lr, target = small(name), images(2, (5, 7)), images(2, (15, 18))
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((sr - target).pow(2).mean(), parameters)
        for sr in (model(lr, (15, 18)), published(model, lr, (15, 18)))
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 0


@pytest.mark.parametrize("name", ["linf", "linf-patch"])
@pytest.mark.parametrize("chunk", [1, 7, 100, 10_000])
def test_chunks_do_not_matter(name, chunk):
    model, lr = small(name, temperature=0.5), images(3, (4, 5))
    torch.manual_seed(3)
    expected = model(lr, (12, 11))
    torch.manual_seed(3)
    close(model(lr, (12, 11), chunk=chunk), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["linf", "linf-patch"])
def test_samples_take_the_official_latents(name):
    """In float32 on the CPU, blocks of 256 rows (here 8) of one image draw what is drawn at once here."""
    model, lr = small(name, temperature=0.7).float(), images(1, (9, 4)).float()
    rows, columns, size = (36, 16, 3) if model.patch == 1 else (13, 6, 27)
    torch.manual_seed(3)
    blocks = [torch.randn(len(block) * columns, size) for block in torch.arange(rows).split(8)]
    latent = 0.7 * torch.cat(blocks).view(1, rows, columns, size)
    torch.manual_seed(3)
    close(model(lr, (36, 16)), published(model, lr, (36, 16), latent=latent), atol=2e-5)


def test_several_samples_are_renderings_in_a_row():
    model, lr = small(temperature=0.4), images(2, (4, 5))
    torch.manual_seed(3)
    samples = model.sample(lr, (9, 11), count=3, temperature=0.4)
    torch.manual_seed(3)
    close(samples, torch.stack([model(lr, (9, 11)) for _ in range(3)]), atol=1e-12)
    assert (samples[0] - samples[1]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["linf", "linf-patch"])
def test_temperature_0_draws_nothing(name):
    model, lr = small(name), images(1, (4, 5))
    before = torch.get_rng_state()
    samples = model.sample(lr, (9, 11), count=2, temperature=0)
    close(samples, model(lr, (9, 11)).expand(2, -1, -1, -1, -1), atol=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("size", "out_size"), [((6, 5), (21, 17)), ((4, 3), (12, 9))])
def test_render_at_picks_pixels(size, out_size):
    model, lr = small(), images(2, size)
    index = torch.randint(out_size[0] * out_size[1], (2, 40))
    picked = model.render_at(model.encode(lr), index, out_size, (3.5, 3.4))
    close(picked, published(model, lr, out_size).flatten(2).gather(2, index[:, None].expand(-1, 3, -1)))


def test_render_at_makes_the_centres_of_patches():
    model, lr = small("linf-patch"), images(2, (4, 5))
    rows, columns = torch.meshgrid(torch.arange(1, 12, 3), torch.arange(1, 15, 3), indexing="ij")
    index = (15 * rows + columns).flatten().expand(2, -1)
    picked = model.render_at(model.encode(lr), index, (12, 15), (3, 3))
    close(picked.view(2, 3, 4, 5), model(lr, (12, 15))[:, :, 1::3, 1::3], atol=1e-9)


@pytest.mark.parametrize("name", ["linf", "linf-patch"])
def test_log_density(name):
    model, lr, hr = small(name), images(2, (5, 7)), images(2, (15, 18), seed=2)
    expected = log_density(model, lr, hr).flatten(1)
    feat, scale = model.encode(lr), (3.0, 18 / 7)
    close(model.log_density(feat, hr, scale), expected, atol=1e-5)
    index = torch.randint(15 * 18, (2, 40))
    ours, theirs = model.log_density(feat, hr, scale, index), expected.gather(1, index)
    close(ours, theirs, atol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(density.mean(), parameters) for density in (ours, theirs))
    for gradient, expected in zip(ours, theirs, strict=True):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()


def test_density_of_samples_is_that_of_their_latents():
    """Changing variables: log p(residual) = log N(latent) + log |d latent / d residual|, and the inverse is one."""
    flow = small().imnet
    affine, latent = torch.randn(18, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    to_data = torch.func.jacrev(lambda z: flow.to_data(z, affine, flow.inverses()))
    residual = flow.to_data(latent, affine, flow.inverses())
    normal = torch.distributions.Normal(0, 1).log_prob(latent).sum()
    close(flow.log_density(residual, affine), normal - torch.slogdet(to_data(latent))[1], atol=1e-9)


@pytest.mark.parametrize("name", ["linf", "linf-patch"])
def test_half_precision_is_near(name):
    lr, model = images(1, (6, 5)), small(name)
    expected = model(lr, (18, 13))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.float()(lr.float(), (18, 13))
    half = model.bfloat16()(lr.bfloat16(), (18, 13))
    assert (mixed.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    for sr in (mixed, half):
        assert (sr.double() - expected).abs().max() < 0.1 * expected.abs().max()


def test_meta_device():
    model = small("linf-patch", temperature=1.0).float().to("meta")
    assert model(torch.rand(1, 3, 6, 5, device="meta"), (18, 16)).shape == (1, 3, 18, 16)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"patch": 2}, "patches of 2 pixels: choose an odd number"),
        ({"patch": -1}, "patches of -1 pixels"),
        ({"temperature": -0.1}, "temperature -0.1: choose 0"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"cell": "round"}, "no cell 'round'"),
    ],
)
def test_refusals(hparams, message):
    with pytest.raises(UserError, match=message):
        small(**hparams)


def test_sample_refuses_temperature():
    with pytest.raises(UserError, match="temperature nan"):
        small().sample(images(1, (3, 3)), (6, 6), count=1, temperature=float("nan"))


@pytest.mark.slow
def test_peak_memory_of_180_pixels_x4(peak_mib):
    assert peak_mib(PEAK) < 640
