"""Builds of the kernels' sources that several tests use."""

from __future__ import annotations

import ctypes

import pytest
from native_cases import HERE, Emulator, compile_source

from kernels import build, cuda, host
from kernels.cache import BuildError


@pytest.fixture(scope="session")
def compiler():
    """Skip where nothing can be compiled."""
    try:
        build._find_compiler()
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cpu():
    """The CPU backend."""
    try:
        host.library()
    except BuildError as error:
        pytest.skip(str(error))
    return host


@pytest.fixture(scope="session")
def emulator(compiler, tmp_path_factory):
    return Emulator(tmp_path_factory.mktemp("emulator"))


@pytest.fixture
def emulated(emulator, monkeypatch):
    """The GPU backend with its kernels run on the CPU."""
    monkeypatch.setattr(cuda, "_target", emulator.target)
    return cuda


@pytest.fixture(params=["cpu", "emulated"])
def backend(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def patches(compiler, tmp_path_factory):
    """patches.cpp."""
    return ctypes.CDLL(str(compile_source(HERE / "patches.cpp", tmp_path_factory.mktemp("patches") / "patches.so")))
