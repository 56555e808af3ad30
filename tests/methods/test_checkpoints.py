"""Checkpoints: ours and the official containers, and every way in which a file can be wrong."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch

from methods import UserError, build, checkpoints, load
from methods.checkpoints import list_checkpoints, locate, read_checkpoint, save_checkpoint, usual_backbones

SMALL = {"encoder": {"blocks": 1, "channels": 4}, "hparams": {"hidden": [5, 6], "cell_decode": False}}
CONFIG = {"method": "liif", "backbone": "edsr-micro", **SMALL}


def small():
    return build("liif", "edsr-micro", encoder=SMALL["encoder"], **SMALL["hparams"]).eval()


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)


@pytest.fixture
def saved(tmp_path):
    model = small()
    save_checkpoint(tmp_path / "small.safetensors", model.state_dict(), CONFIG | {"recipe": "none"})
    return model, tmp_path / "small.safetensors"


@pytest.fixture
def liif_container(tmp_path):
    """The layout and key names of yinboc/liif, around random weights."""
    model = build("liif", "edsr-baseline")
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in (("conv_first.", "head.0."), ("conv_after_body.", "body.16.")):
            key = key.replace(ours, theirs)
        for ours, theirs in ((".conv1.", ".body.0."), (".conv2.", ".body.2.")):
            key = key.replace(ours, theirs)
        state[key] = value
    state |= {"encoder.sub_mean.weight": torch.zeros(3, 3, 1, 1), "encoder.sub_mean.bias": torch.zeros(3)}
    encoder = {"name": "edsr-baseline", "args": {"no_upsampling": True}}
    imnet = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [256, 256, 256, 256]}}
    content = {"name": "liif", "args": {"encoder_spec": encoder, "imnet_spec": imnet}, "sd": state}
    path = tmp_path / "edsr-baseline-liif.pth"
    torch.save({"model": content, "optimizer": {"name": "adam", "args": {"lr": 1e-4}, "sd": {}}, "epoch": 1000}, path)
    return model, path


def refusal(path, method="liif", backbone="edsr-micro"):
    """The sentence with which a file is refused."""
    with pytest.raises(UserError) as caught:
        load(method, backbone, weights=str(path))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    assert sentence.endswith(".")
    return sentence


def test_ours_comes_back_with_its_hyperparameters(saved):
    model, path = saved
    loaded = load("liif", "edsr-micro", weights=str(path), options={"cell": "clipped"})
    assert_same(loaded.state_dict(), model.state_dict())
    assert loaded.cell == "clipped"
    assert not loaded.cell_decode
    assert not loaded.training


def test_located_file_has_name_and_hash(saved):
    found = locate("liif", "edsr-micro", saved[1])
    assert found.label == "small.safetensors"
    assert found.sha256 == hashlib.sha256(saved[1].read_bytes()).hexdigest()


def test_device_and_dtype(saved):
    loaded = load("liif", "edsr-micro", weights=str(saved[1]), dtype=torch.float64)
    assert {p.dtype for p in loaded.parameters()} == {torch.float64}


def test_saving_is_whole_or_not_at_all(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def full_disk(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model.state_dict(), CONFIG)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_liif_container(liif_container):
    model, path = liif_container
    assert_same(load("liif", "edsr-baseline", weights=str(path)).state_dict(), model.state_dict())


@pytest.mark.parametrize("names", [("encoder.pth", "decoder.pth"), ("net_g_500000.pth", "net_fea2gs_500000.pth")])
@pytest.mark.parametrize("given", ["folder", "encoder", "decoder"])
def test_gsasr_pair(tmp_path, names, given):
    """Two files; the averaged weights are the ones that count."""
    halves = ({"conv_first.weight": torch.ones(2)}, {"UPNet.0.weight": torch.ones(3)})
    for name, half in zip(names, halves, strict=True):
        stale = {key: value * 0 for key, value in half.items()}
        torch.save({"params": stale, "params_ema": half}, tmp_path / name)
    path = {"folder": tmp_path, "encoder": tmp_path / names[0], "decoder": tmp_path / names[1]}[given]
    checkpoint = locate("gsasr", "rdn", str(path))
    state, config = read_checkpoint(checkpoint)
    assert_same(state, {"encoder.conv_first.weight": torch.ones(2), "UPNet.0.weight": torch.ones(3)})
    assert config == {}
    both = (tmp_path / names[0]).read_bytes() + (tmp_path / names[1]).read_bytes()
    assert checkpoint.sha256 == hashlib.sha256(both).hexdigest()
    assert checkpoint.label == path.name


def test_gsasr_pair_that_is_not_complete(tmp_path):
    torch.save({"params_ema": {"a": torch.ones(1)}}, tmp_path / "encoder.pth")
    assert f"{tmp_path / 'decoder.pth'}, which" in refusal(tmp_path / "encoder.pth", "gsasr")
    assert "decoder.pth, which" in refusal(tmp_path, "gsasr")


class Attack:
    """Unpickled without care, this creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path, container, protocol):
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    content = {"model": {"sd": {"imnet.layers.0.weight": Attack(target)}}}
    if container == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=max(protocol, 2))
    assert "evil.pth" in refusal(path)
    assert not target.exists()


