"""What docs/ shows of the rasterizer: its example fits a photograph, and its snippets and numbers hold."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio

from kernels import choose

DOCUMENT = Path(__file__).parents[1] / "docs" / "rasterizer.md"
SCRIPT = DOCUMENT.parent / "examples" / "fit_photograph.py"
SMALL = ["--gaussians", "200", "--steps", "30"]
FILES = ["final.png", "fit.gif", "psnr.csv", "psnr.png"]
pytestmark = pytest.mark.filterwarnings("ignore:The host rasterizer cannot run here")


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")  # the script sets it, too late here and for the rest of the tests
        return load_script("fit_photograph")


@pytest.fixture
def photograph(tmp_path) -> Path:
    path = tmp_path / "photograph.png"
    Image.fromarray(astronaut()).resize((48, 48)).save(path)
    return path


def curve(folder: Path) -> np.ndarray:
    """PSNR of every step."""
    steps, psnr = np.loadtxt(folder / "psnr.csv", delimiter=",", skiprows=1, unpack=True)
    assert steps.tolist() == list(range(len(steps)))
    return psnr


def test_a_fit_gets_better_and_leaves_its_files(example, photograph, tmp_path, capsys):
    out = tmp_path / "new" / "fit"
    example.main([str(photograph), *SMALL, "--out", str(out)])
    assert sorted(file.name for file in out.iterdir()) == FILES
    psnr = curve(out)
    assert len(psnr) == 31
    assert psnr[-1] > psnr[0] + 8
    final, own = np.array(Image.open(out / "final.png")), np.array(Image.open(photograph))
    # Eight bits cost little, and clamping can only help.
    assert peak_signal_noise_ratio(own, final) == pytest.approx(psnr[-1], abs=0.3)
    with Image.open(out / "fit.gif") as progress:
        assert progress.n_frames > 10
        assert progress.size == (256, 256)
    printed = capsys.readouterr().out
    assert f"rasterizer: {choose().name}" in printed
    assert f"{psnr[-1]:.2f} dB" in printed.splitlines()[-1]


def test_the_seed_decides_every_byte(example, photograph, tmp_path):
    for name, seed in (("first", "3"), ("again", "3"), ("other", "4")):
        example.main([str(photograph), *SMALL, "--seed", seed, "--out", str(tmp_path / name)])
    first, again, other = (
        [(tmp_path / name / file).read_bytes() for file in FILES] for name in ("first", "again", "other")
    )
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_dense_specification_gives_the_same_fit(example, photograph, capsys):
    target = torch.from_numpy(np.array(Image.open(photograph))).permute(2, 0, 1)[None] / 255
    fast, dense = (example.fit(target, 200, 30, backend=backend) for backend in ("auto", "reference"))
    assert np.abs(np.subtract(fast.psnr, dense.psnr)).max() < 1e-3
    example.main([str(photograph), *SMALL, "--compare"])
    assert "times as long; PSNR within" in capsys.readouterr().out


def test_an_absent_image_is_named_in_one_sentence(example, tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.main([str(tmp_path / "absent.png")])
    assert "absent.png" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.quiet
def test_a_third_of_the_default_fit_keeps_its_promise(tmp_path):
    if choose().name != "host" or torch.get_num_threads() < 2:
        pytest.skip("the promise is for compiled kernels on two cores")
    command = [sys.executable, SCRIPT, "--steps", "700", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(re.search(r"dB, ([0-9.]+) s,", done.stdout)[1]) < 42
    assert curve(tmp_path)[-1] > 37.8


def test_what_the_document_shows_runs():
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(block, DOCUMENT.name, "exec"), names)
    assert names["color"].grad.abs().max() > 0
    assert names["images"].shape == (2, 3, 96, 64)


def test_the_documents_table_of_errors(capsys):
    load_script("cutoff_error").main()
    printed, written = (table(text) for text in (capsys.readouterr().out, DOCUMENT.read_text(encoding="utf-8")))
    np.testing.assert_array_equal(printed[:, :2], written[:, :2])
    # What E = 14 and above leave is rounding, which differs among machines.
    np.testing.assert_allclose(printed[:5], written[:5], rtol=0.2)
    assert (printed[5:, 2] < 5e-6).all()


def table(text: str) -> np.ndarray:
    """Rows of seven numbers, E first."""
    rows = re.findall(r"^\| ([0-9.]+)(?: \(default\))? \|" + r" ([0-9.e-]+) \|" * 6 + "$", text, re.MULTILINE)
    assert len(rows) == 7
    return np.array(rows, dtype=float)
