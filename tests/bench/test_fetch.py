"""`bench fetch` with a made-up hub; no test touches the network."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from bench import commands
from bench.fetch import fetch
from methods import UserError, official


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the files of GSASR; its `revision` can move on."""
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))
    module = ModuleType("huggingface_hub")
    module.asked, module.sha = [], "first"

    def hf_hub_download(name, file, revision):
        module.asked.append((name, file, revision))
        path = tmp_path / f"{revision}-{file.replace('/', '-')}"
        path.write_bytes(f"{file} at {revision}".encode())
        return str(path)

    module.hf_hub_download = hf_hub_download
    module.HfApi = lambda: SimpleNamespace(model_info=lambda name: SimpleNamespace(sha=module.sha))
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def entry(name):
    return next(e for e in official.catalogue() if e.name == name)


def test_from_the_hub_at_a_pinned_revision(hub):
    (found,) = fetch("gsasr/rdn")
    assert found.state == "fetched"
    assert hub.asked[0] == ("mutou0308/GSASR_paper", "RDN/encoder.pth", "first")
    lock = json.loads((entry("gsasr/rdn").folder / official.LOCK).read_text())
    assert lock["revision"] == "first"
    assert set(lock["sha256"]) == {"encoder.pth", "decoder.pth"}
    assert [f.state for f in fetch("gsasr/rdn")] == ["present"]
    hub.sha = "second"
    entry("gsasr/rdn").paths[0].unlink()
    assert [f.state for f in fetch("gsasr/rdn")] == ["fetched"]
    assert hub.asked[-1][2] == "first"


def test_a_changed_file_is_refused(hub):
    list(fetch("gsasr/edsr-baseline"))
    entry("gsasr/edsr-baseline").paths[1].write_bytes(b"another")
    (found,) = fetch("gsasr/edsr-baseline")
    assert found.state == "failed"
    assert "sha256" in found.note


def test_no_connection_is_a_sentence(hub):
    def offline(*_, **__):
        raise ConnectionError("no route")

    hub.hf_hub_download = offline
    (found,) = fetch("gsasr/rdn")
    assert found.state == "failed"
    assert "no route" in found.note
    assert "check the connection" in found.note


def test_without_the_client(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (found,) = fetch("gsasr/rdn")
    assert "pip install 'asrbench[hub]'" in found.note


def test_by_hand(hub, capsys):
    assert commands.fetch("lte/*") == 3
    said = capsys.readouterr().out
    assert said.count("by hand") == 4
    assert "edsr-baseline-lte.pth" in said
    target = entry("liif/rdn").paths[0]
    target.parent.mkdir(parents=True)
    target.write_bytes(b"weights")
    assert commands.fetch("liif/rdn") == 0


def test_unknown_name(hub):
    with pytest.raises(UserError, match="no official checkpoint called 'gsasr/rdm': did you mean"):
        fetch("gsasr/rdm")
