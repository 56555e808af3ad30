from __future__ import annotations

import pytest
from PIL import Image

from bench.training.ablation import ablate, list_ablations, load_ablation
from bench.training.logs import read_log
from bench.training.recipe import load_recipe
from methods.errors import UserError


@pytest.mark.parametrize("name", list_ablations())
def test_shipped_ablations_vary_their_recipe(name):
    found = load_ablation(name)
    recipes = [load_recipe(found.recipe, overrides) for overrides in found.variants.values()]
    assert len({repr(recipe) for recipe in recipes}) == len(recipes)
    assert all(recipe.method == "gsasr" for recipe in recipes)


def test_an_ablation_tables_its_variants_and_resumes(root, tmp_path, capsys):
    (tmp_path / "width.toml").write_text(
        f'about = "Width"\nrecipe = "{root}/tiny.toml"\n[variants]\nnarrow = []\n'
        '"twice as wide" = ["hparams.hidden=[16, 16]"]\n'
    )
    settings = {"data_root": root, "out": tmp_path / "out", "device": "cpu"}
    page = ablate(str(tmp_path / "width.toml"), **settings).read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "×2.5", "parameters", "minutes"]
    assert [row[0] for row in rows[2:]] == ["narrow", "twice as wide"]
    assert "6 steps of the recipe `tiny`" in page
    last = read_log(tmp_path / "out" / "twice-as-wide" / "log.csv")[-1]
    assert rows[3][1] == f"{float(last['psnr_y_x2.5']):.2f}"
    with Image.open(tmp_path / "out" / "ablation.png") as plot:
        assert plot.size == (960, 540)
    capsys.readouterr()
    assert ablate(str(tmp_path / "width.toml"), **settings).read_text() == page
    assert "step" not in capsys.readouterr().out  # nothing was trained again


def test_what_cannot_be_an_ablation_is_answered_in_a_sentence(root, tmp_path):
    with pytest.raises(UserError, match="gaussians"):
        load_ablation("gausians")
    with pytest.raises(UserError, match="cannot be read"):
        load_ablation(str(tmp_path / "none.toml"))
    (tmp_path / "empty.toml").write_text(f'about = ""\nrecipe = "{root}/tiny.toml"\n[variants]')
    with pytest.raises(UserError, match="no variants"):
        load_ablation(str(tmp_path / "empty.toml"))
    (tmp_path / "blind.toml").write_text(f'about = ""\nrecipe = "{root}/tiny.toml"\n[variants]\none = ["val=[]"]')
    with pytest.raises(UserError, match="validation images"):
        ablate(str(tmp_path / "blind.toml"), data_root=root, out=tmp_path / "out", overrides=["val=[]"])
