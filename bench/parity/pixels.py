"""Cases of the evaluation itself: PSNR and SSIM, resizing, perceptual distances."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.metrics import psnr_rgb, psnr_y, ssim_rgb, ssim_y
from bench.parity.cases import Array, CannotRun, Case, Check
from bench.parity.weights import fill
from bench.perceptual import build_dists, build_lpips, distance
from bench.resize import resize, to_uint8

_SCORES = {"psnr_y": psnr_y, "ssim_y": ssim_y, "psnr_rgb": psnr_rgb, "ssim_rgb": ssim_rgb}
_RELATIVE = 1e-6
"""Of float64 distances; the packages hold their constants in float32."""


def check_scores(case: Case) -> list[Check]:
    """PSNR and SSIM of 8-bit pairs as GSASR computes them, and of the same pairs as the LIIF family does."""
    pairs, checks = case.arrays_of("pairs.npz"), []
    for entry in case.spec["cases"]:
        sr, hr = _images(pairs, entry["pair"])
        for name in _SCORES.keys() & entry.keys():
            error = abs(_SCORES[name](sr, hr, entry["crop_border"]) - entry[name])
            place = f"{name} of pair {entry['pair']}, border {entry['crop_border']}"
            checks.append(Check(place, error, case.spec["tolerance"][name.partition("_")[0]]))
    family = case.spec.get("liif_family", {"cases": []})
    for entry in family["cases"]:
        sr, hr = (image / 255 for image in _images(pairs, entry["pair"]))
        score = psnr_y if entry["mode"] == "benchmark" else psnr_rgb
        place = f"LIIF's {entry['mode']} PSNR of pair {entry['pair']}"
        checks.append(Check(place, abs(score(sr, hr, entry["shave"]) - entry["psnr"]), family["tolerance"]["psnr"]))
    return checks


def check_imresize(case: Case) -> list[Check]:
    """BasicSR's resize: before rounding, and how many 8-bit samples differ (none by more than 1)."""
    checks = []
    for entry in case.spec["cases"]:
        name, scale = entry["name"], entry["scale"]
        image, out, rounded = (case.arrays[f"{name}_{part}"] for part in ("in", "out", "out_u8"))
        ours = resize(image.astype(np.float32) / np.float32(255), scale)
        # The reference holds positions in float32, which shows where the ratio is not a whole number.
        whole = any(abs(ratio - round(ratio)) < 1e-9 for ratio in (scale, 1 / scale))
        checks.append(Check(f"{name}, float32", _largest(ours, out), 1e-6 if whole else 1e-5))
        levels = np.abs(to_uint8(ours).astype(int) - rounded)
        checks.append(Check(f"{name}, share of differing 8-bit samples", float((levels > 0).mean()), 1e-3))
        checks.append(Check(f"{name}, 8-bit levels", float(levels.max()), 1))
    return checks


def check_matlab(case: Case) -> list[Check]:
    """MATLAB's resize of 8-bit images, every sample."""
    checks = []
    for entry in case.spec["cases"]:
        rows, columns = entry["valid_lr"]
        hr, lr = case.arrays[f"{entry['name']}_hr"], case.arrays[f"{entry['name']}_lr"]
        ours = resize(hr, 1 / entry["scale"], variant="matlab")
        checks.append(Check(f"{entry['name']}, 8-bit levels", _largest(ours[:rows, :columns], lr[:rows, :columns]), 0))
    return checks


def check_perceptual(case: Case) -> list[Check]:
    """LPIPS and DISTS in float64 with regenerated trunks and the packages' heads."""
    missing = [name for name in ("lpips", "DISTS_pytorch", "torchvision") if find_spec(name) is None]
    if missing:
        raise CannotRun(f"needs {' and '.join(missing)}: pip install 'asrbench[perceptual]'")
    trunks = {name: _trunk(case.spec["backbone"][name]) for name in ("alexnet", "vgg16")}
    networks = {
        "lpips_alex": (build_lpips(trunks["alexnet"], "alex").double(), 2),
        "lpips_vgg": (build_lpips(trunks["vgg16"], "vgg").double(), 2),
        "dists": (build_dists(trunks["vgg16"]).double(), 1),
    }
    pairs, checks = case.arrays_of("pairs.npz"), []
    for entry in case.spec["cases"]:
        images = [image / 255 for image in _images(pairs, entry["pair"])]
        for name, (network, span) in networks.items():
            sr, hr = (image * span - (span - 1) for image in images)
            expected = entry["expected"][name]
            error = abs(distance(network, sr, hr) - expected) / expected
            checks.append(Check(f"{name} of pair {entry['pair']}", error, _RELATIVE))
    return checks


def _trunk(shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    import torch

    weights = {key: fill(key, shape) * (2 if len(shape) == 4 else 1) for key, shape in shapes.items()}
    return {key: torch.from_numpy(value).double() for key, value in weights.items()}


def _images(pairs: Mapping[str, Array], pair: str) -> tuple[Array, Array]:
    return pairs[f"{pair}_sr"], pairs[f"{pair}_gt"]


def _largest(ours: Array, reference: Array) -> float:
    return float(np.abs(ours.astype(np.float64) - reference).max())
