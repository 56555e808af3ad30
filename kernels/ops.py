"""The operator as PyTorch knows it: `asrbench::rasterize`, its gradient, and what compilers need to know of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from kernels.backends import choose, load
from kernels.scene import Gradients, Scene

_INPUTS = (
    "Tensor mu, Tensor sigma, Tensor rho, Tensor color, SymInt[] canvas, SymInt[]? sizes, float[]? window, "
    "float cutoff, str backend, int? capacity"
)
"""Fields of `Scene`, with pairs in a row, and the backend's name, which may be "auto"."""
_TENSORS = 4
_DRAW, _DRAW_BACKWARD = "asrbench::rasterize", "asrbench::rasterize_backward"
T = TypeVar("T", int, float)


# Not `torch.library.custom_op`: what it makes imports the compiler at its first call, two seconds and 160 MiB.
torch.library.define(_DRAW, f"({_INPUTS}) -> Tensor")
torch.library.define(_DRAW_BACKWARD, f"(Tensor grad_image, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)")
draw = torch.ops.asrbench.rasterize
draw_backward = torch.ops.asrbench.rasterize_backward


@torch.library.impl(_DRAW, "default")
def _draw(*inputs: Any) -> Tensor:
    """Draw (B, C, H, W)."""
    backend, scene = _prepared(*inputs)
    with _full_precision(scene):
        image: Tensor = backend.render(scene)
    return image


@torch.library.impl(_DRAW_BACKWARD, "default")
def _draw_backward(grad_image: Tensor, *inputs: Any) -> Gradients:
    """Gradients of mu, sigma, rho and color."""
    backend, scene = _prepared(*inputs)
    with _full_precision(scene):
        gradients: Gradients = backend.gradients(scene, grad_image.detach().contiguous())
    return gradients


def _prepared(
    mu: Tensor,
    sigma: Tensor,
    rho: Tensor,
    color: Tensor,
    canvas: Sequence[int],
    sizes: Sequence[int] | None,
    window: Sequence[float] | None,
    cutoff: float,
    backend: str,
    capacity: int | None,
) -> tuple[Any, Scene]:
    """The backend's module and what it is to draw."""
    types = {value.dtype for value in (mu, sigma, rho, color)}
    if types not in ({torch.float32}, {torch.float64}):
        raise TypeError(f"asrbench::rasterize takes tensors of one type, float32 or float64, not {types}.")
    mu, sigma, rho, color = (value.detach().contiguous() for value in (mu, sigma, rho, color))
    scene = Scene(mu, sigma, rho, color, (canvas[0], canvas[1]), _pairs(sizes), _pairs(window), cutoff, capacity)
    return load(choose(mu.device, mu.dtype, backend)), scene


def _pairs(flat: Sequence[T] | None) -> tuple[tuple[T, T], ...] | None:
    return None if flat is None else tuple(zip(flat[::2], flat[1::2], strict=True))


def _full_precision(scene: Scene) -> torch.autocast:
    """Keep positions and exponents out of autocast, on devices for which it is not registered below, too."""
    return torch.autocast(scene.mu.device.type, enabled=False)


def _fake_draw(mu: Tensor, sigma: Tensor, rho: Tensor, color: Tensor, canvas: Sequence[int], *how: Any) -> Tensor:
    return color.new_empty(mu.shape[0], color.shape[2], *canvas)


def _fake_backward(grad_image: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(value.new_empty(value.shape) for value in inputs[:_TENSORS])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.how = inputs[_TENSORS:]


def _differentiate(ctx: Any, grad_image: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:_TENSORS]
    nothing = (None,) * len(ctx.how)
    if not any(needed):
        return *(None for _ in needed), *nothing
    gradients = draw_backward(grad_image, *ctx.saved_tensors, *ctx.how)
    return *(own if asked else None for own, asked in zip(gradients, needed, strict=True)), *nothing


def _refuse(ctx: Any, *gradients: Tensor) -> None:
    raise RuntimeError("rasterize cannot be differentiated twice.")


torch.library.register_fake(_DRAW, _fake_draw)
torch.library.register_fake(_DRAW_BACKWARD, _fake_backward)
torch.library.register_autograd(_DRAW, _differentiate, setup_context=_save)
torch.library.register_autograd(_DRAW_BACKWARD, _refuse)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast(_DRAW, _device, torch.float32)
    torch.library.register_autocast(_DRAW_BACKWARD, _device, torch.float32)
