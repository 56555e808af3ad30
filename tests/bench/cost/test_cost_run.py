"""Cost runs from settings to rows, the measuring process in this one but where its death is the point."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet
import pytest
import stub_methods
from PIL import Image

import bench.cost.run as cost_run
from bench.cost.client import Failure
from bench.cost.jobs import Failed, from_line, job_from, to_line
from bench.cost.plan import CHUNKS
from bench.cost.rows import CostRow
from bench.cost.run import measure_cost
from bench.cost.settings import make_cost_settings
from bench.cost.worker import Session
from bench.store import read_rows
from methods import registry
from methods.errors import UserError

STUBS = ("Slow", "Hungry", "Starving", "Fickle", "Raising", "NotFinite", "Random", "Optional")


class Inside:
    """What `Worker` does, without a process; messages pass through their lines all the same."""

    started: ClassVar[list[Inside]] = []

    def __init__(self, tree: Path) -> None:
        self.log: list[str] = []
        self.started.append(self)

    def __enter__(self):
        folder = Path(os.environ["STUB_OUTPUTS"]) / str(len(self.started))
        folder.mkdir()
        self.session = Session(folder)
        return self

    def __exit__(self, *_):
        pass

    def ask(self, do, **content):
        self.log.append(do)
        answer = self.session.answer(json.loads(json.dumps({"do": do, **content})))
        answer = answer and from_line(to_line(answer))
        if isinstance(answer, Failed):
            raise Failure(answer)
        return answer

    def load(self, job):
        return self.ask("load", job=vars(job))

    def warm_up(self):
        self.ask("warm")

    def measure(self):
        return self.ask("measure")

    def finish(self):
        return self.ask("finish")


@pytest.fixture(autouse=True)
def inside(monkeypatch, tmp_path):
    yardstick = replace(registry.method_spec("bicubic"), target="stub_methods:Nearest")
    specs = [stub_methods.spec(getattr(stub_methods, name)) for name in STUBS]
    monkeypatch.setattr(registry, "_METHODS", {spec.name: spec for spec in (yardstick, *specs)})
    monkeypatch.setattr(cost_run, "Worker", Inside)
    monkeypatch.setattr(Inside, "started", [])
    monkeypatch.setattr(stub_methods.Nearest, "calls", 0)
    monkeypatch.delenv("ASRBENCH_DATA", raising=False)
    (tmp_path / "outputs").mkdir()
    monkeypatch.setenv("STUB_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"p{index}.png")
    return tmp_path / "photos"


def measure(photos, methods="bicubic", *, run_id="cost", fresh=False, against=None, **flags):
    flags = {"scales": "2", "crop": 32, "warmups": 1, "repeats": 6, "images": 3, "device": "cpu", **flags}
    settings = make_cost_settings(methods=methods, datasets=str(photos), metrics="psnr_y", **flags)
    return measure_cost(settings, photos.parent / "results", run_id, fresh=fresh, against=against, ceilings=False)


def rows_of(result, method):
    return [row for row in result.rows if row.method == method]


def test_every_repeat_is_a_row_of_the_next_input(photos):
    result = measure(photos)
    assert result.exit_code == 0
    rows = list(read_rows(result.paths[0], CostRow))
    assert [row.repeat for row in rows] == list(range(6))
    assert [row.image for row in rows] == ["p1", "p2", "p0"] * 2  # the warm-up had p0
    assert Inside.started[0].log == ["load", "warm", *["measure"] * 6, "finish"]
    for row in rows:
        assert (row.status, row.drift, row.warmups, row.dtype) == ("ok", 0.0, 1, "float32")
        assert (row.lr_h, row.lr_w, row.sr_h, row.sr_w) == (16, 16, 32, 32)
        assert 0 < row.latency_ms < 1000
        assert row.calibration_ms > 0
        assert row.psnr_y is not None
    table = pyarrow.parquet.read_table(result.paths[0] / "rows.parquet")
    assert table.num_rows == 6
    manifest = json.loads((result.paths[0] / "manifest.json").read_text())
    assert (manifest["kind"], manifest["state"]) == ("cost", "finished")
    assert manifest["cost"]["protocol"]["repeats"] == 6
    assert manifest["counts"] == {"planned": 1, "done": 1, "skipped": 0, "failed": 0}
    assert manifest["compute"]["device"] == "cpu"


def test_the_clock_agrees_with_another(photos, monkeypatch):
    monkeypatch.setenv("STUB_SECONDS", "0.08")
    times = [row.latency_ms for row in rows_of(measure(photos, "slow"), "slow")]
    assert 80 <= statistics.median(times) < 95
    cpu = [row.cpu_ms for row in rows_of(measure(photos, "slow"), "slow")]
    assert statistics.median(cpu) < 40  # it slept


def test_what_is_null_has_a_reason(photos):
    row = measure(photos).rows[0]
    absent = json.loads(row.absent)
    needs_a_gpu = ("device_ms", "alloc_peak_mib", "nvml_peak_mib", "energy_j", "power_w", "throttled")
    assert all(getattr(row, name) is None and absent[name] for name in needs_a_gpu)


def test_the_same_command_goes_on_and_fresh_starts_over(photos):
    first = measure(photos)
    again = measure(photos, "slow")
    assert len(Inside.started) == 2  # bicubic was not measured again
    assert [row.latency_ms for row in rows_of(again, "bicubic")] == [row.latency_ms for row in first.rows]
    measure(photos, fresh=True)
    assert len(Inside.started) == 3


def test_a_cell_that_was_cut_off_is_measured_again(photos):
    log = measure(photos).paths[0] / "rows" / "0.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    result = measure(photos)
    assert len(Inside.started) == 2
    assert len({row.session for row in result.rows}) == 1
    assert len(result.rows) == 6


def test_memory_that_runs_out_is_a_row_and_so_is_the_way_round(photos):
    result = measure(photos, "hungry")
    rows = rows_of(result, "hungry")
    assert result.exit_code == 0
    assert {(row.status, row.fallback, row.tile) for row in rows} == {
        ("oom", "", None),
        ("oom", "chunks", CHUNKS[0]),
        ("ok", "chunks", CHUNKS[1]),
    }
    assert sum(row.status == "ok" for row in rows) == 6
    assert len([row for row in rows if row.fallback == ""]) == 1


def test_tiles_come_last_and_failure_is_reported(photos):
    result = measure(photos, "starving", crop=160)
    rows = rows_of(result, "starving")
    assert {(row.fallback, row.tile, row.tile_lr) for row in rows} == {
        ("", None, None),
        *(("chunks", chunk, None) for chunk in CHUNKS),
        ("tiles", None, 64),
        ("tiles", None, 32),
    }
    assert {row.status for row in rows} == {"oom"}
    assert all("memory" in row.reason for row in rows)
    assert (result.exit_code, result.counts["failed"]) == (3, 1)


def test_an_output_that_is_not_the_scored_one_is_an_error(photos):
    rows = rows_of(measure(photos, "fickle", images=1), "fickle")
    assert {row.status for row in rows} == {"ok", "error"}
    wrong = [row for row in rows if row.status == "error"]
    assert all(row.drift > 0.1 for row in wrong)
    assert "away from the scored one" in wrong[0].reason


@pytest.mark.parametrize(("method", "reason"), [("raising", "ZeroDivisionError: no luck"), ("notfinite", "not finite")])
def test_a_method_that_fails_costs_its_cell_alone(photos, method, reason):
    result = measure(photos, f"{method},random")
    (row,) = rows_of(result, method)
    assert (row.status, row.repeat, row.latency_ms) == ("error", 0, None)
    assert reason in row.reason
    assert len(rows_of(result, "random")) == 6
    assert result.exit_code == 3


def test_sizes_are_cells(photos):
    result = measure(photos, crop=None, sizes="16..64")
    assert {(row.crop, row.sr_h) for row in result.rows} == {(16, 16), (32, 32), (64, 64)}


def test_table3_drops_the_first_two_images(photos):
    result = measure(photos, protocol="table3", warmups=None, repeats=None, images=None)
    assert [row.image for row in result.rows] == ["p2", "p3"]
    assert {row.protocol for row in result.rows} == {"table3 (crop 32)"}


def test_two_checkouts_are_measured_in_turns(photos):
    result = measure(photos, run_id="ab", against=Path(__file__).parents[3])
    base, new = (list(read_rows(path, CostRow)) for path in result.paths)
    assert [path.name for path in result.paths] == ["ab-base", "ab"]
    assert {row.session for row in base} == {row.session for row in new}
    order = [row.measured_at for pair in zip(base, new, strict=True) for row in pair]
    pairs = [(order[i], order[i + 1]) for i in range(0, len(order), 2)]
    assert all((first < second) == (number % 2 == 0) for number, (first, second) in enumerate(pairs))
    assert all(max(pairs[i]) < min(pairs[i + 1]) for i in range(len(pairs) - 1))
    with pytest.raises(UserError, match="do not resume"):
        measure(photos, run_id="ab", against=Path(__file__).parents[3])


def test_repeats_are_shared_out_to_processes(photos):
    result = measure(photos, processes=4)  # 6 repeats: 2, 2, 1, 1
    assert [worker.log.count("measure") for worker in Inside.started] == [2, 2, 1, 1]
    assert [row.repeat for row in result.rows] == list(range(6))
    sessions = [row.session for row in result.rows]
    assert len(dict.fromkeys(sessions)) == 4
    assert sessions == sorted(sessions, key=list(dict.fromkeys(sessions)).index)
    measure(photos, processes=4)
    assert len(Inside.started) == 4


def test_another_checkout_must_be_one(photos, tmp_path):
    with pytest.raises(UserError, match="no checkout"):
        measure(photos, against=tmp_path)


def test_a_folder_of_another_kind_or_protocol_is_refused(photos):
    measure(photos)
    with pytest.raises(UserError, match="protocol"):
        measure(photos, repeats=7)
    manifest = photos.parent / "results" / "cost" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kind": "cost"', '"kind": "run"'))
    with pytest.raises(UserError, match="holds scores"):
        measure(photos)


def test_a_mistake_about_one_method_costs_its_cells_alone(photos):
    result = measure(photos, "optional", options=["optional.nope=3"])
    (row,) = rows_of(result, "optional")
    assert (row.status, result.exit_code) == ("error", 3)
    assert "nope" in row.reason
    assert len(rows_of(result, "bicubic")) == 6


def test_a_mistake_about_everything_stops_the_run(photos):
    (photos / "p1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="p1"):
        measure(photos, "slow")
    assert len(Inside.started) == 1


def test_a_job_survives_its_line():
    settings = make_cost_settings(methods="optional", scales="2.5", options=["optional.gain=2"], device="cpu")
    (_, cell) = cost_run.cost_cells(cost_run.make_plan(settings.run), settings)
    assert job_from(json.loads(json.dumps(vars(cell.job)))) == cell.job


@pytest.mark.slow
@pytest.mark.quiet
def test_processes_that_die_cost_their_cell_alone(photos, tmp_path):
    names = ("leaving", "vanishing", "slow")
    command = [sys.executable, "-m", "bench", "cost", "--methods", ",".join(names), "--datasets", str(photos)]
    command += ["--scales", "2", "--crop", "32", "--warmups", "1", "--repeats", "4", "--metrics", "psnr_y"]
    command += ["--device", "cpu", "--out", str(tmp_path / "results"), "--run-id", "r"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = stub_methods.plug_in(tmp_path / "plug", *names) | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(temporary.glob("asrbench-cost-*"))
    rows = list(read_rows(tmp_path / "results" / "r", CostRow))
    of = {name: [row for row in rows if row.method == name] for name in (*names, "bicubic")}
    assert [row.status for row in of["bicubic"]] == [row.status for row in of["slow"]] == ["ok"] * 4
    assert [row.reason for row in of["leaving"]] == ["the process ended with code 7: it said nothing"]
    assert {row.status for row in of["vanishing"]} == {"oom"}
    assert "killed" in of["vanishing"][0].reason
    assert all(row.rss_peak_mib > row.rss_base_mib for row in of["slow"])
    assert statistics.median(row.latency_ms for row in of["slow"]) == pytest.approx(50, abs=10)
