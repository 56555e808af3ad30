from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet
import pytest

from bench.cost.rows import CostRow
from bench.files import safe_name, write_atomic
from bench.rows import Row
from bench.store import RunFolder, read_rows
from methods.errors import UserError

SNAPSHOTS = Path(__file__).parent / "snapshots"
ROOT = Path(__file__).resolve().parents[2]
ROW = Row(
    row_key="k0",
    run_id="r",
    protocol="gsasr",
    method="liif",
    backbone="rdn",
    weights="shipped",
    dataset="Set5",
    image="baby",
    scale=2.0,
    status="ok",
    device="cpu",
    dtype="float32",
    psnr_y=31.25,
)


def rows(count: int) -> list[Row]:
    return [replace(ROW, row_key=f"k{i}", image=f"image{i:03d}") for i in range(count)]


def fill(path: Path, count: int) -> Path:
    with RunFolder(path, Row) as folder:
        for row in rows(count):
            folder.append(row)
    return path / "rows" / "0.jsonl"


def test_rows_come_back_as_they_were_written(tmp_path):
    fill(tmp_path / "run", 3)
    assert list(read_rows(tmp_path / "run", Row)) == rows(3)


@pytest.mark.parametrize("torn", range(1, 12))
def test_a_torn_last_line_is_dropped_and_repaired(tmp_path, torn):
    file = fill(tmp_path / "run", 3)
    file.write_bytes(file.read_bytes()[:-torn])
    assert list(read_rows(tmp_path / "run", Row)) == rows(2)
    with RunFolder(tmp_path / "run", Row) as folder:
        folder.append(rows(3)[2])
    assert list(read_rows(tmp_path / "run", Row)) == rows(3)


def test_no_other_damage_is_forgiven(tmp_path):
    file = fill(tmp_path / "run", 3)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(UserError, match=r"Line 2 of .*0\.jsonl is not a result row"):
        list(read_rows(tmp_path / "run", Row))


def test_a_row_of_another_schema_is_named(tmp_path):
    file = fill(tmp_path / "run", 1)
    file.write_text(json.dumps({**asdict(ROW), "psnr": 3.0}) + "\n")
    with pytest.raises(UserError, match=r"Line 1 of .* unknown key 'psnr'"):
        list(read_rows(tmp_path / "run", Row))


def test_the_second_writer_is_refused_and_the_next_one_is_not(tmp_path):
    with RunFolder(tmp_path / "run", Row), pytest.raises(UserError, match="Another process is writing"):
        RunFolder(tmp_path / "run", Row)
    RunFolder(tmp_path / "run", Row).close()


def test_fresh_forgets_earlier_rows(tmp_path):
    fill(tmp_path / "run", 3)
    with RunFolder(tmp_path / "run", Row, fresh=True) as folder:
        assert folder.rows() == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"Cannot write {tmp_path}/file/run"):
        RunFolder(tmp_path / "file" / "run", Row)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="Cannot write"):
        RunFolder(tmp_path / "run", Row)


def test_a_full_disk_leaves_earlier_rows_intact(tmp_path):
    fill(tmp_path / "run", 3)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from bench.store import RunFolder; from test_store import ROW, Row\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "with RunFolder(Path(sys.argv[1]), Row) as folder:\n"
        "    for _ in range(99): folder.append(ROW)\n"
    )
    done = _python(script, tmp_path / "run")
    assert done.returncode == 1
    assert "UserError: Cannot write" in done.stderr
    assert "0.jsonl" in done.stderr
    found = list(read_rows(tmp_path / "run", Row))
    assert found[:3] == rows(3)
    assert set(found[3:]) == {ROW}


