from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from bench import cli

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Commands run in an empty folder without data root, GPU or metric networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(Path(__file__).parent / "no-networks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("ASRBENCH_DATA", "ASRBENCH_DEBUG", "ASRBENCH_RASTERIZER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return left.value.code or 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence that a wrong command gets."""
    assert call(*arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err + said.out
    return said.err


def leaves(group, before=""):
    """(name, command) of all commands, those of groups by both names."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_flags_are_those_of_the_snapshot():
    found = {
        name: sorted(flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts))
        for name, command in sorted(leaves(typer.main.get_command(cli.app)))
    }
    assert found == json.loads((SNAPSHOTS / "cli_flags.json").read_text())


def test_plan_takes_all_flags_of_run_that_change_what_is_run():
    flags = json.loads((SNAPSHOTS / "cli_flags.json").read_text())
    how = {"--fresh", "--save-images", "--deterministic", "--threads", "--max-memory"}
    assert set(flags["run"]) - how == set(flags["plan"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rum"], "No such command 'rum'."),
        (["run", "--metods", "x"], "--methods"),
        (["run", "--methods", "gsars"], "There is no method called 'gsars': did you mean gsasr"),
        (["run", "--methods", "zz*"], "No method matches 'zz*'"),
        (["run", "--scales", "0.5"], "The scale '0.5' is out of range"),
        (["run", "--scales", "nan"], "'nan' is not a scale"),
        (["run", "--scales", "1"], "The scale '1' is out of range"),
        (["run", "--scales", "4-2"], "runs backwards"),
        (["run", "--scales", "1e999"], "is not a scale"),
        (["run", "--datasets", "./nowhere"], "There is no folder './nowhere'"),
        (["run", "--datasets", "Set6"], "There is no dataset called 'Set6': did you mean Set5"),
        (["run", "--datasets", "Set5"], "Set5 is not part of this suite"),
        (["run", "--datasets", "Set5", "--data-root", "nowhere"], "The data root nowhere is not a folder"),
        (["run", "--backbones", "vgg", "--methods", "liif"], "There is no backbone called 'vgg'"),
        (["run", "--protocol", "gsas"], "There is no protocol called 'gsas': did you mean gsasr"),
        (["run", "--metrics", "psnr"], "There is no metric called 'psnr': did you mean psnr_y"),
        (["run", "--methods", "bicubic", "--device", "cuda"], "The device 'cuda' is not usable here"),
        (["run", "--device", "gpu"], "'gpu' is not a device"),
        (["run", "--dtype", "float8"], "There is no dtype called 'float8'"),
        (["run", "--methods", "bicubic", "--seed", "-1"], "The seed -1 is out of range"),
        (["run", "--methods", "bicubic", "--limit", "0"], "The limit of 0 images leaves none"),
        (["run", "--methods", "bicubic", "--limit", "few"], "Invalid value for '--limit'"),
        (["run", "--methods", "bicubic", "--threads", "0"], "0 threads are out of range"),
        (["run", "--methods", "gsasr", "--set", "dmax=1"], "write METHOD.NAME=VALUE"),
        (["run", "--methods", "liif", "--weights", "none.pth"], "none.pth"),
        (["run", "--methods", "gsasr,liif", "--weights", "x.pth"], "cannot fit 2 methods at once"),
        (["run", "--methods", "bicubic", "--run-id", "../x"], "The run id '../x' is not allowed"),
        (["run", "--methods", "bicubic", "--run-id", "CON"], "The run id 'CON' is not allowed"),
        (["plan", "--run-id", "a/b"], "The run id 'a/b' is not allowed"),
        (["run", "--methods", "bicubic", "--limit", "1", "--out", "file"], "Cannot write file"),
        (["run", "--methods", "bicubic", "--limit", "1", "--out", "/proc/1"], "Cannot write /proc/1"),
        (["cost", "--methods", "liif", "--protocol", "stedy"], "There is no cost protocol called 'stedy'"),
        (["cost", "--methods", "liif", "--crop", "1"], "A patch of 1x1 pixels is out of range"),
        (["cost", "--methods", "liif", "--crop", "64", "--sizes", "64..128"], "give one of them"),
        (["cost", "--methods", "liif", "--against", "nowhere"], "nowhere is no checkout that can measure itself"),
        (["cost", "--methods", "bicubic", "--device", "cuda"], "The device 'cuda' is not usable here"),
        (["cost", "--methods", "liif", "--weights", "none.pth"], "none.pth"),
        (["compare", "nowhere", "elsewhere"], "nowhere"),
        (["compare", "results", "results"], "results"),
        (["baseline", "update", "nowhere", "--reason", "why not"], "nowhere"),
        (["baseline", "update", "nowhere"], "Missing option '--reason'"),
        (["device"], "The device 'cuda' is not usable here"),
        (["device", "--cases", "nowhere", "--device", "cpu"], "There are no parity cases in nowhere"),
        (["report", ".", "--table", "2"], "There is no table 2"),
        (["list", "metods"], "There is no list called 'metods': did you mean methods"),
        (["list", "methods", "zz*"], "None of the methods matches 'zz*'"),
        (["list"], "Missing argument"),
        (["report", "nowhere"], "There is no run folder"),
        (["report", "."], "is not a run"),
        (["run", "--methods", "bicubic", "--max-memory", "lots"], "'lots' is not an amount of memory"),
        (["run", "--methods", "bicubic", "--cell", "big"], "There is no cell rule called 'big'"),
        (["upscale", "file", "out.png", "--max-memory", "0"], "'0' is not an amount of memory"),
        (["profile"], "Missing argument"),
        (["profile", "bicubi"], "There is no method called 'bicubi': did you mean bicubic"),
        (["profile", "bicubic", "--lr", "a"], "'a' is not the size of an image"),
        (["profile", "bicubic", "--lr", "9999"], "An LR image of 9999x9999 is out of range"),
        (["profile", "bicubic", "--scale", "2,3"], "cannot have the scales 2,3 at once"),
        (["profile", "bicubic", "--max-memory", "2 apples"], "'2 apples' is not an amount of memory"),
        (["profile", "bicubic", "--lr", "32", "--max-memory", "1KiB"], "An image of 32x32 pixels needs at least"),
        (["profile", "liif", "--set", "liif.cel=1"], "There is no option of liif called 'cel'"),
        (["train", "gsars"], "There is no recipe called 'gsars'"),
    ],
)
def test_wrong_commands_get_one_sentence(capsys, tmp_path, arguments, sentence):
    (tmp_path / "file").write_text("")
    assert sentence in refused(capsys, *arguments)


