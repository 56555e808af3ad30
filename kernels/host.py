"""The CPU backend: the kernels' source compiled for this processor and called through ctypes.

Forward: lists of the Gaussians that touch each band of rows, then each band in the order of its list. Backward: each
Gaussian gathers from its own box. Every phase runs on `torch.get_num_threads()` threads that take tasks off a counter;
tasks are cut by sizes alone, so results are equal bit for bit whatever the number of threads or images.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_int32, c_int64, c_void_p
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.build import HostLibrary, host_library
from kernels.native import NativeScene, channel_groups, native_scene
from kernels.scene import Gradients, Scene

_BANDS = 16
"""Bands of an image: enough for the threads to share, few enough that Gaussians seldom touch two."""
_BAND_ROWS = (16, 64)
"""Fewest and most rows of a band."""


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
    loaded = ctypes.CDLL(str(_found().path))
    loaded.asrbench_slices.argtypes, loaded.asrbench_slices.restype = (c_int64,), c_int64
    loaded.asrbench_buffer_floats.argtypes, loaded.asrbench_buffer_floats.restype = (c_int32,) * 3, c_int64
    loaded.asrbench_accumulate.restype = c_int64
    return loaded


def origin() -> str:
    """Say where the library came from."""
    return _found().origin


@cache
def _found() -> HostLibrary:
    return host_library()


def render(scene: Scene) -> Tensor:
    """Draw the scene on the CPU. Returns (B, C, H, W) float32."""
    (height, width), channels = scene.canvas, scene.color.shape[-1]
    image = torch.empty(scene.mu.shape[0], channels, height, width)
    native = native_scene(scene)
    if not image.numel() or not native.count:
        return image.zero_()
    lists, _kept = _lists(native, height)
    for group in channel_groups(native):
        _run(partial(_draw, group, lists, image), native.batch * lists.bands)
    return image


def gradients(scene: Scene, grad_image: Tensor) -> Gradients:
    """Gradients of mu, sigma, rho and color for the upstream gradient (B, C, H, W)."""
    mu, sigma, rho, color = (torch.zeros_like(value) for value in (scene.mu, scene.sigma, scene.rho, scene.color))
    if not rho.numel():
        return mu, sigma, rho, color
    upstream = pad(grad_image.float(), (0, library().asrbench_lanes())).contiguous()
    outputs = _Outputs(*(grad.data_ptr() for grad in (mu, sigma, rho, color)))
    native = native_scene(scene)
    tasks = native.batch * library().asrbench_slices(native.count)
    for group in channel_groups(native):
        _run(partial(_gather, group, upstream, outputs), tasks)
    return mu, sigma, rho, color


def _lists(native: NativeScene, height: int) -> tuple[_Lists, list[Tensor]]:
    """The Gaussians of each band in ascending order, and the tensors that hold them."""
    band_rows = min(max(-(-height // _BANDS), _BAND_ROWS[0]), _BAND_ROWS[1])
    bands, slices = -(-height // band_rows), library().asrbench_slices(native.count)
    offsets = torch.empty(native.batch * bands * slices, dtype=torch.int64)
    rows = torch.empty(native.batch * native.count, dtype=torch.int32)
    lists = _Lists(bands, band_rows, slices, offsets.data_ptr(), rows.data_ptr(), None)
    tasks = native.batch * slices
    _run(lambda turn: library().asrbench_count(byref(native), byref(lists), turn), tasks)
    members = torch.empty(library().asrbench_accumulate(byref(native), byref(lists)), dtype=torch.int32)
    lists.members = members.data_ptr()
    _run(lambda turn: library().asrbench_fill(byref(native), byref(lists), turn), tasks)
    return lists, [offsets, rows, members]


def _draw(native: NativeScene, lists: _Lists, image: Tensor, turn: object) -> None:
    buffer = torch.empty(library().asrbench_buffer_floats(lists.band_rows, native.channels, native.width))
    places = (c_void_p(value.data_ptr()) for value in (buffer, image))
    library().asrbench_draw(byref(native), byref(lists), *places, turn)


def _gather(native: NativeScene, upstream: Tensor, outputs: _Outputs, turn: object) -> None:
    place, row = c_void_p(upstream.data_ptr()), c_int32(upstream.shape[-1])
    library().asrbench_gather(byref(native), place, row, byref(outputs), turn)


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
