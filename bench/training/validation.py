"""Validation: the evaluation protocol on whole images that training does not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from bench import protocol
from bench.metrics import psnr_y
from bench.pairs import make_pair
from methods.base import SRMethod


def validate(model: SRMethod, images: Mapping[str, NDArray[np.uint8]], scales: Sequence[float]) -> dict[str, float]:
    """Mean PSNR-Y in dB under the GSASR protocol, per scale."""
    means = (fmean(_score(model, image, scale) for image in images.values()) for scale in scales)
    return dict(zip(score_names(scales), means, strict=True))


def score_names(scales: Sequence[float]) -> list[str]:
    """What `validate` calls its results: `psnr_y_x2` and so on."""
    return [f"psnr_y_x{scale:g}" for scale in scales]


def _score(model: SRMethod, image: NDArray[np.uint8], scale: float) -> float:
    rules = protocol.get("gsasr")
    pair = make_pair(image, scale, rules)
    lr = torch.from_numpy(pair.lr).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        out = model(lr, pair.hr.shape[:2], scale)[0]
    sr = out.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return psnr_y(sr, pair.hr, rules.border(scale, "benchmark"))