def test_what_cannot_run_is_said_and_the_rest_runs(capsys, photos):
    flags = ["--methods", "bicubic", "--scales", "2", "--device", "cpu", "--datasets", "photos,Set5"]
    assert call("plan", *flags) == 3
    assert "Set5 is not part of this suite" in capsys.readouterr().out
    assert call("run", *flags) == 3
    said = capsys.readouterr()
    assert "Set5 is not part of this suite" in said.err
    assert "2 of 2 images scored" in said.out


def test_options_that_a_method_does_not_have_stop_the_run_at_its_start(capsys, photos):
    flags = ["--weights", "random", "--backbones", "edsr-micro", "--scales", "2", "--datasets", str(photos)]
    said = refused(capsys, "run", "--methods", "liif", "--set", "liif.cel=clipped", *flags)
    assert "There is no option of liif called 'cel': did you mean cell?" in said
    assert not list(Path("results").rglob("*.parquet"))


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "16-bit", "CMYK", "transparent", "wrong suffix"])
def test_a_bad_image_is_named_and_the_others_are_scored(capsys, photos, kind):
    bad = photos / "a.png"
    if kind == "truncated":
        bad.write_bytes(bad.read_bytes()[:2000])
    elif kind in ("empty", "text"):
        bad.write_text("" if kind == "empty" else "not an image")
    elif kind == "16-bit":
        Image.fromarray(np.full((48, 48), 40000, np.uint16)).save(bad)
    elif kind == "CMYK":
        bad.unlink()
        bad = photos / "a.jpg"
        Image.new("CMYK", (48, 48)).save(bad)
    elif kind == "transparent":
        Image.new("RGBA", (48, 48), (255, 0, 0, 0)).save(bad)
    else:
        bad = bad.rename(photos / "a.bmp")
    assert call("run", "--methods", "bicubic", "--scales", "2", "--datasets", "photos", "--device", "cpu") == 3
    said = capsys.readouterr()
    assert "photos x2  a  error: " in said.err
    assert bad.name in said.err
    assert "1 of 2 images scored, 1 failed" in said.out


