from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bench import metrics, perceptual
from bench.metrics import METRICS, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from methods.errors import UserError

PARITY = Path(__file__).parents[1] / "parity" / "metrics"
TABLE = json.loads((PARITY / "psnr-ssim.json").read_text())
PERCEPTUAL = json.loads((PARITY / "lpips-dists.json").read_text())


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    with np.load(PARITY / "pairs.npz") as arrays:
        return dict(arrays)


def noisy(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hr = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.clip(hr + rng.normal(0, 20, hr.shape), 0, 255).astype(np.uint8), hr


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: f"{case['pair']}-{case['crop_border']}")
def test_gsasr_parity(case: dict[str, Any], pairs: dict[str, np.ndarray]) -> None:
    images = pairs[case["pair"] + "_sr"], pairs[case["pair"] + "_gt"]
    for function in (psnr_y, psnr_rgb, ssim_y, ssim_rgb):
        assert function(*images, case["crop_border"]) == pytest.approx(case[function.__name__], abs=1e-10, rel=0)


@pytest.mark.parametrize("case", TABLE["liif_family"]["cases"], ids=lambda case: f"{case['pair']}-{case['mode']}")
def test_liif_parity(case: dict[str, Any], pairs: dict[str, np.ndarray]) -> None:
    images = pairs[case["pair"] + "_sr"] / 255, pairs[case["pair"] + "_gt"] / 255
    function = psnr_rgb if case["mode"] == "div2k" else psnr_y
    assert function(*images, case["shave"]) == pytest.approx(case["psnr"], abs=1e-9, rel=0)


@settings(deadline=None, max_examples=20)
@given(height=st.integers(17, 90), width=st.integers(17, 90), border=st.integers(0, 3))
def test_scikit_image_agrees(height: int, width: int, border: int) -> None:
    sr, hr = noisy(height, width, height * width)
    inner = slice(border, height - border), slice(border, width - border)
    expected = peak_signal_noise_ratio(hr[inner], sr[inner])
    assert psnr_rgb(sr, hr, border) == pytest.approx(expected, abs=1e-9)
    luma = [(image[inner] / 255) @ [65.481, 128.553, 24.966] + 16 for image in (sr, hr)]
    _, similarity = structural_similarity(
        *luma, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True
    )
    assert ssim_y(sr, hr, border) == pytest.approx(similarity[5:-5, 5:-5].mean(), abs=1e-7)


def test_float_images_score_like_8bit_ones() -> None:
    sr, hr = noisy(40, 50)
    for function, tolerance in ((psnr_y, 1e-4), (psnr_rgb, 1e-9), (ssim_y, 1e-7), (ssim_rgb, 1e-9)):
        assert function(sr / 255, hr / 255, 3) == pytest.approx(function(sr, hr, 3), abs=tolerance)


def test_by_hand() -> None:
    """White against black: Y differs by 219 of 255, each channel by the whole range."""
    white, black = np.full((12, 12, 3), 255, np.uint8), np.zeros((12, 12, 3), np.uint8)
    assert psnr_rgb(white, black, 0) == 0
    assert psnr_y(white, black, 0) == pytest.approx(20 * math.log10(255 / 219), abs=1e-6)


def test_identical_images() -> None:
    image = noisy(20, 20)[1]
    assert psnr_y(image, image, 2) == psnr_rgb(image, image, 2) == math.inf
    assert ssim_y(image, image, 2) == pytest.approx(1, abs=1e-12)


def test_too_small_images() -> None:
    image = noisy(14, 40)[1]
    with pytest.raises(UserError, match="40x14 pixels is too small to score"):
        ssim_y(image, image, 2)
    with pytest.raises(UserError, match="without a border of 7"):
        psnr_y(image, image, 7)


def test_different_images_are_a_bug() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr_y(noisy(20, 20)[0], noisy(20, 21)[1], 0)


def test_registry() -> None:
    assert list(METRICS) == ["psnr_y", "ssim_y", "lpips", "dists", "psnr_rgb"]
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.function is getattr(metrics, name)
        assert metric.identity()
    assert METRICS["psnr_y"].availability() is None


