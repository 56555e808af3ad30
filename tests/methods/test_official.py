"""Official checkpoints: the catalogue, the fetched files, containers, and the way to official key names and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from methods import UserError, build, load, official
from methods.checkpoints import locate, read_checkpoint
from methods.registry import ENCODERS, list_methods

CASES = Path(__file__).parents[1] / "parity"
CONSTANTS = ("sub_mean", "add_mean", "relative_position_index", "attn_mask")
PAIRS = [(s.name, b) for s in list_methods() if s.learned for b in s.backbones if b != "edsr-micro"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))


def liif_file(path, name="liif", encoder="edsr-baseline", **state):
    model = build("liif", "edsr-baseline")
    args = {"encoder_spec": {"name": encoder}, "imnet_spec": {"args": {"hidden_list": [256] * 4}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {"name": name, "args": args, "sd": model.to_reference(model.state_dict()) | state}}, path)
    return model


def test_catalogue_is_consistent():
    names = [entry.name for entry in official.catalogue()]
    assert len(names) == len(set(names)) >= 20
    specs = {spec.name: spec for spec in list_methods()}
    for entry in official.catalogue():
        assert entry.backbone in specs[entry.method].backbones
        assert entry.page.startswith("https://")
        assert len(entry.files) == (2 if entry.method == "gsasr" else 1)
        assert entry.container in ("liif", "basicsr", "mmediting")


def test_catalogue_needs_no_torch():
    code = "import sys, methods.official as o; o.catalogue(); assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_round_trip_through_official_keys(name, backbone):
    model = build(name, backbone)
    own = model.state_dict()
    back = model.from_reference(model.to_reference(own))
    assert back.keys() == own.keys()
    assert all(back[key].equal(value) for key, value in own.items())


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*.json")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_official_keys_are_those_of_the_cases(case):
    from bench.parity.cases import find_cases, method_name
    from methods.loading import method_class

    (found,) = find_cases([case])
    name = method_name(found)
    if name is None or found.spec["backbone"] not in ENCODERS:
        pytest.skip("not a method")
    hparams = method_class(name).reference_hparams({**found.spec, **found.spec["config"]})
    model = build(name, found.spec["backbone"], **hparams)
    wanted = {k: tuple(shape) for k, shape in found.spec["state_dict"].items() if not any(c in k for c in CONSTANTS)}
    if name == "lte" and "layers.0.weight" in wanted:
        pytest.skip("LTE+, which is loaded as LTE")
    floating = {k: v for k, v in model.to_reference(model.state_dict()).items() if v.is_floating_point()}
    assert {key: tuple(value.shape) for key, value in floating.items()} == wanted


def test_missing_official_checkpoint_says_what_to_do():
    with pytest.raises(UserError, match="run `python -m bench fetch gsasr/rdn`"):
        load("gsasr", "rdn", weights="official")
    with pytest.raises(UserError, match=r"get rdn-liif\.pth from https://drive"):
        load("liif", "rdn", weights="official")
    with pytest.raises(UserError, match="No official checkpoint of metasr on rdn"):
        load("metasr", "rdn", weights="official")


def test_official_file_is_found_recorded_and_verified():
    (entry,) = (e for e in official.catalogue() if e.name == "liif/edsr-baseline")
    model = liif_file(entry.paths[0])
    checkpoint = locate("liif", "edsr-baseline", "official")
    assert checkpoint.label == "official"
    loaded = load("liif", "edsr-baseline", weights="official")
    assert all(loaded.state_dict()[key].equal(value) for key, value in model.state_dict().items())
    lock = json.loads((entry.folder / official.LOCK).read_text())
    assert lock["sha256"] == {entry.files[0]: checkpoint.sha256}
    liif_file(entry.paths[0])
    with pytest.raises(UserError, match="was not opened, as its sha256 is not"):
        load("liif", "edsr-baseline", weights="official")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "lte"}, "holds the network 'lte', which is not liif: ask for lte"),
        ({"name": "mystery"}, "holds the network 'mystery', which is not liif: use another file"),
        ({"encoder": "rdn"}, "is for backbone 'rdn', not 'edsr-baseline'"),
    ],
)
def test_container_of_another_network(tmp_path, change, message):
    liif_file(tmp_path / "net.pth", **change)
    with pytest.raises(UserError, match=message):
        load("liif", "edsr-baseline", weights=str(tmp_path / "net.pth"))


@pytest.mark.parametrize("prefix", ["generator.", ""])
@pytest.mark.parametrize("wrapped", [True, False])
def test_mmediting_container(tmp_path, prefix, wrapped):
    model = build("ciaosr", "edsr-baseline")
    named = {prefix + k.removeprefix("generator."): v for k, v in model.to_reference(model.state_dict()).items()}
    torch.save({"state_dict": named, "meta": {"epoch": 3}} if wrapped else named, tmp_path / "ciaosr.pth")
    loaded = load("ciaosr", "edsr-baseline", weights=str(tmp_path / "ciaosr.pth"))
    assert all(loaded.state_dict()[key].equal(value) for key, value in model.state_dict().items())


def test_reading_checks_nothing_of_ours(tmp_path):
    liif_file(tmp_path / "net.pth")
    state, config = read_checkpoint(locate("liif", "edsr-baseline", tmp_path / "net.pth"))
    assert config["reference"]["name"] == "liif"
    assert "imnet.layers.0.weight" in state
