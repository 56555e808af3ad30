"""The weights of parity cases: nobody stores them, everybody can make them again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def fill(key: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """The tensor that stands for the state-dict entry `key`, bit for bit the same on every machine.

    Matrices and kernels are normal with deviation 0.7 / sqrt(fan in), the fan in being the product of all axes but the
    first; one-dimensional weights are 1 + 0.1 n, running variances 1 + 0.1 |n|, everything else 0.1 n.
    """
    # RandomState is the generator that NumPy has frozen; the cases were made with it.
    normal = np.asarray(np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape)))
    if normal.ndim >= 2:
        values = normal * (0.7 / math.sqrt(math.prod(shape[1:])))
    elif key.endswith("running_var"):
        values = 1 + 0.1 * np.abs(normal)
    elif key.endswith("weight"):
        values = 1 + 0.1 * normal
    else:
        values = 0.1 * normal
    return np.asarray(values, dtype=np.float32)
