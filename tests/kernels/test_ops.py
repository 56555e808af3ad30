"""The operator among PyTorch's machinery: registration, compilation, autocast, what is differentiated and what not."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode

from kernels import available_backends, rasterize, reference

SIZE = (13, 17)
BACKENDS = ["auto", *available_backends()]
OPCHECK_WARNS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
UNIFORM, RAGGED = ([13, 17], None, None), ([13, 17], [9, 17, 13, 6], [3.0, 4.5, 6.0, 2.0])


def gaussians(count=20, batch=2, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    mu = torch.rand(batch, count, 2, generator=draw) * torch.tensor(SIZE)
    sigma = 0.5 + torch.rand(batch, count, 2, generator=draw)
    rho, color = torch.rand(batch, count, generator=draw) - 0.5, torch.rand(batch, count, 3, generator=draw)
    return [value.to(dtype).requires_grad_() for value in (mu, sigma, rho, color)]


def loss(mu, sigma, rho, color, size=SIZE, backend="auto"):
    return rasterize(mu, sigma, rho, color, size, window=(4, 5.5), capacity=4096, backend=backend).square().sum()


@OPCHECK_WARNS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [UNIFORM, RAGGED], ids=["uniform", "ragged"])
class TestRegistration:
    def test_forward(self, backend, layout):
        arguments = (*gaussians(), *layout, 14.0, backend, None)
        torch.library.opcheck(torch.ops.asrbench.rasterize.default, arguments)

    def test_backward(self, backend, layout):
        inputs = [value.detach() for value in gaussians()]
        arguments = (torch.rand(2, 3, *SIZE), *inputs, *layout, 14.0, backend, None)
        torch.library.opcheck(torch.ops.asrbench.rasterize_backward.default, arguments)


@OPCHECK_WARNS
@pytest.mark.parametrize(("count", "batch"), [(0, 2), (5, 0)])
def test_registration_of_nothing(count, batch):
    arguments = (*gaussians(count, batch), *UNIFORM, 14.0, "auto", None)
    torch.library.opcheck(torch.ops.asrbench.rasterize.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (SIZE, (21, 8)):
        inputs = gaussians()
        ours, truth = compiled(*inputs, size), loss(*inputs, size)
        assert torch.equal(ours, truth)
        assert all(map(torch.equal, torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, inputs)))


def test_compiled_checks_still_speak():
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager")
    with pytest.raises(Exception, match="between 1 and 65535"):
        compiled(*gaussians(), (0, 4))


@pytest.mark.parametrize("mode", [nullcontext(), FakeTensorMode()], ids=["meta", "fake"])
def test_shapes_without_data(mode):
    with mode:
        device = "meta" if isinstance(mode, nullcontext) else "cpu"
        inputs = [torch.empty(3, 20, *rest, device=device, requires_grad=True) for rest in ((2,), (2,), (), (4,))]
        image = rasterize(*inputs, SIZE)
        grads = torch.autograd.grad(image.sum(), inputs)
    assert (image.shape, image.dtype) == ((3, 4, *SIZE), torch.float32)
    assert [grad.shape for grad in grads] == [value.shape for value in inputs]


@pytest.mark.parametrize("backend", BACKENDS)
class TestAutocast:
    def test_leaves_float32_alone(self, backend):
        inputs = gaussians(60)
        with torch.autocast("cpu", torch.bfloat16):
            grads = torch.autograd.grad(loss(*inputs, backend=backend), inputs)
        truth = torch.autograd.grad(loss(*inputs, backend=backend), inputs)
        assert all(map(torch.equal, grads, truth))

    def test_halves_are_cast_up_and_their_gradients_down(self, backend):
        inputs = gaussians(60, dtype=torch.bfloat16)
        wide = [value.detach().float().requires_grad_() for value in inputs]
        truth = torch.autograd.grad(loss(*wide, backend=backend), wide)
        with torch.autocast("cpu", torch.bfloat16):
            grads = torch.autograd.grad(loss(*inputs, backend=backend), inputs)
        for ours, theirs in zip(grads, truth, strict=True):
            assert torch.equal(ours, theirs.bfloat16())

    def test_bfloat16_upstream(self, backend):
        inputs = gaussians(60)
        image = rasterize(*inputs, SIZE, backend=backend)
        upstream = torch.rand(image.shape).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            grads = torch.autograd.grad(image.bfloat16(), inputs, upstream, retain_graph=True)
        assert all(map(torch.equal, grads, torch.autograd.grad(image, inputs, upstream.float())))

    def test_covers_the_bare_operator(self, backend):
        halves = [value.detach().half() for value in gaussians()]
        with torch.autocast("cpu", torch.bfloat16):
            image = torch.ops.asrbench.rasterize(*halves, *UNIFORM, 14.0, backend, None)
        assert torch.equal(image, rasterize(*halves, SIZE, backend=backend))


def test_the_bare_operator_refuses_other_types():
    halves = [value.detach().half() for value in gaussians()]
    with pytest.raises(TypeError, match="float32 or float64"):
        torch.ops.asrbench.rasterize(*halves, *UNIFORM, 14.0, "auto", None)


@pytest.mark.parametrize("backend", BACKENDS)
class TestGradients:
    @pytest.mark.parametrize("wanted", [w for n in (1, 2, 3) for w in itertools.combinations(range(4), n)])
    def test_of_some_inputs(self, backend, wanted):
        inputs = gaussians()
        truth = torch.autograd.grad(loss(*inputs, backend=backend), inputs)
        some = [value.detach().requires_grad_(i in wanted) for i, value in enumerate(inputs)]
        loss(*some, backend=backend).backward()
        for i, value in enumerate(some):
            assert torch.equal(value.grad, truth[i]) if i in wanted else value.grad is None

    def test_cannot_be_taken_twice(self, backend):
        inputs = gaussians()
        for i in range(4):
            (grad,) = torch.autograd.grad(loss(*inputs, backend=backend), inputs[i], create_graph=True)
            with pytest.raises(RuntimeError, match="twice"):
                grad.sum().backward()

    def test_nothing_is_recorded_without_need(self, backend):
        inputs = gaussians()
        truth = rasterize(*inputs, SIZE, backend=backend)
        assert not rasterize(*(value.detach() for value in inputs), SIZE, backend=backend).requires_grad
        with torch.inference_mode():
            image = rasterize(*inputs, SIZE, backend=backend)
            assert image.is_inference()
        assert torch.equal(image, truth)

    def test_inference_tensors_serve_later(self, backend):
        with torch.inference_mode():
            inputs = [value.detach().clone() for value in gaussians()]
        assert torch.equal(rasterize(*inputs, SIZE, backend=backend), rasterize(*gaussians(), SIZE, backend=backend))

    def test_inputs_changed_in_place_are_noticed(self, backend):
        inputs = gaussians()
        image = loss(*inputs, backend=backend)
        with torch.no_grad():
            inputs[0].add_(1)
        with pytest.raises(RuntimeError, match="inplace"):
            image.backward()

    def test_a_graph_may_be_used_again(self, backend):
        inputs = gaussians()
        value = loss(*inputs, backend=backend)
        first = torch.autograd.grad(value, inputs, retain_graph=True)
        assert all(map(torch.equal, first, torch.autograd.grad(value, inputs)))


def test_the_reference_in_parts_equals_the_whole(monkeypatch):
    inputs = gaussians(23, dtype=torch.float64)
    whole = loss(*inputs)
    truth = torch.autograd.grad(whole, inputs)
    monkeypatch.setattr(reference, "PAIRS", 4 * 2 * 13 * 17)  # four Gaussians at a time
    parts = loss(*inputs)
    torch.testing.assert_close(parts, whole)
    for ours, theirs in zip(torch.autograd.grad(parts, inputs), truth, strict=True):
        torch.testing.assert_close(ours, theirs)