def random_trunk(name: str, dtype: Any) -> dict[str, Any]:
    """The regenerable stand-in for ImageNet weights that the parity cases prescribe."""
    torch = pytest.importorskip("torch")
    state = {}
    for key, shape in PERCEPTUAL["backbone"][name].items():
        normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        gain = 2 * (0.7 / math.sqrt(math.prod(shape[1:]))) if len(shape) == 4 else 0.1
        state[key] = torch.from_numpy((normal * gain).astype(np.float32)).to(dtype)
    return state


PERCEPTUAL_NETWORKS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "lpips_alex": ("lpips", "alexnet", perceptual.build_lpips),
    "lpips_vgg": ("lpips", "vgg16", lambda trunk: perceptual.build_lpips(trunk, "vgg")),
    "dists": ("DISTS_pytorch", "vgg16", perceptual.build_dists),
}


@pytest.mark.parametrize("precision", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["lpips_alex", "dists", pytest.param("lpips_vgg", marks=pytest.mark.slow)])
def test_perceptual_parity(name: str, precision: str, pairs: dict[str, np.ndarray]) -> None:
    package, trunk, build = PERCEPTUAL_NETWORKS[name]
    torch = pytest.importorskip("torch")
    pytest.importorskip(package)
    dtype = getattr(torch, precision)
    network = build(random_trunk(trunk, dtype)).to(dtype)
    for case in PERCEPTUAL["cases"]:
        images = [pairs[case["pair"] + end] / 255 for end in ("_sr", "_gt")]
        images = images if name == "dists" else [2 * image - 1 for image in images]
        expected = case["expected" if precision == "float64" else "expected_float32"][name]
        tolerance = {"rel": 1e-6, "abs": 0} if precision == "float64" else {"rel": 1e-5, "abs": 2e-6}
        assert perceptual.distance(network, *images) == pytest.approx(expected, **tolerance)


def test_missing_trunk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips")
    monkeypatch.setenv("ASRBENCH_TRUNKS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    reason = METRICS["lpips"].availability()
    assert reason is not None
    assert "alexnet-owt-7be5be79.pth" in reason
    assert str(tmp_path) in reason
    perceptual.lpips_network.cache_clear()
    with pytest.raises(UserError, match="alexnet-owt-7be5be79"):
        metrics.lpips(*noisy(40, 40), 2)


def test_damaged_trunk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("DISTS_pytorch")
    monkeypatch.setenv("ASRBENCH_TRUNKS", str(tmp_path))
    (tmp_path / perceptual.TRUNK_FILES["vgg16"]).write_bytes(b"not weights")
    assert "SHA-256 does not begin as its name says" in (METRICS["dists"].availability() or "")


def test_absent_packages_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert "pip install" in (METRICS["lpips"].availability() or "")
    assert "DISTS-pytorch" in (METRICS["dists"].availability() or "")


def test_trunk_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: dict[str, np.ndarray]) -> None:
    """The whole way from a weight file to a score, with a file whose name fits its content."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("lpips")
    torch.save(random_trunk("alexnet", torch.float32), tmp_path / "trunk.pth")
    digest = perceptual._sha256(tmp_path / "trunk.pth")[:8]
    name = f"alexnet-owt-{digest}.pth"
    (tmp_path / "trunk.pth").rename(tmp_path / name)
    monkeypatch.setitem(perceptual.TRUNK_FILES, "alexnet", name)
    monkeypatch.setenv("ASRBENCH_TRUNKS", str(tmp_path))
    perceptual.lpips_network.cache_clear()
    case = PERCEPTUAL["cases"][0]
    score = metrics.lpips(pairs[case["pair"] + "_sr"], pairs[case["pair"] + "_gt"], 0)
    perceptual.lpips_network.cache_clear()
    assert score == pytest.approx(case["expected_float32"]["lpips_alex"], rel=1e-5)
    with pytest.raises(UserError, match="31x31 must be left"):
        metrics.lpips(*noisy(34, 60), 2)
