"""Set means of bicubic upsampling, against BasicSR's: the whole chain from HR files to scores, without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from bench.data import DATA_ROOT_VARIABLE, find_dataset
from bench.images import read_image
from bench.metrics import psnr_y, ssim_y
from bench.parity.cases import Array, CannotRun, Case, Check
from bench.protocol import get
from bench.resize import resize, to_uint8

_TOLERANCES = {"psnr": 1e-3, "ssim": 1e-5}


def check_bicubic(case: Case) -> list[Check]:
    """PSNR and SSIM of Y per set and scale, under the GSASR protocol."""
    if not os.environ.get(DATA_ROOT_VARIABLE):
        raise CannotRun(f"needs the test sets: set {DATA_ROOT_VARIABLE} to their folder")
    return [check for line in case.spec["lines"] for check in _check_set(line)]


def _check_set(line: dict[str, str]) -> Iterator[Check]:
    scale, source = float(line["scale"]), line["upsampled_from"]
    images = (read_image(ref.path) for ref in find_dataset(line["dataset"]).images(scale))
    scores = np.mean([_scores(image, scale, source == "uint8_lr") for image in images], axis=0)
    for (name, tolerance), score in zip(_TOLERANCES.items(), scores, strict=True):
        place = f"{name} of {line['dataset']} ×{scale:g}, from {source}"
        yield Check(place, abs(float(score) - float(line[name])), tolerance)


def _scores(hr: Array, scale: float, stored: bool) -> tuple[float, float]:
    """PSNR and SSIM; only `stored` LR is cut to whole blocks and to 8 bits; the published bicubic files use neither."""
    protocol = get("gsasr")
    gt_size, lr_size = protocol.sizes((hr.shape[0], hr.shape[1]), scale)
    gt = hr[: gt_size[0], : gt_size[1]]
    lr = resize((gt if scale.is_integer() else hr).astype(np.float32) / np.float32(255), 1 / scale)
    if stored:
        lr = to_uint8(lr[: lr_size[0], : lr_size[1]]).astype(np.float32) / np.float32(255)
    sr, border = to_uint8(resize(lr, scale, out_size=gt_size)), protocol.border(scale)
    return psnr_y(sr, gt, border), ssim_y(sr, gt, border)
