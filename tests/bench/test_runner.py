from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import stub_methods
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from bench.compute import Compute
from bench.inference import super_resolve
from bench.progress import Progress
from bench.rows import Row
from bench.runner import RunResult, run
from bench.settings import make_settings
from bench.store import read_rows
from methods import registry
from methods.errors import UserError

FAULTY = ("Raising", "NotFinite", "WrongShape", "WholeNumbers", "Unbuildable")
STUBS = (*FAULTY, "Hungry", "Starving", "Interrupting", "Random", "Optional", "Peeking")


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    """Stub methods beside a bicubic that is one too; no metric networks, no data root."""
    yardstick = replace(registry.method_spec("bicubic"), target="stub_methods:Nearest")
    specs = [stub_methods.spec(getattr(stub_methods, name)) for name in STUBS]
    specs = [replace(spec, deterministic=spec.name != "random") for spec in specs]
    monkeypatch.setattr(registry, "_METHODS", {spec.name: spec for spec in (yardstick, *specs)})
    monkeypatch.setattr(stub_methods.Nearest, "calls", 0)
    monkeypatch.setenv("TORCH_HOME", str(Path(__file__).parent / "no-networks"))
    monkeypatch.delenv("ASRBENCH_DATA", raising=False)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Four small images that are not smooth."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"p{index}.png")
    return tmp_path / "photos"


def evaluate(photos: Path, methods: str = "bicubic", scales: str = "2", *, run_id: str = "run", **more) -> RunResult:
    choices = {name: more.pop(name) for name in ("fresh", "save_images", "progress", "max_memory") if name in more}
    settings = make_settings(methods=methods, scales=scales, datasets=str(photos), device="cpu", **more)
    return run(settings, photos.parent / "results", run_id, **choices)


def timeless(rows: list[Row] | tuple[Row, ...]) -> list[Row]:
    return [replace(row, seconds=None, run_id="") for row in rows]


def by_method(result: RunResult, method: str) -> list[Row]:
    return [row for row in result.rows if row.method == method]


def test_rows_say_what_was_measured(photos):
    result = evaluate(photos, scales="2,3.5", save_images=True)
    assert result.exit_code == 0
    assert dict(result.counts) == {"planned": 8, "done": 8, "skipped": 0, "failed": 0}
    row = next(row for row in result.rows if row.image == "p3" and row.scale == 3.5)
    assert (row.lr_h, row.lr_w) == (12, 14)  # floor(43 / 3.5), floor(50 / 3.5)
    assert (row.hr_h, row.hr_w) == (42, 49)  # floor(12 * 3.5), floor(14 * 3.5)
    assert row.reason is not None
    assert (row.lpips, row.status, row.reason.startswith("lpips: LPIPS needs")) == (None, "ok", True)
    saved = np.asarray(Image.open(result.path / "images" / "photos" / "x3.5" / "p3_bicubic.png"))
    original = np.asarray(Image.open(photos / "p3.png"))[:42, :49]
    rgb = evaluate(photos, scales="3.5", metrics="psnr_rgb", run_id="rgb")
    expected = peak_signal_noise_ratio(original[3:-3, 3:-3], saved[3:-3, 3:-3], data_range=255)
    assert next(row for row in rgb.rows if row.image == "p3").psnr_rgb == pytest.approx(expected, abs=1e-9)


def test_manifest_and_parquet_tell_the_same_as_the_rows(photos):
    result = evaluate(photos, limit=2)
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert manifest["partial"] is True
    assert manifest["limit"] == 2
    assert manifest["counts"] == dict(result.counts)
    assert manifest["protocol"]["resampler"] == "basicsr"
    assert [(entry["name"], entry["images"]) for entry in manifest["datasets"]] == [("photos", 2)]
    assert pyarrow.parquet.read_table(result.path / "rows.parquet").to_pylist() == [asdict(row) for row in result.rows]
    snapshot = Path(__file__).parent / "snapshots" / "manifest_keys.json"
    assert sorted(manifest) == json.loads(snapshot.read_text())


def test_the_same_command_gives_the_same_rows_and_does_not_repeat_them(photos):
    first = evaluate(photos, "random", "2,3")
    assert timeless(evaluate(photos, "random", "2,3", run_id="other").rows) == timeless(first.rows)
    calls = stub_methods.Random.calls
    again = evaluate(photos, "random", "2,3")
    assert again.rows == first.rows
    assert stub_methods.Random.calls == calls


