from __future__ import annotations

import csv
import tomllib

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch.nn import functional as F

from bench.resize import resize
from bench.training import list_recipes, load_recipe
from bench.training.loop import train
from bench.training.patches import PatchSampler, read_pool
from bench.training.run import Run, l1, learning_rate
from bench.training.starts import interpolate
from methods import build, load
from methods.errors import UserError

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
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    (folder / "images" / "below").mkdir(parents=True)
    for name in ("coffee", "chelsea", "astronaut"):
        image = Image.fromarray(getattr(data, name)()[100:140, 100:148])
        image.save(folder / "images" / ("below" if name == "chelsea" else "") / f"{name}.png")
    (folder / "tiny.toml").write_text(TINY)
    return folder


def tiny(root, *overrides):
    return load_recipe(root / "tiny.toml", overrides)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stepz=3", "stepz.*steps"),
        ("lr=fast", "'lr'.*number"),
        ("steps=0", "steps.*positive.*0"),
        ("steps", "not key=value"),
        ("steps.more=1", "steps=VALUE"),
        ("scale=[3.0, 2.0]", "smallest, largest"),
        ("schedule=linear", "schedule.*'cosine', 'step'"),
        ("schedule=step", "milestones"),
        ("ema=1.0", r"ema.*\[0, 1\)"),
        ("method=lif", "liif"),
        ("backbone=edsr", "edsr"),
    ],
)
def test_a_wrong_recipe_is_answered_in_a_sentence(root, override, words):
    with pytest.raises(UserError, match=words):
        tiny(root, override)


