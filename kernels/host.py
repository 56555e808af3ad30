"""The CPU backend: the kernels' source compiled for this processor and called through ctypes.

Forward: lists of the Gaussians that touch each band of rows, then band by band in the order of the lists. Backward: each
Gaussian gathers from its own box. Every phase runs on `torch.get_num_threads()` threads that take tasks off a counter;
tasks are cut by sizes alone, so results are equal bit for bit whatever the number of threads or images.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, byref, c_float, c_int32, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.build import host_library
from kernels.scene import Scene

_CHANNELS = 4
"""Channels drawn together; more are drawn in groups."""
_BANDS = 16
"""Bands of an image: enough for the threads to share, few enough that Gaussians seldom touch two."""
_BAND_ROWS = (16, 64)
"""Fewest and most rows of a band."""


class _Scene(ctypes.Structure):
    """Mirror of `Scene` in host.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("mu", "sigma", "rho", "color", "sizes", "windows")),
        *((name, c_int64) for name in ("batch", "count")),
        *((name, c_int32) for name in ("height", "width", "all_channels", "first_channel", "channels")),
        ("k", c_float),
    )


class _Lists(ctypes.Structure):
    """Mirror of `Lists` in host.cpp."""

    _fields_ = (
        *((name, c_int32) for name in ("bands", "band_rows")),
        ("slices", c_int64),
        *((name, c_void_p) for name in ("offsets", "rows", "members")),
    )


class _Outputs(ctypes.Structure):
    """Mirror of `Outputs` in host.cpp."""

    _fields_ = tuple((name, c_void_p) for name in ("mu", "sigma", "rho", "color"))


@cache
def library() -> ctypes.CDLL:
    """Load the compiled kernels, building them if need be.

    Raises:
        BuildError: there is no library for this processor and none can be built.
    """
    loaded = ctypes.CDLL(str(host_library().path))
    loaded.asrbench_slices.argtypes, loaded.asrbench_slices.restype = (c_int64,), c_int64
    loaded.asrbench_buffer_floats.argtypes, loaded.asrbench_buffer_floats.restype = (c_int32,) * 3, c_int64
    loaded.asrbench_accumulate.restype = c_int64
    return loaded


def origin() -> str:
    """Say where the library came from."""
    return host_library().origin


def render(scene: Scene) -> Tensor:
    """Draw the scene on the CPU. Returns (B, C, H, W) float32."""
    (height, width), channels = scene.canvas, scene.color.shape[-1]
    image = torch.empty(scene.mu.shape[0], channels, height, width)
    inputs, _keep = _inputs(scene)
    if not image.numel() or not inputs.count:
        return image.zero_()
    lists, _kept = _lists(inputs, height)
    for first in range(0, channels, _CHANNELS):
        inputs.first_channel, inputs.channels = first, min(_CHANNELS, channels - first)
        _run(lambda turn: _draw(inputs, lists, image, turn), inputs.batch * lists.bands)
    return image


def gradients(scene: Scene, grad_image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of mu, sigma, rho and color for the upstream gradient (B, C, H, W)."""
    grads = tuple(torch.zeros_like(value) for value in (scene.mu, scene.sigma, scene.rho, scene.color))
    mu, sigma, rho, color = grads
    inputs, _keep = _inputs(scene)
    if not rho.numel():
        return mu, sigma, rho, color
    upstream = pad(grad_image.float(), (0, library().asrbench_lanes())).contiguous()
    outputs = _Outputs(*(grad.data_ptr() for grad in grads))
    for first in range(0, inputs.all_channels, _CHANNELS):
        inputs.first_channel, inputs.channels = first, min(_CHANNELS, inputs.all_channels - first)
        _run(
            lambda turn: library().asrbench_gather(
                byref(inputs), c_void_p(upstream.data_ptr()), c_int64(upstream.shape[-1]), byref(outputs), turn
            ),
            inputs.batch * library().asrbench_slices(inputs.count),
        )
    return mu, sigma, rho, color


def _inputs(scene: Scene) -> tuple[_Scene, list[Tensor]]:
    """The scene as the library reads it, and the tensors that must outlive it."""
    batch, count = scene.rho.shape
    windows = torch.tensor(scene.window or [(math.inf, math.inf)], dtype=torch.float32).expand(batch, 2).contiguous()
    sizes = None if scene.sizes is None else torch.tensor(scene.sizes, dtype=torch.int32)
    inputs = _Scene(
        *(value.data_ptr() for value in (scene.mu, scene.sigma, scene.rho, scene.color)),
        None if sizes is None else sizes.data_ptr(),
        windows.data_ptr(),
        *(batch, count, *scene.canvas, scene.color.shape[-1], 0, min(_CHANNELS, scene.color.shape[-1])),
        math.sqrt(2 * scene.cutoff),
    )
    return inputs, [windows] if sizes is None else [windows, sizes]


def _lists(inputs: _Scene, height: int) -> tuple[_Lists, list[Tensor]]:
    """The Gaussians of each band in ascending order, and the tensors that hold them."""
    band_rows = min(max(-(-height // _BANDS), _BAND_ROWS[0]), _BAND_ROWS[1])
    bands, slices = -(-height // band_rows), library().asrbench_slices(inputs.count)
    offsets = torch.empty(inputs.batch * bands * slices, dtype=torch.int64)
    rows = torch.empty(inputs.batch * inputs.count, dtype=torch.int32)
    lists = _Lists(bands, band_rows, slices, offsets.data_ptr(), rows.data_ptr(), None)
    tasks = inputs.batch * slices
    _run(lambda turn: library().asrbench_count(byref(inputs), byref(lists), turn), tasks)
    members = torch.empty(library().asrbench_accumulate(byref(inputs), byref(lists)), dtype=torch.int32)
    lists.members = members.data_ptr()
    _run(lambda turn: library().asrbench_fill(byref(inputs), byref(lists), turn), tasks)
    return lists, [offsets, rows, members]


def _draw(inputs: _Scene, lists: _Lists, image: Tensor, turn: object) -> None:
    buffer = torch.empty(library().asrbench_buffer_floats(lists.band_rows, inputs.channels, inputs.width))
    library().asrbench_draw(
        byref(inputs), byref(lists), c_void_p(buffer.data_ptr()), c_void_p(image.data_ptr()), turn
    )


def _run(phase: Callable[[object], None], tasks: int) -> None:
    """Call phase(counter) on as many threads as torch uses; each returns when the counter has passed the last task."""
    counter = c_int64(0)
    threads = min(torch.get_num_threads(), tasks)
    others = [_pool(os.getpid(), threads - 1).submit(phase, byref(counter)) for _ in range(threads - 1)]
    phase(byref(counter))
    for other in others:
        other.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process: a fork inherits none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="rasterizer")