def test_run_prints_the_table_the_folder_and_the_next_command(capsys, photos):
    flags = ["--methods", "bicubic", "--scales", "2,3.5", "--datasets", "photos", "--device", "cpu"]
    assert call("plan", *flags, "--run-id", "mine") == 0
    assert "4 images to score, 0 of them done in results/mine." in capsys.readouterr().out
    assert call("run", *flags, "--run-id", "mine") == 0
    said = capsys.readouterr()
    assert "photos: mean PSNR-Y in dB" in said.out
    assert "Results: results/mine" in said.out
    assert "report results/mine --format md,latex,csv" in said.out
    lines = [line for line in said.err.splitlines() if line.startswith("bicubic photos x")]
    cells = ["bicubic photos x2", "bicubic photos x3.5"]
    assert [line.split("  ")[:2] for line in lines] == [[cell, "2 images"] for cell in cells]
    assert "PSNR-Y" in lines[0]
    assert call("plan", *flags, "--run-id", "mine") == 0
    assert "4 images to score, 4 of them done" in capsys.readouterr().out
    assert call("run", *flags, "--run-id", "mine") == 0
    assert "bicubic photos x2  2 images  " in (err := capsys.readouterr().err)
    assert "done before" in err
    assert call("report", "mine") == 0
    assert "Written: results/mine/reports/" in capsys.readouterr().out


def test_profile_prints_the_parts_and_the_machine(capsys):
    assert call("profile", "bicubic", "--lr", "8x6", "--scale", "2.5", "--repeats", "1", "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert said.startswith("bicubic, LR 8x6, x2.5")
    assert "total" in said
    assert "GFLOP/s here" in said


def test_unexpected_errors_are_one_sentence_too(capsys, monkeypatch):
    def fail(*_: object) -> int:
        raise KeyError("what?")

    monkeypatch.setattr("bench.commands.list_", fail)
    assert "This should not have happened (KeyError: 'what?')" in refused(capsys, "list", "methods")
    monkeypatch.setenv("ASRBENCH_DEBUG", "1")
    assert call("list", "methods") == 2
    assert "Traceback" in capsys.readouterr().err


def test_interruption_is_130(monkeypatch):
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.commands.list_", interrupt)
    assert call("list", "methods") == 130


@pytest.mark.parametrize(
    "kind", ["methods", "backbones", "datasets", "metrics", "protocols", "cost-protocols", "recipes"]
)
def test_lists_name_everything(capsys, kind):
    assert call("list", kind) == 0
    out = capsys.readouterr().out
    expected = {"methods": "gsasr", "backbones": "rdn", "datasets": "embedded", "metrics": "dists", "protocols": "liif"}
    expected |= {"recipes": "gsasr-micro", "cost-protocols": "table3"}
    assert expected[kind] in out
    assert "\x1b" not in out


def cpu_seconds(script, *arguments):
    """CPU time of a fresh interpreter: the least of up to three, as the first compiles modules for the next ones."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    spent = []
    while not spent or (spent[-1] >= 1.0 and len(spent) < 3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


@pytest.fixture(scope="module")
def quick():
    """A second; on a slow machine as much more as the libraries of every command take to import there."""
    return max(1.0, 2.5 * cpu_seconds("import numpy, pydantic, rich.table, typer"))


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "run --help",
        "list methods",
        "list datasets",
        "list recipes",
        "cost --help",
        "plan --scales 2 --limit 1",
    ],
)
def test_quick_commands_do_without_torch(command, quick):
    script = (
        "import sys; from bench import cli\n"
        "code = cli._guarded(sys.argv[1:])\n"
        "slow = {'torch', 'pandas', 'pyarrow', 'skimage'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else code and code != 3)\n"
    )
    assert cpu_seconds(script, *command.split()) < quick


def test_a_group_without_a_command_shows_its_help(capsys):
    assert call("baseline") == 2
    said = capsys.readouterr()
    assert "update" in said.out
    assert said.err == ""


def test_both_spellings_show_their_name(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "bench", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split(":")[0]) == (2, "python -m bench")


def test_a_closed_pipe_is_no_error():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    shell = f"{sys.executable} -m bench list datasets | true"
    done = subprocess.run(shell, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