def test_a_cut_run_ends_like_an_unbroken_one(photos):
    whole = evaluate(photos, "random", "2,3")
    log = whole.path / "rows" / "0.jsonl"
    content = log.read_bytes()
    log.write_bytes(content[: len(content) * 2 // 5])
    resumed = evaluate(photos, "random", "2,3")
    assert timeless(resumed.rows) == timeless(whole.rows)
    stored = list(read_rows(whole.path, Row))
    assert timeless(stored) == timeless(sorted(whole.rows, key=Row.place))


def test_ctrl_c_leaves_a_run_that_goes_on(photos, monkeypatch):
    monkeypatch.setattr(stub_methods.Interrupting, "calls", 0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(photos, "interrupting")
    path = photos.parent / "results" / "run"
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["state"], manifest["counts"]["done"]) == ("interrupted", 4 + 2)
    result = evaluate(photos, "interrupting")
    assert (result.exit_code, result.counts["done"]) == (0, 8)
    assert stub_methods.Interrupting.calls == 5


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("raising", "error", "ZeroDivisionError: no luck"),
        ("notfinite", "error", "MethodFault: The method returned numbers that are not finite (NaN or infinity)."),
        ("wrongshape", "error", "MethodFault: The method returned shape (1, 3, 40, 49), not (1, 3, 40, 50)."),
        ("wholenumbers", "error", "MethodFault: The method returned torch.int32, not floating-point numbers."),
        ("unbuildable", "error", "unbuildable cannot be loaded: AttributeError: no such layer"),
        ("starving", "oom", "Memory ran out on cpu even with 1024 queries at a time."),
    ],
)
def test_a_failing_method_gets_rows_with_a_reason_and_the_others_go_on(photos, method, status, reason):
    result = evaluate(photos, method)
    assert result.exit_code == 3
    assert dict(result.counts) == {"planned": 8, "done": 4, "skipped": 0, "failed": 4}
    failed = by_method(result, method)
    assert {row.status for row in failed} == {status}
    assert failed[0].reason == reason
    assert {row.psnr_y for row in failed} == {None}
    assert all(row.psnr_y is not None for row in by_method(result, "bicubic"))


def test_failed_rows_are_tried_again_and_replaced(photos, monkeypatch):
    assert evaluate(photos, "starving").exit_code == 3
    monkeypatch.setattr(stub_methods.Starving, "fits", 10**9)
    monkeypatch.setattr(stub_methods.Hungry, "render", stub_methods.Nearest.render)
    result = evaluate(photos, "starving")
    assert (result.exit_code, result.counts["done"]) == (0, 8)
    assert len(list(read_rows(result.path, Row))) == 8


def test_memory_running_out_shrinks_the_chunk_and_not_the_result(photos):
    result = evaluate(photos, "hungry")
    assert result.exit_code == 0
    assert {row.tile for row in by_method(result, "hungry")} == {4096}
    scores = [[row.psnr_y for row in by_method(result, method)] for method in ("hungry", "bicubic")]
    assert scores[0] == scores[1]


def test_a_limit_of_memory_is_kept_or_said_and_is_no_part_of_the_key(photos):
    free = evaluate(photos)
    image = 50 * 43 * 3 * 4
    bounded = evaluate(photos, run_id="bounded", max_memory=2 * image)
    assert [row.row_key for row in bounded.rows] == [row.row_key for row in free.rows]
    assert {(row.status, row.tile) for row in bounded.rows} == {("ok", None)}
    poor = evaluate(photos, run_id="poor", max_memory=image)
    assert {row.status for row in poor.rows} == {"oom"}
    assert "An image of 25x20 pixels needs at least 0 MiB for 50x40, more than" in (poor.rows[0].reason or "")


def test_memory_that_cannot_be_told_is_said(photos):
    assert evaluate(photos, "peeking").exit_code == 0
    failed = by_method(evaluate(photos, "peeking", run_id="limited", max_memory=10**9), "peeking")
    assert {row.status for row in failed} == {"error"}
    assert "How much memory it needs cannot be told" in (failed[0].reason or "")
    assert (failed[0].reason or "").endswith("leave out --max-memory.")


def test_rows_say_which_options_were_in_force(photos):
    def options(**flags):
        return {row.options for row in by_method(evaluate(photos, "optional", **flags), "optional")}

    assert options() == {'{"cell": "true", "gain": 1.0}'}
    assert options(cell="clipped", run_id="cell") == {'{"cell": "clipped", "gain": 1.0}'}
    both = {"cell": "clipped", "options": ["optional.cell=true", "optional.gain=0.5"]}
    assert options(**both, run_id="set") == {'{"cell": "true", "gain": 0.5}'}
    assert {row.options for row in by_method(evaluate(photos), "bicubic")} == {"{}"}


def test_the_cell_rule_belongs_to_the_protocol(photos):
    assert json.loads((evaluate(photos).path / "manifest.json").read_text())["protocol"]["cell"] == "published"
    other = evaluate(photos, cell="true", run_id="other")
    assert json.loads((other.path / "manifest.json").read_text())["protocol"]["cell"] == "true"
    with pytest.raises(UserError, match="was made with the protocol 'gsasr'"):
        evaluate(photos, cell="true")


