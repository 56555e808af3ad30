from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.training.loop import make_accelerator, train
from bench.training.patches import PatchSampler
from bench.training.pool import open_pool
from bench.training.run import Run
from methods import load
from methods.errors import UserError

REPEATED = ("step", "loss", "lr", "psnr_y_x2.5")
"""Columns that do not depend on the clock."""


def rows(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [[row[key] for key in REPEATED] for row in csv.DictReader(file)]


def follow(root, out, *overrides, **settings):
    return train(root / "tiny.toml", data_root=root, out=out, overrides=overrides, device="cpu", **settings)


def begun(root, recipe):
    accelerator = make_accelerator(recipe, "cpu")
    return Run(recipe, accelerator), PatchSampler(open_pool(root, recipe)[0].images, recipe)


def test_a_few_images_are_learnt(root, tmp_path):
    follow(root, tmp_path, "steps=150", "lr=5e-3", "log_every=30", "val_every=150", "scale=[2.0, 2.0]")
    losses = [float(row[1]) for row in rows(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]


def test_an_interrupted_training_resumes_bitwise(root, tmp_path, monkeypatch):
    whole = load_file(follow(root, tmp_path / "whole"))
    update = Run.update

    def interrupted(self, batch):
        if self.step == 5:
            raise KeyboardInterrupt
        update(self, batch)

    monkeypatch.setattr(Run, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        follow(root, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="--resume auto"):
        follow(root, tmp_path / "parts")
    with pytest.raises(UserError, match="another seed, lr"):
        follow(root, tmp_path / "parts", "seed=6", "lr=1.0", resume="auto")
    parts = load_file(follow(root, tmp_path / "parts", resume="auto"))
    assert all(torch.equal(parts[key], value) for key, value in whole.items())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(root, tmp_path):
    """Weights and log are those of a training that nobody killed."""
    overrides = ["steps=800", "save_every=7", "log_every=5", "val_every=40", "ema=0.99"]
    whole = load_file(follow(root, tmp_path / "whole", *overrides))
    command = [sys.executable, "-m", "bench", "train", str(root / "tiny.toml"), "--data-root", str(root)]
    command += ["--device", "cpu", "--resume", "auto", "--out", str(tmp_path / "parts")]
    command += [word for override in overrides for word in ("--set", override)]
    state = tmp_path / "parts" / "state.pt"
    for wait in np.random.default_rng(0).uniform(0.0, 0.2, 5):
        before = state.stat().st_mtime_ns if state.is_file() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and (not state.is_file() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(wait)
        assert process.poll() is None  # most states are left to be saved
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = load_file(tmp_path / "parts" / "tiny.safetensors")
    assert all(torch.equal(parts[key], value) for key, value in whole.items())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    names = [
        sorted(path.name for path in (tmp_path / part).rglob("*") if "tfevents" not in path.name)
        for part in ("parts", "whole")
    ]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["liif", "gsasr"])
def test_two_processes_train_as_one_does(root, tmp_path, method):
    overrides = ["steps=20", "batch=4", "val=[]", "save_every=20", "log_every=1", f"method={method}"]
    if method == "gsasr":
        small = {"channels": 12, "heads": 2, "window": 4, "self_blocks": 1, "self_layers": 2, "head_ratio": 1}
        overrides += ["hparams={" + ", ".join(f"{key} = {value}" for key, value in small.items()) + "}"]
    one = load_file(follow(root, tmp_path / "one", *overrides))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "bench"]
    command += ["train", str(root / "tiny.toml"), "--data-root", str(root), "--device", "cpu"]
    command += ["--out", str(tmp_path / "two"), *(word for o in overrides for word in ("--set", o))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = load_file(tmp_path / "two" / "tiny.safetensors")
    if method == "liif":  # of GSASR some gradients are about zero, whose rounding noise Adam enlarges
        largest = max(float((two[key] - value).abs().max()) for key, value in one.items())
        assert largest < 1e-5 * max(float(value.abs().max()) for value in one.values())
    losses = [[float(row[1]) for row in rows(tmp_path / name)] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_accumulated_parts_train_as_one_batch_does(root, tmp_path):
    states = []
    for parts in (1, 2):
        path = follow(root, tmp_path / str(parts), "batch=4", f"accumulate={parts}", "val=[]")
        states.append(load_file(path))
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=1e-6)


def test_a_finished_training_is_left_as_it_is(root, tmp_path):
    path = follow(root, tmp_path)
    entry = (tmp_path / "zoo-entry.toml").read_text()
    assert follow(root, tmp_path, resume="auto") == path
    assert (tmp_path / "zoo-entry.toml").read_text() == entry
    path.unlink()  # as if killed before the export
    follow(root, tmp_path, resume="auto")
    found = tomllib.loads((tmp_path / "zoo-entry.toml").read_text())["checkpoint"][0]["validation"]
    assert found == tomllib.loads(entry)["checkpoint"][0]["validation"]


def test_a_batch_that_cannot_be_split_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="batch of 2 cannot be split among 1 processes with 3 parts"):
        follow(root, tmp_path, "accumulate=3")


def test_the_export_loads_as_weights_and_describes_itself(root, tmp_path, tiny):
    path = follow(root, tmp_path)
    model = load("liif", "edsr-micro", weights=str(path))
    run, _ = begun(root, tiny())
    run.restore(tmp_path / "state.pt")
    lr = torch.rand(1, 3, 6, 5)
    torch.testing.assert_close(model(lr, (12, 10)), run.average(lr, (12, 10)))
    (entry,) = tomllib.loads((tmp_path / "zoo-entry.toml").read_text())["checkpoint"]
    assert (entry["method"], entry["steps"], entry["bytes"]) == ("liif", 6, path.stat().st_size)
    assert float(rows(tmp_path)[-1][3]) == pytest.approx(entry["validation"]["psnr_y_x2.5"], abs=1e-3)


def test_the_contact_sheet_shows_every_validation_and_the_truth(root, tmp_path):
    follow(root, tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "contact.png"))
    assert sheet.shape == (16 + 96, 3 * 98 - 2, 3)  # steps 4 and 6, and the truth
    truth = np.asarray(Image.open(root / "images" / "astronaut.png"))[:40, :47]
    np.testing.assert_array_equal(sheet[16 + 28 : 16 + 68, 196 + 25 : 196 + 72], truth)


def test_options_of_training_end_with_it(root, tmp_path, tiny):
    """GSASR is trained with a larger window than it is used with."""
    small = "hparams={channels = 12, heads = 2, window = 4, self_blocks = 1, self_layers = 1, dmax = 0.2}"
    run, _ = begun(root, tiny("method=gsasr", small, "while_training.dmax=0.5"))
    assert (run.model.rendering.dmax, run.average.rendering.dmax) == (0.5, 0.2)


def test_fine_tuning_starts_from_given_weights(root, tmp_path, tiny):
    path = follow(root, tmp_path)
    run, _ = begun(root, tiny(f'weights="{path}"', "seed=9"))
    for key, value in load_file(path).items():
        assert torch.equal(run.model.state_dict()[key], value)
    with pytest.raises(UserError, match="another network"):
        begun(root, tiny(f'weights="{path}"', "hparams.hidden=[4, 4]"))


def test_every_loss_is_a_step_of_its_own(root, tiny):
    """As in LINF's fine-tuning: on the likelihood, then, from there, on L1."""
    small = ["method=linf", "hparams={dim = 8, depth = 1, flow_layers = 2}", "losses={nll = 5e-4, l1 = 1.0}"]
    run, sampler = begun(root, tiny(*small, "ema=0.0", "warmup=0"))
    other, _ = begun(root, tiny(*small, "ema=0.0", "warmup=0"))
    run.update(sampler)
    optimizer = torch.optim.Adam(other.model.parameters(), lr=1e-3)
    for loss, weight in (("nll", 5e-4), ("l1", 1.0)):
        optimizer.zero_grad()
        (weight * other.objective(loss, sampler(0))).backward()
        optimizer.step()
    for ours, expected in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("ramp", [True, False])
def test_the_average_follows_the_weights_as_computed_in_float64(root, tiny, ramp):
    run, sampler = begun(root, tiny("ema=0.3", f"ema_ramp={str(ramp).lower()}"))
    weight = run.model.imnet.layers[0].weight
    expected = weight.detach().double().clone()
    for step in range(5):
        run.update(sampler)
        decay = min(0.3, (step + 1) / (step + 11)) if ramp else 0.3
        expected = decay * expected + (1 - decay) * weight.detach().double()
    np.testing.assert_allclose(run.average.imnet.layers[0].weight, expected, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_training(root, tmp_path):
    with pytest.raises(UserError, match=r"is (nan|inf).*lower lr.*state\.pt"):
        follow(root, tmp_path, "lr=1e30", "warmup=0", "ema=0.0", "save_every=1")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] >= 1


def test_a_full_disk_is_named_and_the_last_state_is_kept(root, tmp_path, monkeypatch):
    save = torch.save

    def full(state, file):
        if state["step"] == 4:
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"state\.pt \(No space left on device\): free space"):
        follow(root, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_without_state_cannot_be_resumed(root, tmp_path):
    with pytest.raises(UserError, match="resume"):
        follow(root, tmp_path, resume="must")
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(UserError, match="not a training state"):
        follow(root, tmp_path, resume="auto")


def test_an_output_folder_that_cannot_be_made_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        follow(root, tmp_path / "file" / "below")


def test_a_device_that_is_none_is_refused(root, tmp_path):
    with pytest.raises(UserError, match="auto or cpu, not 'tpu'"):
        train(root / "tiny.toml", data_root=root, out=tmp_path, device="tpu")


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path: Path):
    from bench.training.logs import read_log

    (tmp_path / "log.csv").write_text("step,loss\n2,0.5\n4,0.25\n1")
    assert read_log(tmp_path / "log.csv") == [{"step": "2", "loss": "0.5"}, {"step": "4", "loss": "0.25"}]
    assert len(read_log(tmp_path / "log.csv", until=3)) == 1
