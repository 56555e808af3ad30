"""The registry: names without torch, collisions, near names, plug-ins."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch

from methods import MethodSpec, UserError, build, list_methods, load, method_spec, register, registry
from methods.base import SRMethod

NEAREST = MethodSpec("nearest", "Nearest", "nobody", "test_registry:Nearest", (), 5, learned=False)


class Nearest(SRMethod):
    def encode(self, lr):
        return lr

    def render(self, feat, out_size, scale, *, chunk=None):
        return torch.nn.functional.interpolate(feat, out_size, mode="nearest")


@pytest.fixture
def plugin(monkeypatch):
    """Installs an entry point of our group; returns a function that says what it names."""

    def install(target):
        point = EntryPoint("nearest", target, registry.ENTRY_POINT_GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    registry._load_plugins.cache_clear()
    yield install
    registry._load_plugins.cache_clear()


def test_listing_and_finding_need_no_torch():
    code = """
import sys, methods, methods.checkpoints
assert [spec.name for spec in methods.list_methods()][:1] == ["bicubic"]
assert methods.method_spec("liif").title == "LIIF"
methods.checkpoints.list_checkpoints()
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listing_is_in_table_order_and_takes_wildcards():
    everything = "bicubic metasr liif lte srno linf linf-patch lmf lm-liif lm-lte ciaosr gaussiansr gsasr"
    assert [spec.name for spec in list_methods()] == everything.split()
    assert [spec.name for spec in list_methods("g*s*r")] == ["gaussiansr", "gsasr"]
    assert list_methods("nothing*") == []


def test_same_name_twice():
    register(method_spec("liif"))
    with pytest.raises(UserError, match=r"Two methods are called 'liif' \(methods.liif:LIIF and other:LIIF\)"):
        register(replace(method_spec("liif"), target="other:LIIF"))


def test_near_names():
    with pytest.raises(UserError, match="no method called 'gsars': did you mean gsasr"):
        method_spec("gsars")
    with pytest.raises(UserError, match="no method called 'zzz': known are bicubic, metasr, liif"):
        method_spec("zzz")


def test_plugin_by_entry_point(plugin):
    plugin("test_registry:NEAREST")
    assert [spec.name for spec in list_methods()][:3] == ["bicubic", "nearest", "metasr"]
    assert load("nearest")(torch.rand(1, 3, 2, 2), (4, 4)).shape == (1, 3, 4, 4)


def test_plugin_that_is_no_method(plugin):
    plugin("test_registry:Nearest")
    with pytest.raises(UserError, match=r"plug-in 'nearest' \(test_registry:Nearest\) is not a MethodSpec"):
        list_methods()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("liif", "edsr"), "no backbone called 'edsr': did you mean edsr-"),
        (lambda: build("liif"), "liif does not run on no backbone: choose from edsr-baseline"),
        (lambda: build("srno", "swinir"), "srno does not run on backbone 'swinir': choose from edsr-baseline"),
        (lambda: build("bicubic", "rdn"), "bicubic does not run on backbone 'rdn': leave the backbone out"),
        (lambda: build("liif", "rdn", hiden=(3,)), "no hyperparameter of liif called 'hiden': did you mean hidden"),
        (
            lambda: build("liif", "rdn", encoder={"block": 3}),
            "no hyperparameter of rdn called 'block': did you mean bl",
        ),
        (lambda: load("liif", "rdn", weights="random", options={"hidden": (3,)}), "no option of liif called 'hidden'"),
        (lambda: load("bicubic", options={"a": 1}), "no option of bicubic called 'a': known are none"),
    ],
)
def test_wrong_combinations(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_unknown_attribute_of_the_package():
    with pytest.raises(ImportError, match="nothing"):
        from methods import nothing  # noqa: F401


def test_random_weights_are_the_same_everywhere():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (load("liif", "edsr-micro", weights="random") for _ in range(2))
    assert torch.get_rng_state().equal(before)
    assert not first.training
    for key, value in first.state_dict().items():
        assert value.equal(second.state_dict()[key])
