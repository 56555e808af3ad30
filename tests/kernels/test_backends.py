"""Which backend is taken, and what is said when it cannot be: order, warnings, wishes that cannot be met."""

from __future__ import annotations

import logging
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from kernels import BACKEND_VARIABLE, BackendError, Choice, available_backends, backends, choose, rasterize
from kernels.backends import missing_backends
from kernels.cache import BuildError

LOG = BuildError("g++ could not compile host.cpp; its output is in folder/host-0.log", Path("folder/host-0.log"))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing has been probed, said or forced."""

    def forget():
        for cache in (backends._obstacle, backends._origin, backends._announce):
            cache.cache_clear()

    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    monkeypatch.setattr(backends, "_warned", set())
    forget()
    yield
    forget()


@pytest.fixture
def install(monkeypatch):
    """Replace a native backend by one that tells `calls` of its probing and cannot be had for a reason."""

    def replace(name, reason=None, hip=None):
        def probe():
            fake.calls += 1
            if isinstance(reason, Exception):
                raise reason
            return reason

        fake = types.ModuleType(backends._BACKENDS[name].module)
        fake.calls, fake.library, fake.available, fake.origin = 0, probe, probe, lambda: f"made for {name}"
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(torch.version, "hip", hip)
        return fake

    return replace


def gaussian(dtype=torch.float32):
    mu = torch.tensor([[[3.0, 4.0]]], dtype=dtype)
    return mu, torch.ones_like(mu), torch.zeros_like(mu[..., 0]), torch.ones_like(mu)


class TestAuto:
    def test_takes_native_code(self, install):
        fakes = [install("host"), install("nvrtc")]
        for _ in range(3):
            assert choose("cpu") == Choice("host", "made for host")
            assert choose("cuda:1", torch.float16) == Choice("nvrtc", "made for nvrtc")
        assert [fake.calls for fake in fakes] == [1, 1]

    def test_falls_back_on_torch_and_says_so_once(self, install):
        fake = install("host", LOG)
        with pytest.warns(RuntimeWarning, match=r"host.*slower.*could not compile.*folder/host-0.log\.$") as said:
            choices = [choose() for _ in range(3)]
        assert choices == [Choice("torch", f"host cannot run here: {LOG}")] * 3
        assert (len(said), fake.calls) == (1, 1)

    @pytest.mark.parametrize("reason", ["The driver is too old.", BuildError("The driver is too old.")])
    def test_falls_back_on_the_gpu(self, install, reason):
        install("nvrtc", reason)
        with pytest.warns(RuntimeWarning, match=r"nvrtc.*slower.*: The driver is too old\.$") as said:
            choice = choose("cuda")
        assert choice == Choice("torch", "nvrtc cannot run here: The driver is too old")
        assert len(said) == 1

    def test_a_warning_made_an_error_is_raised_once(self, install):
        install("host", LOG)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="slower"):
                choose()
            assert choose().name == "torch"

    def test_draws_with_what_it_falls_back_on(self, install):
        truth = rasterize(*gaussian(), (7, 9), backend="torch")
        install("host", LOG)
        with pytest.warns(RuntimeWarning, match="slower") as said:
            images = [rasterize(*gaussian(), (7, 9)) for _ in range(2)]
        assert all(torch.equal(image, truth) for image in images)
        assert len(said) == 1

    @pytest.mark.parametrize(("device", "hip"), [("mps", None), ("xpu", None), ("cuda", "6.4")])
    def test_takes_torch_elsewhere_without_a_warning(self, install, device, hip):
        fakes = [install("host", hip=hip), install("nvrtc", hip=hip)]
        choice = choose(device)
        assert choice == Choice("torch", f"serves every device, here {'ROCm' if hip else device}")
        assert [fake.calls for fake in fakes] == [0, 0]

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_takes_the_reference_for_float64(self, install, device):
        fakes = [install("host", LOG), install("nvrtc", LOG)]
        assert choose(device, torch.float64).name == "reference"
        assert [fake.calls for fake in fakes] == [0, 0]

    def test_is_logged_once_with_its_reason(self, install, caplog):
        install("host", LOG)
        with caplog.at_level(logging.INFO, "kernels.backends"), pytest.warns(RuntimeWarning, match="slower"):
            assert torch.equal(rasterize(*gaussian(), (7, 9)), rasterize(*gaussian(), (7, 9)))
        assert caplog.messages == [f"rasterizer: torch (host cannot run here: {LOG})"]


class TestWishes:
    def test_are_met_with_the_origin(self, install, monkeypatch):
        install("host")
        assert choose(backend="host") == Choice("host", "asked for by the caller; made for host")
        assert choose(backend="torch") == Choice("torch", "asked for by the caller")
        assert choose(dtype=torch.float64, backend="torch").name == "torch"
        monkeypatch.setenv(BACKEND_VARIABLE, "host")
        assert choose() == Choice("host", f"forced by {BACKEND_VARIABLE}; made for host")
        assert choose(backend="torch").name == "torch"

    @pytest.mark.parametrize("value", ["", "auto"])
    def test_of_nothing_in_particular(self, install, monkeypatch, value):
        install("host")
        monkeypatch.setenv(BACKEND_VARIABLE, value)
        assert choose() == Choice("host", "made for host")

    def test_of_what_does_not_exist(self, monkeypatch):
        with pytest.raises(
            ValueError, match="backend names the rasterizer 'abacus'; there are auto, nvrtc, host, torch"
        ):
            choose(backend="abacus")
        monkeypatch.setenv(BACKEND_VARIABLE, "abacus")
        for dtype in (torch.float32, torch.float64):
            with pytest.raises(ValueError, match=f"{BACKEND_VARIABLE} names the rasterizer 'abacus'"):
                choose(dtype=dtype)

    @pytest.mark.parametrize(("name", "device", "other"), [("host", "cpu", "cuda"), ("nvrtc", "cuda", "cpu")])
    def test_for_another_device(self, install, monkeypatch, name, device, other):
        fake = install(name)
        sentence = f"names the rasterizer {name}, which draws {device} tensors, not {other} ones."
        with pytest.raises(ValueError, match=f"^backend {sentence}"):
            choose(other, backend=name)
        monkeypatch.setenv(BACKEND_VARIABLE, name)
        with pytest.raises(ValueError, match=f"^{BACKEND_VARIABLE} {sentence}"):
            choose(other)
        assert fake.calls == 0

    def test_for_another_device_reach_the_caller_of_rasterize(self, monkeypatch):
        monkeypatch.setenv(BACKEND_VARIABLE, "nvrtc")
        with pytest.raises(ValueError, match=f"{BACKEND_VARIABLE} names the rasterizer nvrtc, which draws cuda"):
            rasterize(*gaussian(), (7, 9))

    @pytest.mark.parametrize(("name", "device"), [("host", "cpu"), ("nvrtc", "cuda")])
    def test_in_float64(self, install, monkeypatch, name, device):
        fake = install(name, LOG)
        with pytest.raises(ValueError, match=f"backend names the rasterizer {name}, which computes in float32, not"):
            choose(device, torch.float64, name)
        monkeypatch.setenv(BACKEND_VARIABLE, name)
        choice = choose(device, torch.float64)
        assert (choice.name, fake.calls) == ("reference", 0)
        assert BACKEND_VARIABLE in choice.reason
        monkeypatch.setenv(BACKEND_VARIABLE, "torch")
        assert choose(device, torch.float64).name == "torch"

    @pytest.mark.parametrize(("name", "device"), [("host", "cpu"), ("nvrtc", "cuda")])
    def test_that_cannot_be_met_get_no_substitute(self, install, monkeypatch, name, device):
        install(name, LOG)
        with pytest.raises(BackendError, match=rf"backend names the rasterizer {name}, .*: g\+\+.*host-0\.log\.$"):
            choose(device, backend=name)
        monkeypatch.setenv(BACKEND_VARIABLE, name)
        with pytest.raises(BackendError, match=rf"{BACKEND_VARIABLE} names the rasterizer {name}, .*host-0\.log\.$"):
            choose(device)

    def test_for_nvrtc_under_rocm(self, install):
        fake = install("nvrtc", hip="6.4")
        with pytest.raises(BackendError, match="cannot run here: this PyTorch is made for ROCm"):
            choose("cuda", backend="nvrtc")
        assert fake.calls == 0


def test_a_forced_backend_in_float64_draws(monkeypatch):
    monkeypatch.setenv(BACKEND_VARIABLE, "host")
    assert rasterize(*gaussian(torch.float64), (7, 9)).dtype == torch.float64


def test_what_can_run_is_listed_fastest_first(install):
    install("host")
    install("nvrtc")
    assert list(available_backends()) == ["host", "torch", "reference"]
    assert list(available_backends("cuda:0")) == ["nvrtc", "torch", "reference"]
    assert list(available_backends("mps")) == ["torch", "reference"]
    assert missing_backends() == {}


def test_what_cannot_run_is_listed_apart(install):
    install("host", LOG)
    assert list(available_backends()) == ["torch", "reference"]
    assert missing_backends() == {"host": f"cannot run here: {LOG}."}
