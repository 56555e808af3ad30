"""What the README shows is run here, so that it stays true."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from bench.descriptors import Descriptor
from bench.schema import parse
from bench.training import load_recipe
from methods import load, registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


TRAINING = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
GUIDE = (Path(__file__).parents[1] / "docs" / "adding-a-method.md").read_text(encoding="utf-8")


def block(title: str, text: str = README) -> str:
    """The code block under the comment `<!-- title -->`."""
    found = re.search(rf"<!-- {title} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, f"there is no block called {title!r}"
    return found[1]


@pytest.mark.parametrize("title", ["method example", "dataset example"])
def test_examples_are_short(title):
    assert len(block(title).splitlines()) < 30


def test_the_method_example_is_a_method(tmp_path, monkeypatch):
    (tmp_path / "nearest.py").write_text(block("method example"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    line = block("method line").replace("methods.nearest", "nearest")
    exec(compile(line, "README", "exec"), vars(registry).copy())
    lr = torch.rand(1, 3, 4, 5)
    assert torch.equal(load("nearest")(lr, (8, 10), 2), lr.repeat_interleave(2, 2).repeat_interleave(2, 3))
    sys.modules.pop("nearest")


@pytest.mark.parametrize("backbone", ["edsr-baseline", "rdn"])
def test_the_network_of_the_guide_is_a_method(tmp_path, monkeypatch, backbone):
    (tmp_path / "nearestmlp.py").write_text(block("network example", GUIDE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    line = block("network line", GUIDE).replace("methods.nearestmlp", "nearestmlp")
    exec(compile(line, "guide", "exec"), vars(registry).copy())
    model, lr = load("nearestmlp", backbone, weights="random"), torch.rand(2, 3, 4, 5)
    with torch.inference_mode():
        whole = model(lr, (9, 17))
        torch.testing.assert_close(model(lr, (9, 17), chunk=1), whole)
    assert whole.shape == (2, 3, 9, 17)
    assert whole.std() > 0
    sys.modules.pop("nearestmlp")


def test_the_dataset_example_is_a_descriptor():
    found = parse(Descriptor, tomllib.loads(block("dataset example")), "README")
    assert found.name == "MySet"
    assert len(found.names) == found.count


def test_the_checks_run_the_test_command_of_the_readme():
    script = (Path(__file__).parents[1] / ".ci" / "run").read_text()
    assert "<!-- test command -->" in script
    assert block("test command").strip().endswith("tox")


def test_the_recipe_of_the_guide_is_a_recipe(tmp_path):
    (tmp_path / "mine.toml").write_text(block("recipe example", TRAINING))
    assert load_recipe(tmp_path / "mine.toml").steps == 100_000
