"""GaussianSR against its published form in float64: kernels, texture, choices, batches."""

from __future__ import annotations

import pytest
import torch
from published_gaussiansr import drawn, published

from methods import UserError, build
from methods.gaussiansr import GaussianSR

CASES = [
    ((7, 5), 2.0),
    ((9, 6), 3.3),
    ((15, 8), 2.5),  # every fifth row is halfway between two LR rows
    ((5, 11), 1.5),
    ((4, 5), 7.7),
    ((1, 4), 4.0),
    ((1, 1), 12.0),
    ((14, 21), 1.0),
    ((8, 9), 0.75),
]
PEAK = """
import torch
from methods import load
model = load("gaussiansr", "edsr-baseline", weights="random")
with torch.inference_mode():
    assert model(torch.rand(1, 3, 240, 360), (960, 1440), 4.0).isfinite().all()
"""


def small(seed=0, backbone="edsr-micro", encoder=None, **hparams):
    """A small network with kernels as after training: wide enough to be seen, oblique, none alike."""
    torch.manual_seed(seed)
    hparams = {"points": 16, "dim": 16, "hidden": (12, 10), **hparams}
    model = build("gaussiansr", backbone, encoder=encoder or {"blocks": 1, "channels": 12}, **hparams).double().eval()
    with torch.no_grad():
        model.sigma_x.add_(torch.rand_like(model.sigma_x), alpha=2)
        model.sigma_y.add_(torch.rand_like(model.sigma_y), alpha=2)
        model.opacity.uniform_(0.2, 1.2)
        model.rho.uniform_(-0.7, 0.7)
        model.segmentation_head[0].weight.mul_(10)
        model.encoder.conv_first.bias.add_(0.5)  # so that the sums of kernels are not all clamped at 0
        model.freq.weight.mul_(5)
    return model


