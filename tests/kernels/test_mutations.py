"""Faults planted into the kernels' sources: each has to be noticed by a comparison like those of the other tests."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest
import torch
from native_cases import SOURCES, Emulator, both, compile_source, errors, gaussians, scene, truth

from kernels import cuda, host
from kernels.build import HostLibrary
from kernels.driver import DriverError

IMAGE, GRADIENTS = 3e-6, 1e-5


class Fault(NamedTuple):
    """Texts to replace in files of the sources, each (file, old, new), and what the verdict has to name."""

    edits: tuple[tuple[str, str, str], ...]
    seen: str


def fault(file, old, new, seen="wrong"):
    return Fault(((file, old, new),), seen)


PATCH = "  Patch<PatchOfWarp, C> patch = {};"
SUMS = "  Sums<L, C> sums = {};"
INSIDE = "const auto inside = (row >= box.y0()) & (row <= box.y1());"
SHAPE = "scaled / sigma_x,\n          -rho * scaled / sigma_y,\n          S / sigma_y,"
SWAPPED = "scaled / sigma_y,\n          -rho * scaled / sigma_x,\n          S / sigma_x,"

ON_GPU = {
    "a short tree of shuffles": fault("lanes.h", "step > 0; step /= 2", "step > 1; step /= 2"),
    "no broadcast": fault("lanes.h", "return __shfl_sync(0xffffffffu, value, lane);", "return value;"),
    "lanes off the image leave before the vote": fault(
        "device.cu", PATCH, f"  if (left + lane_index<32>() % SIDE >= scene.width) return;\n{PATCH}", "divergent warp"
    ),
    "lanes without a Gaussian leave before the sum": fault(
        "device.cu", SUMS, f"  if (group > last) return;\n{SUMS}", "divergent warp"
    ),
    "a hit of the last lane is dropped": fault("gaussians.h", "hits &= hits - 1;", "hits &= (hits - 1) & 0x7fffffffu;"),
    "hits in descending order": Fault(
        (
            ("lanes.h", "return __ffs((int)bits) - 1;", "return 31 - __builtin_clz(bits);"),
            ("gaussians.h", "hits &= hits - 1;", "hits &= ~(1u << lowest_bit(hits));"),
        ),
        "wrong order",
    ),
    "rows beyond the box": fault("gaussians.h", INSIDE, "const auto inside = row >= 0;"),
    "columns before the box": fault("gaussians.h", "select(column >= box.x0(),", "select(column >= 0,"),
    "bins of the first image": fault("device.cu", "(Key)(first_bin + y * bins_x + x)", "(Key)(y * bins_x + x)"),
    "swapped sigmas": fault("gaussians.h", SHAPE, SWAPPED),
    "swapped sigmas of the box": fault("gaussians.h", "touched<G>(mu_y, sigma_y,", "touched<G>(mu_y, sigma_x,"),
    "swapped sigmas of a gradient": fault("gaussians.h", "rho * q * t_uv) / sigma_y", "rho * q * t_uv) / sigma_x"),
    "a window without its first edge": fault(
        "gaussians.h", "round_up(center - reach)", "1.0f + round_down(center - reach)"
    ),
    "a window without its last edge": fault(
        "gaussians.h", "round_down(center + reach)", "round_up(center + reach) - 1.0f"
    ),
    "1 - rho^2": fault("gaussians.h", "free = (1.0f - rho) * (1.0f + rho)", "free = 1.0f - rho * rho"),
    "1 - rho^2 in a gradient": fault("gaussians.h", "root((1.0f - rho) * (1.0f + rho))", "root(1.0f - rho * rho)"),
    "the other sign of b": fault("gaussians.h", "-rho * scaled / sigma_y", "rho * scaled / sigma_y"),
    "a moment of the wrong axis": fault("gaussians.h", "fused(t_u, v, sums.t_uv)", "fused(t_v, v, sums.t_uv)"),
}
ON_CPU = {
    "a short tree": fault("lanes.h", "group_sum<G / 2>(half[0] + half[1])", "group_sum<G / 2>(half[0])"),
    "a table without its last row": fault("host.cpp", "y0 + MAX_TABLE_ROWS - 1 :", "y0 + MAX_TABLE_ROWS - 2 :"),
    "a band without its last row": fault("host.cpp", "box.y1() : bottom - 1;", "box.y1() : bottom - 2;"),
    "a block without its last Gaussian": fault(
        "host.cpp", "for (int m = 0; m < members; ++m) {", "for (int m = 0; m < members && m < BLOCK - 1; ++m) {"
    ),
    "columns beyond the box": fault("gaussians.h", "select(column <= x1,", "select(column <= x1 + 1,"),
    "1 - rho^2": ON_GPU["1 - rho^2"],
}


def windowed():
    """Every edge of a box is one of its window, half of them on pixels; images of two sizes, several bins."""
    mu, sigma, rho, color = gaussians(71, (21, 43), batch=2, spread=(2, 9))
    sizes, window = ((21, 30), (13, 43)), ((2.0, 3.5), (3.5, 2.0))
    return scene([(2 * mu).round() / 2, sigma, rho, color], (21, 43), sizes=sizes, window=window)


def whole():
    """Boxes of the cut-off. 1 - |rho| is about 2e-4 for some: there 1 - rho^2 loses most, 6e-5 of its value."""
    mu, sigma, rho, color = gaussians(33, (9, 43))
    rho[:, ::3] = 1 - 10 ** (-3.5 - 0.5 * rho[:, ::3].abs())
    return scene([mu, sigma, rho, color], (9, 43))


def tall():
    return scene(gaussians(5, (150, 3), spread=(20, 90)), (150, 3))


def ordered():
    """As many on one pixel as several groups and blocks hold; only in the order of the Gaussians 1 is left."""
    color = torch.tensor([*(2.0**27, -(2.0**27)) * 100, 1.0])[None, :, None].expand(1, -1, 3)
    mu, sigma = torch.full((1, 201, 2), 3.0), torch.full((1, 201, 2), 0.01)
    return scene([mu, sigma, torch.zeros(1, 201), color], (5, 5))


@pytest.fixture(scope="module")
def compared():
    """Scenes with their truths."""
    return [(drawn, truth(drawn)) for drawn in (windowed(), whole(), tall())]


def verdict(backend, compared):
    """What is seen first, or "right"."""
    try:
        for drawn, exact in compared:
            image, *gradients = (error for error, _ in errors(both(backend, drawn), exact))
            if not (image <= IMAGE and max(gradients) <= GRADIENTS):
                return f"wrong: {image:.0e}, gradients {' '.join(f'{error:.0e}' for error in gradients)}"
        in_order = abs(backend.render(ordered()).sum().item() - 3) < 1e-5
        return "right" if in_order else "wrong order"
    except DriverError as error:
        return str(error)


def planted(planted_fault, folder):
    """A copy of the sources with the fault."""
    sources = shutil.copytree(SOURCES, folder / "source")
    for file, old, new in planted_fault.edits:
        text = (sources / file).read_text()
        assert text.count(old) == 1, f"{file} has changed: {old!r} occurs {text.count(old)} times"
        (sources / file).write_text(text.replace(old, new))
    return sources


NONE = Fault((), "right")
QUICK = list(ON_GPU)[:4]


def names(faults):
    """Of the tests; those beyond a few seconds are slow."""
    return ["none", *(name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in faults)]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", names(ON_GPU))
def test_the_gpu_backend(name, compared, tmp_path, monkeypatch):
    this = ON_GPU.get(name, NONE)
    monkeypatch.setattr(cuda, "_target", Emulator(tmp_path, planted(this, tmp_path)).target)
    assert this.seen in verdict(cuda, compared)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", names(ON_CPU))
def test_the_cpu_backend(name, compared, tmp_path, monkeypatch):
    this = ON_CPU.get(name, NONE)
    sources = planted(this, tmp_path)
    path = compile_source(sources / "host.cpp", tmp_path / "host.so", sources)
    monkeypatch.setattr(host, "_found", lambda: HostLibrary(path, "planted"))
    library = host.library.__wrapped__()
    monkeypatch.setattr(host, "library", lambda: library)
    assert this.seen in verdict(host, compared)
