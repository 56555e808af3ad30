"""A folder of small images and a recipe that takes a second."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from skimage import data

from bench.training import load_recipe

TINY = """
method = "liif"
backbone = "edsr-micro"
encoder = { blocks = 1, channels = 8 }
hparams = { hidden = [8, 8] }
data = "images"
val = ["astronaut.png"]
val_scales = [2.5]
lr_side = 8
batch = 2
scale = [1.0, 3.0]
queries = 64
steps = 6
lr = 1e-3
warmup = 2
ema = 0.9
log_every = 2
save_every = 2
val_every = 4
seed = 5
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory, monkeypatch):
    """Threads as before, an empty cache, and no accelerator left over."""
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    (folder / "images" / "below").mkdir(parents=True)
    for name in ("coffee", "chelsea", "astronaut"):
        image = Image.fromarray(getattr(data, name)()[100:140, 100:148])
        image.save(folder / "images" / ("below" if name == "chelsea" else "") / f"{name}.png")
    (folder / "tiny.toml").write_text(TINY)
    return folder


@pytest.fixture
def tiny(root):
    """The recipe, with overrides."""
    return lambda *overrides: load_recipe(root / "tiny.toml", overrides)