def images(batch, size, seed=1):
    return torch.rand(batch, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(ours, theirs, atol=1e-6):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def enlarged(size, scale):
    return tuple(round(n * scale) for n in size)


def test_published_size():
    model = build("gaussiansr", "edsr-baseline")
    assert sum(p.numel() for p in model.parameters()) == 1_838_159 - 24  # without the unused mean shifts


@pytest.mark.parametrize(
    ("backbone", "encoder", "official"),
    [("edsr-micro", {"blocks": 1}, "edsr.head.0"), ("rdn", {"blocks": 1, "layers": 1, "growth": 8}, "rdn.SFENet1")],
)
def test_official_names(backbone, encoder, official):
    model = build("gaussiansr", backbone, encoder=encoder)
    state = model.state_dict()
    reference = model.to_reference(state)
    expected = f"encoder.{official}.weight encoder.segmentation_head.0.bias sigma_x rho dec.layers.8.bias"
    assert set(expected.split()) <= reference.keys()
    back = model.from_reference(reference)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_hyperparameters_of_official_checkpoints():
    args = {"name": "gaussian-splatter", "kernel_size": 5, "dec_spec": {"name": "mlp", "args": {"hidden_list": [8, 8]}}}
    assert GaussianSR.reference_hparams(args) == {"hidden": (8, 8)}
    more = {"num_points": 25, "hidden_dim": 32}
    assert GaussianSR.reference_hparams(args | more) == {"hidden": (8, 8), "points": 25, "dim": 32}


@pytest.mark.parametrize(("size", "scale"), CASES)
@pytest.mark.parametrize("statistics", ["image", "batch"])
def test_published_form(size, scale, statistics):
    model, lr, out_size = small(statistics=statistics), images(2, size), enlarged(size, scale)
    together = [lr] if statistics == "batch" else lr.split(1)
    expected = torch.cat([published(model, part, out_size, scale) for part in together])
    assert expected.std() > 1e-3
    close(model(lr, out_size, scale), expected)


def test_other_size_than_the_scale_says():
    model, lr = small(), images(1, (8, 6))
    close(model(lr, (25, 20), 3.0), published(model, lr, (25, 20), 3.0))


def test_images_of_a_batch_matter_only_as_official():
    lr = images(2, (9, 8))
    alone, together = (small(statistics=statistics)(lr, (27, 24)) for statistics in ("image", "batch"))
    assert (alone - together).abs().max() > 1e-5
    close(alone[:1], small()(lr[:1], (27, 24)), atol=1e-12)


def test_draws_are_the_official_ones():
    model, lr, out_size = small(classes="sampled"), images(1, (9, 8)), (27, 24)
    torch.manual_seed(3)
    shares = drawn(model, model.encoder((lr - 0.5) / 0.5))
    torch.manual_seed(3)
    ours = model(lr, out_size)
    close(ours, published(model, lr, out_size, 3.0, shares))
    assert (model(lr, out_size) - ours).abs().max() > 1e-5  # drawn anew
    given = {"classes": shares.argmax(1).to(torch.uint8)}
    close(model.reference_arrays(lr, out_size, (3.0, 3.0), given)["out"], ours, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("classes", ["argmax", "sampled"])
def test_gradients_of_published_form(classes, training):
    model, lr = small(classes=classes, statistics="batch").train(training), images(2, (8, 9))
    target, parameters = images(2, (20, 22), seed=2), list(model.parameters())
    torch.manual_seed(3)
    shares = drawn(model, model.encoder((lr - 0.5) / 0.5), hard=not training) if classes == "sampled" else None
    theirs = published(model, lr, (20, 22), 2.5, shares)
    torch.manual_seed(3)
    ours = model(lr, (20, 22), 2.5)
    close(ours, theirs)
    gradients = [torch.autograd.grad((sr - target).pow(2).mean(), parameters) for sr in (ours, theirs)]
    for gradient, expected in zip(*gradients, strict=True):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 0


@pytest.mark.parametrize("chunk", [1, 7, 100, 10_000])
def test_chunks_do_not_matter(chunk):
    model, lr = small(), images(2, (9, 20))
    close(model(lr, (36, 80), chunk=chunk), model(lr, (36, 80)), atol=1e-12)


def test_half_precision_runs():
    model, lr = small(), images(1, (9, 8))
    expected, low = model(lr, (27, 24)), small().bfloat16()(lr.bfloat16(), (27, 24))
    assert low.dtype == torch.bfloat16
    assert (low - expected).abs().max() < 0.1 * expected.abs().max()


def test_mixed_precision_runs():
    model, lr = small(), images(1, (9, 8))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.float()(lr.float(), (27, 24))
    assert (mixed - small()(lr, (27, 24))).abs().max() < 0.1


@pytest.mark.parametrize("classes", ["argmax", "sampled"])
def test_shapes_alone(classes):
    model = small(classes=classes).to("meta")
    assert model(torch.empty(2, 3, 9, 8, dtype=torch.float64, device="meta"), (27, 24)).shape == (2, 3, 27, 24)


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"classes": "soft"}, "GaussianSR has no classes 'soft': choose argmax or sampled"),
        ({"statistics": "none"}, "GaussianSR has no statistics 'none': choose image or batch"),
        ({"points": 12}, "a bank of 12 kernels: choose a square number"),
        ({"encoder": {"blocks": 1, "channels": 8}}, "more than 8 channels, not 8: take a wider encoder"),
    ],
)
def test_refused_hyperparameters(hparams, message):
    with pytest.raises(UserError, match=message):
        build("gaussiansr", "edsr-micro", **hparams)


def test_refused_scales():
    model, lr = small(), images(1, (8, 6))
    with pytest.raises(UserError, match="GaussianSR takes one scale for both axes, not 2 x 3"):
        model(lr, (16, 18))
    with pytest.raises(UserError, match=r"GaussianSR cannot render at scale 0\.5: choose one of at least 5/7"):
        model(lr, (4, 3))


@pytest.mark.slow
def test_peak_memory_of_x4(peak_mib):
    assert peak_mib(PEAK) < 560
