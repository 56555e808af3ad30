"""The additive 2D Gaussian rasterizer, usable without the rest of the suite: `from kernels import rasterize`."""

from kernels.backends import BACKEND_VARIABLE, BackendError, BackendWarning, Choice, available_backends, choose
from kernels.coordinates import dmax_to_window, from_kernel_units, from_unit, raster_ratio_to_window
from kernels.rasterize import rasterize

__all__ = [
    "BACKEND_VARIABLE",
    "BackendError",
    "BackendWarning",
    "Choice",
    "available_backends",
    "choose",
    "dmax_to_window",
    "from_kernel_units",
    "from_unit",
    "raster_ratio_to_window",
    "rasterize",
]
