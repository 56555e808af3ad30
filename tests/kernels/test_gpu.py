"""The nvrtc backend on a real GPU, against the CPU."""

from __future__ import annotations

import pytest
import torch

from kernels import available_backends, choose, rasterize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SIZE = (90, 140)


def gaussians(batch=2, count=3000, channels=3, device="cpu"):
    draw = torch.Generator().manual_seed(0)
    mu = torch.rand(batch, count, 2, generator=draw) * (torch.tensor(SIZE) + 20) - 10
    sigma = 0.4 + 3 * torch.rand(batch, count, 2, generator=draw)
    rho = torch.tanh(torch.randn(batch, count, generator=draw))
    color = torch.randn(batch, count, channels, generator=draw)
    return [value.to(device) for value in (mu, sigma, rho, color)]


def run(inputs, out_size=SIZE, **how):
    """The image and its gradients for a fixed upstream gradient."""
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    image = rasterize(*leaves, out_size, **how)
    upstream = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(image.device)
    image.backward(upstream)
    return [image.detach(), *(leaf.grad for leaf in leaves)]


def on(device, inputs):
    return [value.to(device) for value in inputs]


def assert_close(ours, truth, tolerance=3e-6):
    for value, expected in zip(ours, truth, strict=True):
        assert (value.cpu() - expected).abs().max() <= tolerance * expected.abs().max()


def test_auto_takes_the_kernels():
    assert choose("cuda").name == "nvrtc"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_agrees_with_the_cpu(channels):
    backend = next(iter(available_backends("cpu")))
    inputs = gaussians(channels=channels)
    assert_close(run(on("cuda", inputs)), run(inputs, backend=backend))


def test_ragged_sizes_and_windows():
    inputs, sizes, windows = gaussians(), torch.tensor([[90, 20], [33, 140]]), torch.tensor([[3.0, 9.0], [20.0, 1.5]])
    assert_close(run(on("cuda", inputs), sizes, window=windows), run(inputs, sizes, window=windows))


def test_repeats_and_batches_are_equal_bit_for_bit():
    inputs = gaussians(device="cuda")
    first = run(inputs)
    for _ in range(20):
        assert all(map(torch.equal, first, run(inputs)))
    image = rasterize(*inputs, SIZE)
    alone = torch.cat([rasterize(*(value[i : i + 1] for value in inputs), SIZE) for i in range(2)])
    assert torch.equal(image, alone)


def test_a_second_stream():
    inputs, truth = gaussians(device="cuda"), run(gaussians(device="cuda"))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ours = run(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(map(torch.equal, ours, truth))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_second_device():
    inputs = gaussians()
    assert_close(run(on("cuda:1", inputs)), run(inputs))


def test_a_graph_with_a_capacity():
    inputs = gaussians(device="cuda")
    truth = rasterize(*inputs, SIZE)
    rasterize(*inputs, SIZE, capacity=200_000)  # compiled and warm before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        image = rasterize(*inputs, SIZE, capacity=200_000)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(image, truth)
    assert rasterize(*inputs, SIZE, capacity=10).isnan().all()
