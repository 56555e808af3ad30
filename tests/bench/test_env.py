"""What is recorded about a machine, and what `doctor` makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench import doctor as doctor_module
from bench import env, resources
from bench.doctor import doctor
from bench.resources import data_folder
from kernels import BACKEND_VARIABLE, available_backends, backends, choose
from methods.errors import UserError


def findings(check: str, **arguments: Path) -> list[tuple[str, str]]:
    return [(found.verdict, found.sentence) for found in doctor(**arguments) if found.check == check]


def test_capture_is_plain_data() -> None:
    captured = env.capture()
    assert json.loads(json.dumps(captured, allow_nan=False)) == captured
    assert captured["python"] == ".".join(map(str, sys.version_info[:3]))
    assert captured["cores"] >= 1
    assert captured["packages"]["pillow"]
    assert (captured["gpus"] == []) == (captured["gpus_reason"] is not None)


def test_capture_does_not_import_torch() -> None:
    code = "import sys, bench.env; bench.env.capture(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_torch_is_described_once_loaded() -> None:
    torch = pytest.importorskip("torch")
    described = env.torch_state()
    assert described is not None
    assert described["threads"] == torch.get_num_threads()


def test_likely_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(env, "package_version", lambda _: "2.9.0")
    monkeypatch.setattr(env, "nvidia_gpus", lambda: ([{"name": "H200"}], None))
    monkeypatch.setattr(env, "driver_visible", lambda: True)
    assert env.likely_device("auto") == "cuda"
    assert env.likely_device("cpu") == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert env.likely_device("auto") == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(env, "package_version", lambda _: "2.9.0+cpu")
    assert env.likely_device("auto") == "cpu"
    monkeypatch.setattr(env, "package_version", lambda _: "2.9.0")
    monkeypatch.setattr(env, "driver_visible", lambda: False)
    assert env.likely_device("auto") == "cpu"


def test_no_nvml_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert env.nvidia_gpus() == ([], "nvidia-ml-py is not installed")


def test_foreign_packages_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "bench" not in env.shadowed_packages()
    monkeypatch.setattr(env, "ROOT", tmp_path)
    assert set(env.shadowed_packages()) == set(env.OUR_PACKAGES)
    assert env.git_state() is None


def test_doctor_finds_the_embedded_photographs() -> None:
    pytest.importorskip("skimage")
    verdict, sentence = findings("embedded")[0]
    assert verdict == "ok"
    assert "skimage" in sentence


def test_doctor_looks_under_the_data_root(tmp_path: Path) -> None:
    assert findings("Set5", data_root=tmp_path)[0][0] == "note"
    assert findings("data root", data_root=tmp_path) == []


def test_doctor_reports_what_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert findings("results folder", out=tmp_path / "new" / "results")[0][0] == "ok"
    assert findings("results folder", out=tmp_path / "file" / "results")[0][0] == "problem"


def test_doctor_survives_a_broken_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def nvidia_gpus() -> None:
        raise RuntimeError("driver on fire")

    monkeypatch.setattr(doctor_module, "nvidia_gpus", nvidia_gpus)
    assert findings("gpu") == [("problem", "RuntimeError: driver on fire")]


def test_doctor_says_which_rasterizer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, reason), names = choose(), ", ".join(available_backends())
    assert findings("rasterizer")[0][1] == f"{name} ({reason}); here are {names}."
    monkeypatch.setenv(BACKEND_VARIABLE, "nvrtc")
    ((verdict, sentence),) = findings("rasterizer")
    assert verdict == "problem"
    assert sentence.startswith(f"{BACKEND_VARIABLE} names the rasterizer nvrtc")


@pytest.mark.parametrize("forced", ["auto", "torch"])
def test_doctor_notes_once_what_could_not_be_built(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    reason = "g++ could not compile host.cpp; its output is in folder/host-0.log"
    monkeypatch.setattr(backends, "_obstacle", lambda name: reason if name == "host" else None)
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.setenv(BACKEND_VARIABLE, forced)
    found = findings("rasterizer")
    assert {verdict for verdict, _ in found} == {"note"}
    assert found[0][1].endswith("; here are torch, reference.")
    assert "".join(sentence for _, sentence in found).count(f"host cannot run here: {reason}") == 1


def test_dependencies_are_those_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(env.DEPENDENCIES) == {text.partition(">")[0] for text in project["dependencies"]}


def test_the_data_of_the_wheel_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "bench")
    with pytest.raises(UserError, match="reinstall"):
        data_folder("datasets")
    (tmp_path / "bench" / "_data" / "datasets").mkdir(parents=True)
    assert data_folder("datasets") == tmp_path / "bench" / "_data" / "datasets"


def test_data_folders_are_found() -> None:
    assert (data_folder("datasets") / "embedded.toml").is_file()
    with pytest.raises(UserError, match="nothing"):
        data_folder("nothing")
