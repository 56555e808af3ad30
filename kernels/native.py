"""A scene as the kernels' source reads it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from kernels.scene import Scene

CHANNELS = 4
"""Most channels summed together; more are summed in groups."""


class NativeScene(ctypes.Structure):
    """Mirror of `Scene` in source/gaussians.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("mu", "sigma", "rho", "color", "sizes", "windows")),
        *((name, c_int64) for name in ("batch", "count")),
        *((name, c_int32) for name in ("height", "width", "all_channels", "first_channel", "channels")),
        *((name, c_float) for name in ("window_y", "window_x", "k")),
    )

    keep: tuple[Tensor, ...]
    """Tensors that only the addresses above refer to."""


def native_scene(scene: Scene) -> NativeScene:
    """Describe a scene by addresses; valid as long as the scene and the result live."""
    device = scene.mu.device
    window_y, window_x = (scene.window or ((math.inf, math.inf),))[0]
    sizes = torch.tensor(scene.sizes, dtype=torch.int32, device=device) if scene.sizes else None
    uniform = scene.window is None or len(scene.window) == 1
    windows = None if uniform else torch.tensor(scene.window, dtype=torch.float32, device=device)
    native = NativeScene(
        *(value.data_ptr() for value in (scene.mu, scene.sigma, scene.rho, scene.color)),
        *(None if value is None else value.data_ptr() for value in (sizes, windows)),
        *(*scene.rho.shape, *scene.canvas, scene.color.shape[-1], 0, 0, window_y, window_x),
        math.sqrt(2 * scene.cutoff),
    )
    native.keep = tuple(value for value in (sizes, windows) if value is not None)
    return native


def channel_groups(native: NativeScene) -> Iterator[NativeScene]:
    """Set the scene to one group of channels after the other."""
    for first in range(0, native.all_channels, CHANNELS):
        native.first_channel, native.channels = first, min(CHANNELS, native.all_channels - first)
        yield native