def test_rows_say_how_was_computed(photos):
    result = evaluate(photos, dtype="autocast-bfloat16", channels_last=True)
    assert {(row.dtype, row.acceleration, row.status) for row in result.rows} == {("autocast-bfloat16", "", "ok")}
    compute = json.loads((result.path / "manifest.json").read_text())["compute"]
    assert (compute["dtype"], compute["acceleration"]) == ("autocast-bfloat16", "channels-last")


def test_bad_images_become_rows(photos):
    (photos / "p1.png").write_bytes((photos / "p1.png").read_bytes()[:500])
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(photos / "tiny.png")
    result = evaluate(photos, scales="4")
    assert result.exit_code == 3
    statuses = {row.image: row.status for row in result.rows}
    assert statuses == {"p0": "ok", "p1": "error", "p2": "ok", "p3": "ok", "tiny": "skipped"}
    reasons = {row.image: row.reason or "" for row in result.rows}
    assert "p1.png is damaged" in reasons["p1"]
    assert "too small for scale 4" in reasons["tiny"]


def test_equal_images_have_rows_of_their_own(photos):
    (photos / "twin.png").write_bytes((photos / "p0.png").read_bytes())
    result = evaluate(photos)
    assert [row.image for row in result.rows] == ["p0", "p1", "p2", "p3", "twin"]
    assert len({row.row_key for row in result.rows}) == 5


def test_infinite_psnr_is_null_with_a_reason(photos):
    for file in photos.iterdir():
        Image.new("RGB", (32, 32), (10, 20, 30)).save(file)
    row = evaluate(photos).rows[0]
    assert row.psnr_y is None
    assert row.ssim_y == pytest.approx(1)
    assert "psnr_y: infinite, SR and GT are identical" in (row.reason or "")


def test_protocols_are_not_mixed_in_one_folder(photos):
    evaluate(photos)
    with pytest.raises(UserError, match="was made with the protocol 'gsasr'"):
        evaluate(photos, protocol="liif")
    assert evaluate(photos, protocol="liif", fresh=True).exit_code == 0


def test_a_liif_run_scores_unrounded_images(photos):
    rounded = evaluate(photos, "random", protocol="gsasr-pillow", metrics="psnr_y")
    exact = evaluate(photos, "random", protocol="liif", run_id="liif")
    pairs = list(zip(by_method(rounded, "random"), by_method(exact, "random"), strict=True))
    assert all(a.psnr_y != b.psnr_y and a.psnr_y == pytest.approx(b.psnr_y, abs=0.01) for a, b in pairs)


def test_a_run_says_once_what_is_not_available(photos):
    class Recorder(Progress):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.notes.append(text)

    evaluate(photos, "random", "2,3", progress=Recorder())
    assert [text.split(" needs ")[0] for text in Recorder.notes] == ["LPIPS", "DISTS"]


def test_a_second_process_is_refused_while_the_first_writes(photos):
    class Second(Progress):
        def begin(self, cell, done) -> None:
            with pytest.raises(UserError, match="Another process is writing"):
                evaluate(photos)

    assert evaluate(photos, progress=Second()).exit_code == 0


def test_super_resolve_seeds_every_image():
    import torch

    lr = np.zeros((4, 5, 3), np.uint8)
    compute = Compute(torch.device("cpu"), torch.float32)
    first, second, other = (
        super_resolve(stub_methods.Random(), lr, (8, 10), 2.0, compute, seed=seed).sr for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def kill(photos: Path, folder: Path, rows: int) -> None:
    """Start a run of 16 images in another process and kill it once it has appended some rows."""
    environment = stub_methods.plug_in(folder.parent / f"plugin{rows}") | {"STUB_SECONDS": "0.1"}
    flags = ["--methods", "slow", "--scales", "2,3", "--datasets", str(photos), "--out", str(folder), "--run-id", "r"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "bench", "run", *flags, "--device", "cpu"], env=environment, stderr=subprocess.DEVNULL
    )
    log = folder / "r" / "rows" / "0.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists() or log.read_bytes().count(b"\n") < rows:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()


@pytest.mark.parametrize(
    "rows", [10, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (1, 3, 7, 8, 9, 12, 14, 15))]
)
def test_a_killed_run_ends_like_an_unbroken_one(photos, tmp_path, monkeypatch, rows):
    yardstick = replace(registry.method_spec("bicubic"), target="methods.bicubic:Bicubic")  # as in the other process
    monkeypatch.setattr(registry, "_METHODS", {"bicubic": yardstick, "slow": stub_methods.slow})
    kill(photos, tmp_path / "killed", rows)
    settings = make_settings(methods="slow", scales="2,3", datasets=str(photos), device="cpu")
    before = {row.row_key: row for row in read_rows(tmp_path / "killed" / "r", Row)}
    resumed, whole = (run(settings, tmp_path / name, "r") for name in ("killed", "whole"))
    assert timeless(resumed.rows) == timeless(whole.rows)
    assert len(before) >= rows
    assert {row.row_key: row for row in read_rows(resumed.path, Row)}.items() >= before.items()
    assert len(list(read_rows(resumed.path, Row))) == 16
