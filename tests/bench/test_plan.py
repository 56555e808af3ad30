"""Settings and plans: what they refuse, how cells are laid out, and what makes a row another row."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench import keys
from bench.plan import Plan, make_plan
from bench.settings import RunSettings, make_settings
from methods import checkpoints
from methods.checkpoints import Checkpoint
from methods.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    for name, color in (("a", "red"), ("b", "green"), ("c", "blue")):
        Image.new("RGB", (40, 30), color).save(path / f"{name}.png")
    return path


def plan(folder: Path, **flags: Any) -> Plan:
    chosen = {"methods": "liif", "scales": "2,3", "datasets": str(folder), "weights": "random", "device": "cpu"}
    return make_plan(make_settings(**{**chosen, **flags}))


def key(folder: Path, **flags: Any) -> str:
    """The row key of image a, liif, first scale."""
    cells = plan(folder, **flags).cells
    return next(cell for cell in cells if cell.method == "liif").row_keys[0]


def test_settings_expand_names() -> None:
    settings = make_settings(
        methods="lii*,gsasr", scales="all", datasets="set5,B100", weights="random", metrics="psnr*"
    )
    assert settings.methods == ("bicubic", "liif", "gsasr")
    assert len(settings.scales) == 10
    assert settings.datasets == ("Set5", "BSDS100")
    assert settings.metrics == ("psnr_y", "psnr_rgb")
    assert settings.backbones == ()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"methods": "gsar"}, "did you mean gsasr"),
        ({"methods": ""}, "No method"),
        ({"scales": "0.5"}, "out of range"),
        ({"backbones": "edsr"}, "did you mean edsr-"),
        ({"methods": "srno", "backbones": "swinir"}, "backbone"),
        ({"datasets": "Sett5"}, "did you mean Set5"),
        ({"datasets": ","}, "No dataset"),
        ({"datasets": "./nowhere"}, "no folder"),
        ({"protocol": "gsar"}, "did you mean gsasr"),
        ({"metrics": "psnr"}, "did you mean psnr"),
        ({"device": "gpu"}, "not a device"),
        ({"dtype": "float8"}, "dtype"),
        ({"cell": "clip"}, "no cell rule called 'clip': did you mean clipped"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
        ({"options": ["dmax=1"]}, "METHOD.NAME=VALUE"),
        ({"methods": "gsasr,liif", "weights": "x.pth"}, "gsasr=FILE"),
    ],
)
def test_wrong_flags_get_one_sentence(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make_settings(**flags)
    assert "\n" not in str(caught.value)


TEXTS = ("methods", "scales", "backbones", "datasets", "weights", "protocol", "metrics", "device", "dtype")


@given(st.dictionaries(st.sampled_from(TEXTS), st.text(max_size=12), max_size=3))
def test_any_flags_give_settings_or_a_user_error(flags: dict[str, str]) -> None:
    with suppress(UserError):
        assert isinstance(make_settings(**flags), RunSettings)


def test_cells_keep_networks_together(folder: Path) -> None:
    found = plan(folder, methods="gsasr,liif", backbones="edsr-micro,rdn")
    networks = [(cell.method, cell.backbone) for cell in found.cells[::2]]
    assert networks == [("bicubic", ""), *((m, b) for m in ("gsasr", "liif") for b in ("edsr-micro", "rdn"))]
    assert [cell.scale for cell in found.cells[:4]] == [2, 3, 2, 3]
    assert found.problems == ()
    assert len({key for cell in found.cells for key in cell.row_keys}) == 30


def test_limit_takes_the_first_images(folder: Path) -> None:
    assert [image.name for image in plan(folder, limit=2).cells[0].images] == ["a", "b"]


def test_default_backbones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Checkpoint("liif", "edsr-micro", "shipped", (), "0" * 64)
    monkeypatch.setattr("methods.checkpoints.list_checkpoints", lambda: [shipped])
    monkeypatch.setattr("bench.plan.locate", lambda *_: shipped)
    assert {cell.backbone for cell in plan(folder, weights="shipped").cells} == {"", "edsr-micro"}
    assert {cell.backbone for cell in plan(folder, weights="random").cells} == {"", "edsr-baseline"}


def test_missing_data_and_weights_are_problems_of_their_cells(folder: Path) -> None:
    found = plan(folder, datasets=f"{folder},Manga109", weights="nowhere.pth", data_root=folder)
    assert len(found.problems) == 2
    assert "Manga109 is not under" in found.problems[0]
    assert "nowhere.pth" in found.problems[1]
    assert sum(len(cell.row_keys) for cell in found.cells) == 2 * 3
    assert [cell.row_keys for cell in found.cells if cell.problem] == [()] * 6


def test_damaged_images_are_noted_and_planned(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"")
    found = plan(folder)
    assert found.problems == ()
    assert len(found.cells[0].row_keys) == 3
    assert any("b.png" in note for note in found.notes)


def test_namesakes_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "mine"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "x.png")
    with pytest.raises(UserError, match="'mine'"):
        plan(folder, datasets=f"{folder},{other}")


def test_the_liif_protocol_takes_ready_lr(folder: Path) -> None:
    lr = folder / "LR_bicubic" / "X2"
    lr.mkdir(parents=True)
    for name in "abc":
        Image.new("RGB", (20, 15)).save(lr / f"{name}x2.png")
    cells = {cell.scale: cell for cell in plan(folder, protocol="liif").cells if cell.method == "liif"}
    assert cells[2].images[0].lr == lr / "ax2.png"
    assert cells[3].images[0].lr is None
    assert plan(folder).cells[0].images[0].lr is None


def test_the_same_flags_give_the_same_keys(folder: Path, tmp_path: Path) -> None:
    assert key(folder) == key(folder)
    before = key(folder)
    moved = tmp_path / "elsewhere" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    assert key(moved, seed=7, limit=1, scales="2,4") == before


def test_equal_images_have_rows_of_their_own(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a.png", folder / "d.png")
    other = shutil.copytree(folder, tmp_path / "other")
    cells = plan(folder, datasets=f"{folder},{other}").cells
    assert len({key for cell in cells for key in cell.row_keys}) == len(cells) * 4


@pytest.mark.parametrize(
    "flags",
    [
        {"protocol": "gsasr-pillow"},
        {"scales": "2.5"},
        {"backbones": "rdn"},
        {"options": ["liif.cell=clipped"]},
        {"dtype": "float64"},
        {"dtype": "autocast-bfloat16"},
        {"channels_last": True},
        {"compiled": True},
        {"cell": "clipped"},
        {"device": "cuda"},
        {"metrics": "psnr_y"},
    ],
)
def test_what_can_change_a_number_changes_the_key(folder: Path, flags: dict[str, Any]) -> None:
    assert key(folder, **flags) != key(folder)


def test_acceleration_concerns_networks_with_an_encoder(folder: Path) -> None:
    plain, fast = ({cell.method: cell.row_keys for cell in plan(folder, compiled=on).cells} for on in (False, True))
    assert fast["bicubic"] == plain["bicubic"]
    assert not set(fast["liif"]) & set(plain["liif"])


def test_the_cell_rule_replaces_that_of_the_protocol(folder: Path) -> None:
    assert plan(folder).protocol.cell == "published"
    assert plan(folder, cell="true").protocol == replace(plan(folder).protocol, cell="true")


def test_content_changes_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = key(folder)
    Image.new("RGB", (40, 30), "white").save(folder / "a.png")
    second = key(folder)
    assert second != first
    image = replace(plan(folder).cells[0].images[0], crop=(0, 0, 10, 10))
    assert keys.image_sha256(image) != keys.image_sha256(replace(image, crop=None))
    monkeypatch.setattr(keys, "numbers_sha256", lambda: "other code")
    assert key(folder) != second


def test_a_checkpoint_is_known_by_its_content(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.write_bytes(b"one")
    first = key(folder, weights=str(weights))
    assert key(folder, weights=str(weights.rename(tmp_path / "v.pth"))) == first
    (tmp_path / "v.pth").write_bytes(b"two")
    assert key(folder, weights=str(tmp_path / "v.pth")) != first


def test_random_methods_have_their_seed_in_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(checkpoints.method_spec("liif"), deterministic=False)
    monkeypatch.setattr("bench.plan.method_spec", lambda _: spec)
    assert key(folder, seed=1) != key(folder, seed=2)


def test_planning_does_not_import_torch(folder: Path) -> None:
    code = (
        "import sys; from bench.plan import make_plan; from bench.settings import make_settings\n"
        f"make_plan(make_settings(datasets={str(folder)!r}, weights='random')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_methods_without_weights_are_left_out_unless_they_are_named(folder: Path) -> None:
    everything = make_settings(methods="all", scales="2", datasets=str(folder))
    assert everything.left_out == ("linf-patch", "lm-liif", "lm-lte")
    assert len(everything.methods) == 10
    (note,) = (note for note in make_plan(everything).notes if note.startswith("Left out"))
    assert "lm-lte" in note
    named = make_settings(methods="lm-lte,l*", scales="2", datasets=str(folder))
    assert named.methods == ("bicubic", "lm-lte", "liif", "lte", "linf", "lmf")
    assert "No weights are shipped for lm-lte" in make_plan(named).problems[0]
    assert len(make_settings(methods="all", weights="random", scales="2", datasets=str(folder)).methods) == 13