def test_code_in_a_container_is_named(tmp_path):
    torch.save({"params": Attack(tmp_path / "executed")}, tmp_path / "evil.pth")
    assert "was refused, as it calls for code (posix.system)" in refusal(tmp_path / "evil.pth")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
@pytest.mark.parametrize("kind", ["ours", "official"])
def test_truncated(saved, liif_container, kind, keep):
    path = {"ours": saved[1], "official": liif_container[1]}[kind]
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "fetch it again" in refusal(path)


@pytest.mark.parametrize("name", ["foreign.pth", "foreign.safetensors"])
@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), struct.pack("<Q", 1 << 60) + b"{}"])
def test_foreign_bytes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "fetch it again" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"epoch": 3},
        {"model": {"name": "liif"}},
        {"model": {"name": "liif", "sd": {}}},
        {"params": 3},
        {"params_ema": {"weight": 3.0}},
        torch.ones(3),
    ],
)
def test_foreign_contents(tmp_path, content):
    torch.save(content, tmp_path / "foreign.pth")
    assert "holds no network" in refusal(tmp_path / "foreign.pth")


def test_liif_container_without_description(tmp_path, liif_container):
    content = torch.load(liif_container[1], weights_only=True)
    del content["model"]["args"]["imnet_spec"]
    torch.save(content, tmp_path / "bare.pth")
    assert "describes no liif" in refusal(tmp_path / "bare.pth", backbone="edsr-baseline")


def test_missing_and_unexpected_keys_are_listed(saved):
    model, path = saved
    state = {f"x.{key}" if "body" in key else key: value for key, value in model.state_dict().items()}
    state["imnet.layers.0.bias"] = torch.ones(7)
    save_checkpoint(path, state, CONFIG)
    sentence = refusal(path)
    assert (
        "6 missing (encoder.body.0.conv1.bias, encoder.body.0.conv1.weight, encoder.body.0.conv2.bias, ...)" in sentence
    )
    assert "6 unexpected (x.encoder.body.0.conv1.bias" in sentence
    assert "1 of another shape (imnet.layers.0.bias)" in sentence


def test_official_weights_of_another_backbone(liif_container):
    assert "is for backbone 'edsr-baseline', not 'rdn': ask for that backbone" in refusal(
        liif_container[1], backbone="rdn"
    )


def test_ours_of_another_method_or_backbone(saved):
    assert "is for method 'liif', not 'gsasr'" in refusal(saved[1], "gsasr", "edsr-micro")
    assert "is for backbone 'edsr-micro', not 'rdn'" in refusal(saved[1], "liif", "rdn")


@pytest.mark.parametrize("description", ["3", '{"format": 2}', "{", '{"format": 1, "hparams": {"hidn": 3}}'])
def test_description_that_cannot_be(saved, description, monkeypatch):
    model, path = saved
    monkeypatch.setattr(checkpoints.json, "dumps", lambda *args, **kwargs: description)
    save_checkpoint(path, model.state_dict(), CONFIG)
    refusal(path)


