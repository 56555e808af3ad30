"""The tiled backend where its bookkeeping is hardest, against automatic differentiation of the reference in float64."""

from __future__ import annotations

import pytest
import torch

from kernels import plan, rasterize


def scene(count, size, batch=1):
    """Centres up to a quarter of the side off the image, sigma over a factor of 30, colors of both signs."""
    draw = torch.Generator().manual_seed(0)
    mu = (torch.rand(batch, count, 2, generator=draw) * 1.5 - 0.25) * torch.tensor(size)
    sigma = 1.5 * torch.exp(torch.rand(batch, count, 2, generator=draw) * 3.4 - 1.7)
    rho = torch.tanh(torch.randn(batch, count, generator=draw))
    return [mu, sigma, rho, torch.randn(batch, count, 3, generator=draw)]


def run(inputs, size, dtype, backend):
    """The image and the gradients for a fixed random upstream gradient."""
    leaves = [value.to(dtype, copy=True).requires_grad_() for value in inputs]
    image = rasterize(*leaves, size, backend=backend)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    image.backward(upstream.to(dtype))
    return [image.detach(), *(leaf.grad for leaf in leaves)]


def assert_matches_reference(inputs, size, tolerance=1e-5):
    """By the largest error, and by the median relative one: where gradients are small, zeros would pass the first."""
    for ours, truth in zip(
        run(inputs, size, torch.float32, "torch"), run(inputs, size, torch.float64, "reference"), strict=True
    ):
        error = (ours - truth).abs()
        assert error.max() <= tolerance * truth.abs().max()
        assert (error / truth.abs())[truth != 0].median() < 5e-6


@pytest.mark.parametrize("size", [(40, 57), (1, 33), (29, 1), (1, 1)])
def test_scattered(size):
    assert_matches_reference(scene(60, size, batch=2), size)


def test_lists_in_pieces_and_bands_of_one_row(monkeypatch):
    monkeypatch.setattr(plan, "PAIRS", 64)
    monkeypatch.setattr(plan, "PATCH_VALUES", 1)
    assert_matches_reference(scene(80, (23, 31), batch=2), (23, 31))


def test_whole_images_in_bands(monkeypatch):
    monkeypatch.setattr(plan, "PATCH_VALUES", 60_000)
    assert_matches_reference(scene(30, (23, 31), batch=5), (23, 31))


def test_thousands_on_one_spot():
    mu, *rest = scene(3000, (20, 20))
    assert_matches_reference([mu * 0.01 + 9, *rest], (20, 20), 2e-5)


def test_gradients_are_those_of_finite_differences():
    inputs = [value.double().requires_grad_() for value in scene(5, (7, 6))]
    assert torch.autograd.gradcheck(lambda *g: rasterize(*g, (7, 6), backend="torch"), inputs)


def test_threads_change_rounding_only():
    inputs, before, images = scene(300, (64, 64)), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(rasterize(*inputs, (64, 64), backend="torch"))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