def test_a_missing_or_broken_recipe_is_answered_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="liif-micro"):
        load_recipe("lif-micro")
    with pytest.raises(UserError, match="no recipe file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("steps = ")
    with pytest.raises(UserError, match="broken"):
        load_recipe(tmp_path / "broken.toml")


def test_overrides_are_toml_or_text_and_reach_into_tables(root):
    recipe = tiny(root, "hparams.hidden=[4]", "data=elsewhere", "lr=0.5")
    assert (recipe.hparams, recipe.data, recipe.lr) == ({"hidden": [4]}, "elsewhere", 0.5)


def test_shipped_recipes_share_what_makes_them_comparable():
    recipes = [load_recipe(name) for name in list_recipes() if name in ("gsasr-micro", "liif-micro")]
    assert len(recipes) == 2
    assert len({(r.backbone, r.data, r.val, r.lr_side, r.batch, r.scale, r.seed, r.threads) for r in recipes}) == 1


def test_the_pool_holds_back_validation_images(root):
    images, val = read_pool(root / "images", ["astronaut.png"])
    assert (list(images), list(val)) == (["below/chelsea.png", "coffee.png"], ["astronaut.png"])
    with pytest.raises(UserError, match=r"nobody\.png"):
        read_pool(root / "images", ["nobody.png"])
    with pytest.raises(UserError, match="data-root"):
        read_pool(root / "nowhere", [])


def sampler(root, seed=0, **settings):
    images, _ = read_pool(root / "images", [])
    return PatchSampler(
        list(images.values()), **{"lr_side": 8, "batch": 3, "scale": (1.0, 4.0), "seed": seed, **settings}
    )


def test_lr_patches_are_the_protocols(root):
    draw = sampler(root)
    for step in range(8):
        batch = draw(step)
        for lr, hr in zip(*(to_uint8(images) for images in (batch.lr, batch.hr)), strict=True):
            np.testing.assert_array_equal(lr, resize(hr, 1 / batch.scale, out_size=(8, 8)))


def to_uint8(images):
    scaled = images.permute(0, 2, 3, 1) * 255
    assert (scaled - scaled.round()).abs().max() < 1e-4
    return scaled.round().to(torch.uint8).numpy()


def test_hr_patches_are_oriented_cuts_of_the_images(root):
    images, _ = read_pool(root / "images", [])
    batch = sampler(root, scale=(2.0, 2.0))(3)
    cuts = [
        cut
        for image in images.values()
        for cut in np.lib.stride_tricks.sliding_window_view(image, (16, 16), (0, 1)).reshape(-1, 3, 16, 16)
    ]
    known = {cut.tobytes() for cut in cuts}
    for hr in to_uint8(batch.hr).transpose(0, 3, 1, 2):
        turned = [np.rot90(side, k, (1, 2)) for side in (hr, hr[:, ::-1]) for k in range(4)]
        assert any(np.ascontiguousarray(t).tobytes() in known for t in turned)


def test_a_batch_depends_on_seed_and_step_alone(root):
    draw = sampler(root)
    first = draw(7)
    draw(8)
    assert torch.equal(draw(7).hr, first.hr)
    assert torch.equal(sampler(root)(7).hr, first.hr)
    assert sampler(root, seed=1)(7).scale != first.scale
    scales = [draw(step).scale for step in range(60)]
    assert 1 <= min(scales) < 1.4 < 3.6 < max(scales) <= 4


def test_images_smaller_than_a_patch_are_refused(root):
    with pytest.raises(UserError, match="164"):
        sampler(root, lr_side=41)


def test_learning_rate_by_hand(root):
    cosine = tiny(root, "lr=1.0", "warmup=4", "steps=12")
    assert [learning_rate(cosine, step) for step in (0, 1, 3, 4, 8, 12)] == pytest.approx([0.25, 0.5, 1, 1, 0.5, 0])
    halved = tiny(root, "lr=1.0", "schedule=step", "milestones=[3, 5]")
    assert [learning_rate(halved, step) for step in (2, 3, 4, 5)] == [1, 0.5, 0.5, 0.25]


def test_sampled_pixels_are_compared_with_their_own_targets(root):
    batch = sampler(root)(0)

    class Oracle:
        def encode(self, lr):
            return batch.hr.flatten(2)

        def render_at(self, feat, index, out_size, scale):
            assert all(len(set(row)) == 50 for row in index.tolist())
            return feat.gather(2, index[:, None].expand(-1, 3, -1))

    assert l1(Oracle(), batch, 50, np.random.default_rng(0)) == 0


def test_the_interpolating_start_of_liif_is_bilinear():
    torch.manual_seed(0)
    model = build("liif", "edsr-micro", encoder={"blocks": 1, "channels": 8}, hidden=(8, 8))
    interpolate(model)
    lr = torch.rand(2, 3, 7, 9)
    expected = F.interpolate(lr, size=(16, 25), mode="bilinear")
    torch.testing.assert_close(model(lr, (16, 25)), expected, rtol=0, atol=1e-5)


def test_the_interpolating_start_of_gsasr_resembles_the_input():
    torch.manual_seed(0)
    small = {"channels": 16, "heads": 2, "window": 6, "self_blocks": 1, "self_layers": 1, "head_ratio": 1}
    model = build("gsasr", "edsr-micro", encoder={"blocks": 1, "channels": 8}, lr_window=4.0, **small)
    interpolate(model)
    lr = torch.from_numpy(data.astronaut()[::21, ::21][:24, :24]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        sr = model(lr, (48, 48), 2.0)
    expected = F.interpolate(lr, size=(48, 48), mode="bilinear")
    assert np.corrcoef(sr.flatten(), expected.flatten())[0, 1] > 0.9
    assert abs(sr.mean() - expected.mean()) < 0.15


def test_the_interpolating_start_is_refused_for_other_networks():
    class Other(torch.nn.Module):
        encoder = None

    with pytest.raises(UserError, match="Other"):
        interpolate(Other())


def test_a_few_images_are_learnt(root, tmp_path):
    train(
        root / "tiny.toml",
        data_root=root,
        out=tmp_path,
        overrides=["steps=150", "lr=5e-3", "log_every=30", "val_every=150", "scale=[2.0, 2.0]"],
    )
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


def rows(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_interrupted_training_resumes_bitwise(root, tmp_path, monkeypatch):
    whole = load_file(train(root / "tiny.toml", data_root=root, out=tmp_path / "whole"))
    update = Run.update

    def interrupted(self, batch):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, batch)

    monkeypatch.setattr(Run, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(root / "tiny.toml", data_root=root, out=tmp_path / "parts")
    monkeypatch.undo()
    with pytest.raises(UserError, match="--resume"):
        train(root / "tiny.toml", data_root=root, out=tmp_path / "parts")
    with pytest.raises(UserError, match="another seed, lr"):
        train(root / "tiny.toml", data_root=root, out=tmp_path / "parts", overrides=["seed=6", "lr=1.0"], resume=True)
    parts = load_file(train(root / "tiny.toml", data_root=root, out=tmp_path / "parts", resume=True))
    assert all(torch.equal(parts[key], value) for key, value in whole.items())
    keep = ("step", "loss", "lr", "psnr_y_x2.5")
    assert [[r[k] for k in keep] for r in rows(tmp_path / "parts")] == [
        [r[k] for k in keep] for r in rows(tmp_path / "whole")
    ]


def load_file(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_the_export_loads_as_weights_and_describes_itself(root, tmp_path):
    path = train(root / "tiny.toml", data_root=root, out=tmp_path)
    model = load("liif", "edsr-micro", weights=str(path))
    average = Run.load(tmp_path / "state.pt", tiny(root)).average
    lr = torch.rand(1, 3, 6, 5)
    torch.testing.assert_close(model(lr, (12, 10)), average(lr, (12, 10)))
    (entry,) = tomllib.loads((tmp_path / "zoo-entry.toml").read_text())["checkpoint"]
    assert (entry["method"], entry["steps"], entry["bytes"]) == ("liif", 6, path.stat().st_size)
    assert float(rows(tmp_path)[-1]["psnr_y_x2.5"]) == pytest.approx(entry["validation"]["psnr_y_x2.5"], abs=1e-3)


def test_the_average_follows_the_weights_as_computed_in_float64(root):
    run, draw = Run(tiny(root, "ema=0.3")), sampler(root)
    weight = run.model.imnet.layers[0].weight
    expected = weight.detach().double().clone()
    for step in range(5):
        run.update(draw(step))
        decay = min(0.3, (step + 1) / (step + 11))
        expected = decay * expected + (1 - decay) * weight.detach().double()
    np.testing.assert_allclose(run.average.imnet.layers[0].weight, expected, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_training(root, tmp_path):
    with pytest.raises(UserError, match=r"not finite|is (nan|inf).*lower lr"):
        train(root / "tiny.toml", data_root=root, out=tmp_path, overrides=["lr=1e30", "warmup=0", "ema=0.0"])


def test_a_folder_without_state_cannot_be_resumed(root, tmp_path):
    with pytest.raises(UserError, match="resume"):
        train(root / "tiny.toml", data_root=root, out=tmp_path, resume=True)
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(UserError, match="not a training state"):
        train(root / "tiny.toml", data_root=root, out=tmp_path, resume=True)


def test_an_output_folder_that_cannot_be_made_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        train(root / "tiny.toml", data_root=root, out=tmp_path / "file" / "below")
