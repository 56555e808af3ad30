"""What the tests of the compiled kernels share: scenes, their truth in float64, and builds of the sources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kernels import build, reference
from kernels.driver import Driver, Module
from kernels.scene import Scene

SOURCES = build.SOURCE.parent
HERE = Path(__file__).parent
CUTOFF = 20.0
"""What is dropped is below the rounding of float32: 2e-9."""
NAMES = ("mu", "sigma", "rho", "color")


def gaussians(count=60, size=(20, 27), batch=1, channels=3, seed=0, spread=(0.3, 4.0), margin=4):
    """mu, sigma, rho, color: centres up to `margin` pixels off the image, sigma log-uniform, |rho| < 0.95."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=draw)

    mu = uniform(0, 1, batch, count, 2) * (torch.tensor(size) + 2 * margin) - margin
    sigma = uniform(math.log(spread[0]), math.log(spread[1]), batch, count, 2).exp()
    return [mu, sigma, uniform(-0.95, 0.95, batch, count), uniform(-1, 1, batch, count, channels)]


def scene(inputs, canvas, cutoff=CUTOFF, **limits):
    return Scene(*(value.contiguous() for value in inputs), canvas, cutoff=cutoff, **limits)


def images(drawn: Scene, start: int, stop: int) -> Scene:
    """Some images of a batch, on the same canvas."""
    parts = {name: getattr(drawn, name)[start:stop].contiguous() for name in NAMES}
    sizes = drawn.sizes and drawn.sizes[start:stop]
    window = drawn.window[start:stop] if drawn.window and len(drawn.window) > 1 else drawn.window
    return replace(drawn, **parts, sizes=sizes, window=window)


def upstream_of(drawn: Scene) -> Tensor:
    """A gradient of the image; not zero beyond the images' sizes, where it must not count."""
    shape = (drawn.mu.shape[0], drawn.color.shape[-1], *drawn.canvas)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def both(backend, drawn: Scene) -> list[Tensor]:
    """The image and the four gradients."""
    return [backend.render(drawn), *backend.gradients(drawn, upstream_of(drawn))]


def truth(drawn: Scene) -> list[Tensor]:
    """The same by the dense sum in float64 and its automatic differentiation, of the same numbers."""
    exact = replace(drawn, **{name: getattr(drawn, name).double() for name in NAMES})
    return [reference.render(exact), *reference.gradients(exact, upstream_of(drawn).double())]


def errors(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> list[tuple[float, float]]:
    """Of each array: largest error by the largest value, and the median of the relative errors.

    The second because zeros would pass the first wherever gradients are small.
    """
    found = []
    for value, true in zip(ours, exact, strict=True):
        assert value.shape == true.shape
        error, size = (value.double() - true).abs(), true.abs()
        relative = (error / size)[size > 0]
        found.append(
            ((error.max() / size.max()).item(), relative.median().item())
            if relative.numel()
            else (error.sum().item(), 0)
        )
    return found


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Bit for bit, save the sign of zeros."""
    return all(map(torch.equal, first, second))


def compile_source(source: Path, out: Path, include: Path = SOURCES, level: str = "-O1", channels: int = 3) -> Path:
    """A library from a C++ file of the tests and from the kernels' sources in a folder."""
    native = build._find_compiler().native
    flags = [*native, level, "-fvisibility=default", f"-I{include}", f"-DCHANNELS={channels}"]
    build.compile_library(source, out, flags)
    return out


class Emulator:
    """The kernels of the GPU backend on a CPU, compiled for a number of channels when they are first launched."""

    def __init__(self, folder: Path, include: Path = SOURCES) -> None:
        self._folder, self._include, self._modules = folder, include, {}

    def target(self, _device: torch.device, channels: int) -> tuple[Module, int]:
        """What stands in for `kernels.cuda._target`."""
        if channels not in self._modules:
            out = self._folder / f"emulator{channels}.so"
            compile_source(HERE / "emulator.cpp", out, self._include, channels=channels)
            self._modules[channels] = Driver(str(out)).module(b"image", 0)
        return self._modules[channels], 0