def test_changed_file_is_not_opened(saved, monkeypatch):
    _, path = saved
    located = locate("liif", "edsr-micro", str(path))
    path.write_bytes(b"other")
    monkeypatch.setattr(checkpoints, "_read_safetensors", lambda path: pytest.fail("opened"))
    with pytest.raises(UserError, match=r"small.safetensors was not opened, as its sha256 is not"):
        load("liif", "edsr-micro", weights=located)


@pytest.fixture
def zoo(tmp_path, saved, monkeypatch):
    content = saved[1].read_bytes()
    entry = f'method = "liif"\nbackbone = "edsr-micro"\nfile = "{saved[1].name}"\nbytes = {len(content)}\n'
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "zoo.toml").write_text(f'[[checkpoint]]\n{entry}sha256 = "{digest}"\n')
    monkeypatch.setattr(checkpoints, "ZOO", tmp_path)
    return saved


def test_shipped(zoo):
    model, path = zoo
    (listed,) = list_checkpoints()
    assert listed == locate("liif", "edsr-micro")
    assert listed.about["bytes"] == path.stat().st_size
    assert_same(load("liif", "edsr-micro").state_dict(), model.state_dict())


def test_shipped_file_that_was_changed(zoo):
    zoo[1].write_bytes(b"x")
    with pytest.raises(UserError, match="was not opened, as its sha256 is not"):
        locate("liif", "edsr-micro")


def test_nothing_shipped_for_a_pair(zoo):
    with pytest.raises(
        UserError, match=r"for gsasr on rdn \(shipped: liif on edsr-micro\): name a file with --weights"
    ):
        locate("gsasr", "rdn")


def test_no_such_file(tmp_path):
    assert "There is no weights file" in refusal(tmp_path / "none.pth")
    assert "holds no encoder" in refusal(tmp_path)


def test_methods_that_learn_nothing_and_random_weights_have_no_file():
    assert locate("bicubic", "").label == "none"
    assert locate("liif", "rdn", "random").paths == ()


def test_every_shipped_checkpoint_is_whole():
    for checkpoint in list_checkpoints():
        assert locate(checkpoint.method, checkpoint.backbone) == checkpoint
        assert checkpoint.paths[0].stat().st_size <= 2 * 2**20
        load(checkpoint.method, checkpoint.backbone)


def test_a_checkpoint_of_ours_says_its_backbone(tmp_path):
    shipped = next(c for c in list_checkpoints() if c.method == "gsasr")
    assert usual_backbones("gsasr") == usual_backbones("gsasr", shipped.paths[0]) == ("edsr-micro",)
    assert usual_backbones("gsasr", tmp_path / "net.pth") == ("edsr-baseline",)
    assert usual_backbones("bicubic") == ()
    assert load("gsasr", weights=str(shipped.paths[0])).rendering.lr_window is not None


def test_weights_that_are_not_finite_are_refused(tmp_path):
    shipped = next(c for c in list_checkpoints() if c.method == "gsasr")
    state, config = read_checkpoint(shipped)
    state["mlp_block_rgb.4.bias"][0] = float("nan")
    save_checkpoint(tmp_path / "nan.safetensors", state, config)
    with pytest.raises(UserError, match=r"1 not finite \(mlp_block_rgb\.4\.bias\)"):
        load("gsasr", weights=str(tmp_path / "nan.safetensors"))


@pytest.mark.parametrize("hparams", [{"hidden": 3}, [1], {"hidden": ["x"]}, {"hidden": [-1]}])
def test_a_description_of_the_wrong_type_is_one_sentence(tmp_path, hparams):
    shipped = next(c for c in list_checkpoints() if c.method == "liif")
    state, config = read_checkpoint(shipped)
    save_checkpoint(tmp_path / "odd.safetensors", state, config | {"hparams": hparams})
    with pytest.raises(UserError, match=r"liif"):
        load("liif", weights=str(tmp_path / "odd.safetensors"))