def test_kills_at_random_moments_lose_no_finished_row(tmp_path):
    script = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from bench.store import RunFolder; from test_store import ROW, Row\n"
        "with RunFolder(Path(sys.argv[1]), Row) as folder:\n"
        "    for i in range(10**9):\n"
        "        folder.append(replace(ROW, row_key=str(i), reason='x' * 20000)); print(i, flush=True)\n"
    )
    for attempt in range(3):
        path = tmp_path / str(attempt)
        command = [sys.executable, "-c", script, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(random.Random(attempt).uniform(0, 0.2))
            writer.kill()
            said = writer.stdout.read().split()
        keys = [int(row.row_key) for row in read_rows(path, Row)]
        assert keys == list(range(len(keys)))
        assert len(keys) > max((int(number) for number in said if number), default=0)
        RunFolder(path, Row).close()


def test_consolidate_keeps_the_last_row_of_a_place_in_an_order_of_its_own(tmp_path):
    done = replace(ROW, row_key="done")
    failed = replace(done, status="error", reason="x", psnr_y=None)
    some = [failed, *rows(2), done]
    shuffled = [failed, *reversed(rows(2)), done]
    assert Row.latest(some) == Row.latest(shuffled) == [done, *rows(2)]
    with RunFolder(tmp_path / "run", Row) as folder:
        for row in some:
            folder.append(row)
        folder.consolidate()
        folder.append(replace(ROW, image="zebra"))
    assert [row.image for row in read_rows(tmp_path / "run", Row)] == ["baby", "image000", "image001", "zebra"]


def test_a_network_that_could_not_be_loaded_leaves_no_second_row():
    failed = replace(ROW, status="error", reason="cannot be loaded", options="{}")
    loaded = replace(ROW, options='{"cell": "true"}')
    assert Row.latest([failed, loaded]) == [loaded]


def test_rows_of_earlier_versions_are_read(tmp_path):
    file = fill(tmp_path / "run", 1)
    row = asdict(ROW)
    del row["acceleration"]
    file.write_text(json.dumps(row) + "\n")
    assert list(read_rows(tmp_path / "run", Row)) == [ROW]


def test_parquet_has_the_documented_columns_and_nulls(tmp_path):
    with RunFolder(tmp_path / "run", Row) as folder:
        folder.append(ROW)
        folder.consolidate()
    table = pyarrow.parquet.read_table(tmp_path / "run" / "rows.parquet")
    assert table.to_pylist() == [asdict(ROW)]
    assert str(table.schema.field("lpips").type) == "double"
    assert str(table.schema.field("tile").type) == "int64"
    assert table.schema.field("psnr_y").metadata[b"doc"].startswith(b"PSNR")


def test_rows_refuse_what_json_does_not_know():
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(ROW, psnr_y=float("nan")).to_json()


@pytest.mark.parametrize(("kind", "file"), [(Row, "row_columns.json"), (CostRow, "cost_columns.json")])
def test_columns_are_those_of_the_snapshot(kind, file):
    found = {column.name: {"type": str(column.type), "doc": column.metadata["doc"]} for column in kind.columns()}
    assert found == json.loads((SNAPSHOTS / file).read_text())


def test_write_atomic_replaces_whole_files_and_cleans_up(tmp_path):
    write_atomic(tmp_path / "a" / "file", b"old")
    write_atomic(tmp_path / "a" / "file", b"new")
    assert (tmp_path / "a" / "file").read_bytes() == b"new"
    (tmp_path / "a" / "folder").mkdir()
    with pytest.raises(UserError, match=r"Cannot write .*folder"):
        write_atomic(tmp_path / "a" / "folder", b"x")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a/../../b",
        "a\0b",
        "a\nb",
        "x" * 300,
        "é",
        "gs\u0430sr",
        "CON",
        "nul.txt",
        "a.",
        "-x",
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(UserError, match="is not allowed: use letters"):
        safe_name(name, "run id")


@pytest.mark.parametrize("name", ["gsasr-1a2b3c4d", "Run_1.2", "7", "x" * 100])
def test_plain_names_are_allowed(name):
    assert safe_name(name, "run id") == name


def _environment() -> dict[str, str]:
    paths = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _python(script: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
