"""Every method can be trained: a few steps of a small network."""

from __future__ import annotations

import pytest
import torch

from bench.training import load_recipe
from bench.training.loop import make_accelerator
from bench.training.patches import PatchSampler
from bench.training.pool import open_pool
from bench.training.run import Run
from methods.registry import list_methods

LMF = {"depth": 2}
SMALL = {
    "metasr": {"hidden": 8},
    "liif": {"hidden": [16, 12]},
    "lte": {"dim": 16, "hidden": [12, 10]},
    "srno": {"width": 16, "blocks": 4},
    "linf": {"dim": 8, "depth": 1, "flow_layers": 2},
    "linf-patch": {"dim": 8, "depth": 1, "flow_layers": 2},
    "lmf": {**LMF, "hidden": [16, 12]},
    "lm-liif": {**LMF, "hidden": 16},
    "lm-lte": {**LMF, "dim": 16, "hidden": 16},
    "ciaosr": {"hidden": [16, 12]},
    "gaussiansr": {"points": 16, "dim": 16, "hidden": [12, 10]},
    "gsasr": {"channels": 12, "heads": 2, "window": 4, "self_blocks": 1, "self_layers": 2},
}


def test_every_method_is_here():
    assert SMALL.keys() == {spec.name for spec in list_methods() if spec.learned}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("per", ["image", "batch"])
def test_losses_fall(root, name, precision, per):
    """On one batch, again and again."""
    hparams = "{" + ", ".join(f"{key} = {value}" for key, value in SMALL[name].items()) + "}"
    overrides = [f"method={name}", f"hparams={hparams}", "encoder={blocks = 1, channels = 12}", "warmup=0", "lr=3e-3"]
    overrides += [f"scale_per={per}", f"precision={precision}", "val=[]", "steps=1000"]
    recipe = load_recipe(root / "tiny.toml", overrides)
    run = Run(recipe, make_accelerator(recipe, "cpu"))
    sampler = PatchSampler(open_pool(root, recipe)[0].images, recipe)
    batch, losses = sampler(0), []
    for _ in range(25):
        run.update(lambda *_: batch)
        losses.append(run.latest_loss)
    assert losses[-1] < 0.9 * losses[0]
    unused = {key for key, value in run.model.named_parameters() if value.grad is None}
    assert all("norm" in key for key in unused)  # those of GSASR's attention to the scale
    assert all(torch.isfinite(value).all() for value in run.average.parameters())


def test_likelihood_falls_too(root):
    overrides = ["method=linf", "hparams={dim = 8, depth = 1, flow_layers = 2}", "losses={nll = 1.0}", "warmup=0"]
    recipe = load_recipe(root / "tiny.toml", [*overrides, "val=[]", "steps=1000", "lr=3e-3"])
    run = Run(recipe, make_accelerator(recipe, "cpu"))
    batch, losses = PatchSampler(open_pool(root, recipe)[0].images, recipe)(0), []
    for _ in range(25):
        run.update(lambda *_: batch)
        losses.append(run.latest_loss)
    assert losses[-1] < losses[0] - 0.5
