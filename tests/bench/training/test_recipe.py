from __future__ import annotations

from dataclasses import replace

import pytest

from bench.training import list_recipes, load_recipe
from bench.training.schedule import learning_rate
from methods.errors import UserError
from methods.registry import list_methods


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stepz=3", "stepz.*steps"),
        ("lr=fast", "'lr'.*number"),
        ("steps=0", "steps.*positive.*0"),
        ("accumulate=0", "accumulate.*positive.*0"),
        ("steps", "not key=value"),
        ("steps.more=1", "steps=VALUE"),
        ("scale=[3.0, 2.0]", "smallest, largest"),
        ("schedule=linear", "schedule.*'cosine', 'step', 'basicsr'"),
        ("schedule=step", "milestones"),
        ("milestones=[3]", "milestones"),
        ("ema=1.0", r"ema.*\[0, 1\)"),
        ("losses={}", "losses.*l1 and nll"),
        ("losses.l2=1.0", "losses.*l1 and nll"),
        ("warmup_from=2", r"warmup_from.*\[0, 1\]"),
        ("shrink=[0.5]", "sub_image"),
        ("shrink=[1.5]", "between 0 and 1"),
        ("sub_image=20", "24 pixels do not fit"),
        ("method=lif", "liif"),
        ("backbone=edsr", "edsr"),
    ],
)
def test_a_wrong_recipe_is_answered_in_a_sentence(tiny, override, words):
    with pytest.raises(UserError, match=words):
        tiny(override)


def test_a_missing_or_broken_recipe_is_answered_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="liif"):
        load_recipe("lif-micro")
    with pytest.raises(UserError, match="no recipe file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("steps = ")
    with pytest.raises(UserError, match="broken"):
        load_recipe(tmp_path / "broken.toml")


def test_overrides_are_toml_or_text_and_reach_into_tables(tiny):
    recipe = tiny("hparams.hidden=[4]", "data=elsewhere", "lr=0.5")
    assert (recipe.hparams, recipe.folders, recipe.lr) == ({"hidden": [4]}, ("elsewhere",), 0.5)


def test_every_method_that_learns_has_a_published_recipe():
    learned = {spec.name for spec in list_methods() if spec.learned} - {"linf-patch"}  # trained on more than DIV2K
    assert learned <= set(list_recipes())
    for name in learned:
        recipe = load_recipe(name)
        assert (recipe.method, recipe.backbone, recipe.start) == (name, "edsr-baseline", "default")
        assert recipe.about


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_are_recipes(name):
    assert load_recipe(name).steps > 0


def rates(recipe, *steps):
    return [learning_rate(recipe, step) for step in steps]


def test_learning_rates_by_hand(tiny):
    cosine = tiny("lr=1.0", "warmup=4", "steps=12")
    assert rates(cosine, 0, 1, 3, 4, 8, 12) == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0])
    assert rates(tiny("lr=1.0", "warmup=4", "steps=12", "epoch=4"), 3, 4, 7, 8, 11) == pytest.approx(
        [0.25, 1, 1, 0.5, 0.5]
    )
    halved = tiny("lr=1.0", "schedule=step", "milestones=[3, 5]")
    assert rates(halved, 2, 3, 4, 5) == [1, 0.5, 0.5, 0.25]


def test_liifs_rate_is_halved_after_its_epochs():
    """Of 1,000 steps, at 200, 400, 600 and 800."""
    assert rates(load_recipe("liif"), 0, 199_999, 200_000, 999_999) == pytest.approx([1e-4, 1e-4, 5e-5, 6.25e-6])


def test_srnos_rates_are_those_of_its_schedule():
    """As printed by its scheduler at epochs 1, 51, 300, 550 and 1000, of 250 steps."""
    found = rates(load_recipe("srno"), *(250 * (epoch - 1) + 7 for epoch in (1, 51, 300, 550, 1000)))
    assert found == pytest.approx([4e-5, 4e-4, 3.42e-4, 2.0e-4, 2.6e-6], rel=0.02)


def test_gsasrs_rates_are_those_of_basicsr():
    """Iteration t, from 1, is step t - 1: t / 2000 of the rate, then 1999 / 2000 of it, halved after a milestone."""
    found = rates(load_recipe("gsasr"), 0, 999, 1998, 1999, 249_999, 250_000, 475_000)
    nominal = 2e-4 * 1999 / 2000
    assert found == pytest.approx([1e-7, 1e-4, nominal, nominal, nominal, nominal / 2, nominal / 16])


def test_the_micro_recipes_differ_in_network_and_steps_alone():
    recipes = [load_recipe(name) for name in list_recipes() if name.endswith("-micro")]
    own = {"about": "", "method": "gsasr", "hparams": {}, "queries": 1, "steps": 5, "val_every": 1}
    assert len({str(replace(recipe, **own)) for recipe in recipes}) == 1
    assert {recipe.backbone for recipe in recipes} == {"edsr-micro"}
    assert all(recipe.steps == 5 * recipe.val_every for recipe in recipes)
    assert {recipe.queries for recipe in recipes if recipe.method != "gsasr"} == {2 * 24**2}
