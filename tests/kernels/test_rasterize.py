"""The rasterizer against the official kernel (parity cases), float64 automatic differentiation and arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import available_backends, dmax_to_window, from_kernel_units, from_unit, rasterize

CASES = sorted((Path(__file__).parents[1] / "parity" / "rasterizer").glob("*.json"))
BACKENDS = list(available_backends())
FAST = [name for name in BACKENDS if name != "reference"]
BITWISE = [name for name in FAST if name != "torch"]  # sums in the Gaussians' order, whatever is drawn beside them
GPU_BACKENDS = list(available_backends("cuda")) if torch.cuda.is_available() else ["torch"]
THREADS = (1, 2, 3, 7)


def gaussians(count=40, batch=1, size=(20, 27), channels=3, seed=0, dtype=torch.float32, spread=(0.3, 3.0)):
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    mu = uniform(batch, count, 2) * (torch.tensor(size) + 8) - 4  # some off the image
    sigma = spread[0] + (spread[1] - spread[0]) * uniform(batch, count, 2)
    rho = 1.9 * uniform(batch, count) - 0.95
    color = 2 * uniform(batch, count, channels) - 1
    return [value.to(dtype) for value in (mu, sigma, rho, color)]


def close(ours, truth, tolerance):
    assert ours.shape == truth.shape
    assert (ours.double() - truth.double()).abs().max() <= tolerance * truth.abs().max()


def image_and_gradients(inputs, size, upstream=None, **options):
    """upstream: the gradient of the image; by default its square's."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    image = rasterize(*leaves, size, **options)
    image.backward(2 * image.detach() if upstream is None else upstream)
    return [image.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_official_kernel(path, backend):
    case, arrays = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
    inputs = [torch.from_numpy(arrays[name])[None].requires_grad_() for name in ("sigmas", "coords", "colors")]
    size = (case["h"], case["w"])
    mu, sigma, rho = from_kernel_units(inputs[0], inputs[1], size)
    image = rasterize(mu, sigma, rho, inputs[2], size, window=dmax_to_window(case["dmax"], size), backend=backend)
    close(image[0].permute(1, 2, 0), torch.from_numpy(arrays["image"]), case["rtol"])
    if "grad_image" in arrays:
        image.backward(torch.from_numpy(arrays["grad_image"]).permute(2, 0, 1)[None])
        for name, value in zip(("sigmas", "coords", "colors"), inputs, strict=True):
            close(value.grad[0], torch.from_numpy(arrays[f"grad_{name}"]), case["rtol_grad"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gaussian_by_hand(backend):
    (y, x), (sy, sx), rho, size = (3.25, 4.5), (1.5, 0.75), 0.6, (9, 11)
    image = rasterize(
        torch.tensor([[[y, x]]]), torch.tensor([[[sy, sx]]]), torch.tensor([[rho]]), torch.ones(1, 1, 1), size,
        cutoff=math.inf, backend=backend,
    )  # fmt: skip
    for j in range(size[0]):
        for i in range(size[1]):
            a, b = (i - x) / sx, (j - y) / sy
            value = math.exp(-(a * a - 2 * rho * a * b + b * b) / (2 * (1 - rho * rho)))
            assert image[0, 0, j, i].item() == pytest.approx(value, rel=1e-4, abs=1e-12)


def test_reference_gradients_are_those_of_finite_differences():
    inputs = [v.requires_grad_() for v in gaussians(4, size=(6, 7), dtype=torch.float64, spread=(0.8, 2.0))]
    assert torch.autograd.gradcheck(lambda *g: rasterize(*g, (6, 7), cutoff=math.inf, backend="reference"), inputs)


@pytest.mark.parametrize("backend", FAST)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 60), st.integers(1, 3), st.sampled_from([1, 3, 4, 6]),
    st.sampled_from([None, (1.5, 2.25), (6.0, 3.0)]), st.sampled_from([4.5, 14.0]), st.integers(0, 99),
)  # fmt: skip
def test_fast_backends_equal_the_dense_sum_in_float64(
    backend, height, width, count, batch, channels, window, cutoff, seed
):
    exact = gaussians(count, batch, (height, width), channels, seed, torch.float64, spread=(0.05, 6.0))
    single = [value.float() for value in exact]
    exact = [value.double().requires_grad_() for value in single]  # the same numbers, so the same boxes
    single = [value.requires_grad_() for value in single]
    truth = rasterize(*exact, (height, width), window=window, cutoff=cutoff, backend="reference")
    image = rasterize(*single, (height, width), window=window, cutoff=cutoff, backend=backend)
    upstream = torch.rand(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert image.dtype == torch.float32
    assert (image - truth).abs().max() <= 5e-6 * max(1.0, truth.abs().max().item())
    (truth * upstream).sum().backward()
    (image * upstream.float()).sum().backward()
    for ours, theirs in zip(single, exact, strict=True):
        if theirs.numel():
            assert (ours.grad - theirs.grad).abs().max() <= 2e-5 * max(1.0, theirs.grad.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
def test_ragged_sizes_equal_separate_images(backend):
    inputs, sizes = gaussians(30, batch=3), torch.tensor([[12, 20], [20, 9], [1, 27]])
    together = rasterize(*inputs, sizes, backend=backend)
    assert together.shape == (3, 3, 20, 27)
    for i, (height, width) in enumerate(sizes.tolist()):
        alone = rasterize(*(value[i : i + 1] for value in inputs), (height, width), backend=backend)
        ours = together[i : i + 1, :, :height, :width]
        torch.testing.assert_close(ours, alone, rtol=0, atol=0 if backend in BITWISE else 2e-6)
        assert together[i, :, height:].eq(0).all()
        assert together[i, :, :, width:].eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_equal_separate_images(backend):
    inputs, upstream = gaussians(80, batch=3, channels=5), torch.randn(3, 5, 20, 27)
    together = image_and_gradients(inputs, (20, 27), upstream, backend=backend)
    for i in range(3):
        part = slice(i, i + 1)
        alone = image_and_gradients([v[part] for v in inputs], (20, 27), upstream[part], backend=backend)
        for ours, truth in zip(together, alone, strict=True):
            close(ours[part], truth, 0 if backend in BITWISE else 2e-6)


def test_equal_sizes_as_a_tensor_equal_a_tuple():
    inputs = gaussians(30, batch=2)
    assert torch.equal(rasterize(*inputs, torch.tensor([[20, 27]] * 2)), rasterize(*inputs, (20, 27)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeats_are_equal_bit_for_bit(backend):
    inputs = gaussians(500, batch=2, size=(64, 64))
    first, second = (image_and_gradients(inputs, (64, 64), backend=backend) for _ in range(2))
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("backend", BITWISE)
def test_threads_change_nothing(backend):
    inputs, before, results = gaussians(500, batch=2, size=(64, 64)), torch.get_num_threads(), []
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            results.append(image_and_gradients(inputs, (64, 64), backend=backend))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("backend", BACKENDS)
class TestProperties:
    def test_linear_in_color(self, backend):
        mu, sigma, rho, color = gaussians()
        image = rasterize(mu, sigma, rho, color, (20, 27), backend=backend)
        torch.testing.assert_close(rasterize(mu, sigma, rho, -3 * color, (20, 27), backend=backend), -3 * image)

    def test_a_lone_gaussian_sums_to_its_volume(self, backend):
        mu, sigma, rho = torch.tensor([[[30.2, 29.7]]]), torch.tensor([[[2.0, 3.0]]]), torch.tensor([[0.5]])
        image = rasterize(mu, sigma, rho, torch.ones(1, 1, 1), (60, 60), cutoff=30.0, backend=backend)
        assert image.sum().item() == pytest.approx(2 * math.pi * 2 * 3 * math.sqrt(1 - 0.25), rel=1e-5)

    def test_whole_pixel_shifts_move_the_image(self, backend):
        mu, sigma, rho, color = gaussians(20, spread=(0.3, 0.8))
        mu = (mu * 64).round() / 64 / 4 + 8  # inside, and exact in float32 after the shift
        image = rasterize(mu, sigma, rho, color, (30, 40), backend=backend)
        moved = rasterize(mu + torch.tensor([3.0, 5.0]), sigma, rho, color, (30, 40), backend=backend)
        torch.testing.assert_close(moved[..., 3:, 5:], image[..., :-3, :-5], rtol=0, atol=1e-6)

    def test_the_window_includes_its_edge(self, backend):
        one = torch.tensor([[[5.0, 5.0]]]), torch.full((1, 1, 2), 9.0), torch.zeros(1, 1), torch.ones(1, 1, 1)
        hit = rasterize(*one, (11, 11), window=(2.0, 3.0), backend=backend)[0, 0] > 0
        assert hit.nonzero().aminmax(dim=0).min.tolist() == [3, 2]
        assert hit.nonzero().aminmax(dim=0).max.tolist() == [7, 8]
        assert hit.sum() == 5 * 7

    def test_malformed_gaussians_touch_nothing(self, backend):
        mu, sigma, rho, color = gaussians(6)
        truth = rasterize(*(v[:, 5:] for v in (mu, sigma, rho, color)), (20, 27), backend=backend)
        mu[0, 0, 0], sigma[0, 1, 1], sigma[0, 2, 0], rho[0, 3], color[0, 4, 2] = math.nan, math.inf, -1, 1, math.nan
        inputs = [value.requires_grad_() for value in (mu, sigma, rho, color)]
        image = rasterize(*inputs, (20, 27), backend=backend)
        torch.testing.assert_close(image, truth)
        image.sum().backward()
        for value in inputs:
            assert value.grad[:, :5].eq(0).all()
            assert value.grad.isfinite().all()

    @pytest.mark.parametrize(("batch", "count"), [(0, 5), (2, 0), (0, 0)])
    def test_nothing_gives_zeros(self, backend, batch, count):
        inputs = [value.requires_grad_() for value in gaussians(count, batch)]
        image = rasterize(*inputs, (4, 5), backend=backend)
        assert image.shape == (batch, 3, 4, 5)
        assert image.eq(0).all()
        image.sum().backward()

    @pytest.mark.parametrize("rho", [0.999999, -0.999999])
    @pytest.mark.parametrize("sigma", [1e-4, 1e3])
    def test_extreme_shapes_stay_finite(self, backend, rho, sigma):
        inputs = [
            torch.tensor([[[5.0, 7.0], [4.3, 6.9]]]), torch.full((1, 2, 2), sigma), torch.full((1, 2), rho),
            torch.ones(1, 2, 3),
        ]  # fmt: skip
        inputs = [value.requires_grad_() for value in inputs]
        image = rasterize(*inputs, (12, 13), backend=backend)
        image.sum().backward()
        assert image.isfinite().all()
        assert all(value.grad.isfinite().all() for value in inputs)

    def test_half_precision_and_strides(self, backend):
        inputs = gaussians(12)
        truth = rasterize(*(v.half().float() for v in inputs), (20, 27), backend=backend)
        strided = [v.half().repeat_interleave(2, 1)[:, ::2] for v in inputs]
        with torch.autocast("cpu", torch.bfloat16):
            image = rasterize(*strided, (20, 27), backend=backend)
        assert image.dtype == torch.float32
        torch.testing.assert_close(image, truth)


def test_units():
    assert from_unit(torch.tensor([[[0.5, 0.0]]]), (4, 10)).tolist() == [[[1.5, -0.5]]]
    assert dmax_to_window(0.1, (21, 41)) == pytest.approx((1.0, 2.0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mu": torch.zeros(1, 3, 3)}, r"mu must have the shape \(B, N, 2\)"),
        ({"sigma": torch.ones(1, 2, 2)}, "sigma must have the shape"),
        ({"color": torch.ones(1, 3)}, r"color must have the shape \(B, N, C\)"),
        ({"out_size": (0, 4)}, "between 1 and 65535"),
        ({"window": (-1.0, 2.0)}, "window must not be negative"),
        ({"cutoff": -1.0}, "cutoff must be 0 or more"),
        ({"cutoff": math.nan}, "cutoff must be 0 or more"),
        ({"capacity": 0}, "capacity must be 1 or more, not 0"),
        ({"backend": "cuda"}, "backend names the rasterizer 'cuda'; there are auto, nvrtc, host, torch, reference"),
    ],
)
def test_wrong_arguments_are_named(change, sentence):
    arguments = dict(zip(("mu", "sigma", "rho", "color"), gaussians(3), strict=True)) | {"out_size": (4, 4)} | change
    with pytest.raises(ValueError, match=sentence):
        rasterize(**arguments)
    with pytest.raises(TypeError, match="floating-point"):
        rasterize(**arguments | {"rho": [0.0]})


@pytest.mark.slow
@pytest.mark.parametrize("backend", FAST)
def test_a_large_image_fits_into_a_gigabyte(peak_mib, backend):
    code = f"""
import torch
from kernels import rasterize
shape = (1, 518_400)
mu, sigma = 720 * torch.rand(*shape, 2), 0.7 + 1.3 * torch.rand(*shape, 2)
rasterize(mu, sigma, torch.rand(shape) - 0.5, torch.rand(*shape, 3), (720, 720), cutoff=9.2, backend="{backend}")
"""
    assert peak_mib(code) < 768


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", GPU_BACKENDS)
def test_the_gpu_agrees_with_the_cpu(backend):
    inputs, upstream = gaussians(2000, batch=2, size=(90, 70)), torch.rand(2, 3, 90, 70)
    cpu = image_and_gradients(inputs, (90, 70), upstream)
    gpu = image_and_gradients([value.to("cuda") for value in inputs], (90, 70), upstream.to("cuda"), backend=backend)
    for ours, truth in zip(gpu, cpu, strict=True):
        close(ours.cpu(), truth, 1e-5)
