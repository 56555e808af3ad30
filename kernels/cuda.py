"""The backend for NVIDIA GPUs: the kernels' source compiled by NVRTC, launched on PyTorch's current stream.

Forward: Gaussians are listed by the bins of 32 x 32 pixels that they touch, lists are sorted by bin, stably, so each is
in the Gaussians' order, and a warp draws 8 x 8 pixels from the list of its bin. Backward: a few threads per Gaussian
gather from its own box. No atomics: repeats are equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from ctypes import c_int64
from functools import cache

import torch
from torch import Tensor

from kernels.driver import Argument, Driver, DriverError, Module
from kernels.native import NativeScene, channel_groups, native_scene
from kernels.nvrtc import kernel_image, version
from kernels.scene import Gradients, Scene

_BIN, _PATCH, _THREADS, _GATHER_LANES = 32, 8, 128, 8
"""As in source/device.cu: sides of a bin and of a warp's patch, threads of a block, threads that share a Gaussian."""
_RECORD_BYTES = {1: 32, 2: 32, 3: 32, 4: 48}
"""Of a Gaussian's record, by channels."""


def available() -> str | None:
    """Say why this backend cannot run here; None if it can.

    Raises:
        BuildError: there is a GPU but its kernels cannot be compiled.
    """
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        _driver()
    except DriverError as error:
        return str(error)
    _image(torch.cuda.get_device_capability(), 3)
    return None


def origin() -> str:
    """Say what compiles the kernels."""
    return f"compiled by NVRTC {'.'.join(map(str, version()))}"


def render(scene: Scene) -> Tensor:
    """Draw the scene on its GPU. Returns (B, C, H, W) float32."""
    batch, channels = scene.mu.shape[0], scene.color.shape[-1]
    image = scene.mu.new_empty(batch, channels, *scene.canvas)
    native = native_scene(scene)
    if not image.numel() or not native.count:
        return image.zero_()
    patches = batch * math.prod(-(-side // _PATCH) for side in scene.canvas)
    lists: _Lists | None = None
    for group in channel_groups(native):
        records, boxes, counts = _prepare(scene, group)
        lists = lists or _Lists(scene, group, boxes, counts)
        arguments = (records, boxes, lists.members, lists.starts, lists.ends, c_int64(lists.capacity), image)
        _launch(scene, group, "draw", 32 * patches, arguments)
    return image


def gradients(scene: Scene, grad_image: Tensor) -> Gradients:
    """Gradients of mu, sigma, rho and color for the upstream gradient (B, C, H, W)."""
    mu, sigma, rho, color = (torch.zeros_like(value) for value in (scene.mu, scene.sigma, scene.rho, scene.color))
    upstream = grad_image.float().contiguous()
    if rho.numel() and upstream.numel():
        for group in channel_groups(native_scene(scene)):
            _launch(scene, group, "gather", _GATHER_LANES * rho.numel(), (upstream, mu, sigma, rho, color))
    return mu, sigma, rho, color


def _prepare(scene: Scene, native: NativeScene) -> tuple[Tensor, Tensor, Tensor]:
    """Records, boxes, and how many bins each Gaussian touches."""
    gaussians = scene.rho.numel()
    records = scene.mu.new_empty(gaussians * _RECORD_BYTES[native.channels], dtype=torch.uint8)
    boxes = scene.mu.new_empty(gaussians, dtype=torch.int64)
    counts = scene.mu.new_empty(gaussians, dtype=torch.int32)
    _launch(scene, native, "prepare", gaussians, (records, boxes, counts))
    return records, boxes, counts


class _Lists:
    """The Gaussians of each bin in ascending order."""

    def __init__(self, scene: Scene, native: NativeScene, boxes: Tensor, counts: Tensor) -> None:
        bins = scene.mu.shape[0] * math.prod(-(-side // _BIN) for side in scene.canvas)
        key_type, kernel = (torch.int16, "emit_short") if bins < 2**15 else (torch.int32, "emit_int")
        self.ends = counts.cumsum(0)
        """Running sum of the entries of each Gaussian."""
        # Without a capacity the number of entries is read back: the backend's one wait for the device.
        self.capacity = int(self.ends[-1]) if scene.capacity is None else scene.capacity
        keys = counts.new_full((self.capacity,), bins, dtype=key_type)  # unused places sort behind every bin
        members = counts.new_empty(self.capacity)
        _launch(scene, native, kernel, counts.numel(), (boxes, self.ends, c_int64(self.capacity), keys, members))
        keys, order = keys.sort(stable=True)
        self.members = members[order]
        self.starts = torch.searchsorted(keys, torch.arange(bins + 1, dtype=key_type, device=keys.device))
        """Where the list of each bin starts, and where the last ends."""


def _launch(scene: Scene, native: NativeScene, name: str, threads: int, arguments: Sequence[Argument]) -> None:
    device = scene.mu.device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        module, stream = _target(device, native.channels)
        grid = (-(-threads // _THREADS), 1, 1)
        module.launch(f"asrbench_{name}", grid, _THREADS, (native, *arguments), stream)


def _target(device: torch.device, channels: int) -> tuple[Module, int]:
    """The kernels on a device, and its current stream's handle."""
    module = _driver().module(_image(torch.cuda.get_device_capability(device), channels), device.index)
    return module, torch.cuda.current_stream(device).cuda_stream


@cache
def _driver() -> Driver:
    return Driver()


@cache
def _image(capability: tuple[int, int], channels: int) -> bytes:
    return kernel_image(*capability, channels)
