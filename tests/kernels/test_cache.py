"""The cache among processes that race, die and find damaged files. Children load the module alone, without PyTorch."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kernels import cache
from kernels.cache import BuildError, cached, digest, failure, folder

CHILD = f"""
import importlib.util, os, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("cache", {cache.__file__!r})
cache = importlib.util.module_from_spec(spec)
sys.modules["cache"] = cache
spec.loader.exec_module(cache)
here = Path(sys.argv[1])
"""
RACER = """
def make(out):
    with open(here / "builds", "a") as file:
        file.write("built\\n")
    time.sleep(0.3)
    out.write_bytes(b"artefact" * 100_000)

(here / f"ready-{os.getpid()}").touch()
while not (here / "go").exists():
    time.sleep(0.005)
found = cache.cached("name.bin", "key", make)
print(found.data == b"artefact" * 100_000, found.path)
"""
HOLDER = """
def make(out):
    out.write_bytes(b"half of it")
    (here / "started").touch()
    time.sleep(60)

cache.cached("name.bin", "key", make)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "cache"))
    cache._process_folder.cache_clear()
    yield tmp_path / "cache"
    cache._process_folder.cache_clear()


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """A home that cannot be written, also by root, and a folder for temporary files."""
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    for name in ("ASRBENCH_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def holder(tmp_path):
    """A process that is building, and holds the lock until it is killed."""
    process = child(HOLDER, tmp_path)
    wait_for(lambda: (tmp_path / "started").exists())
    yield process
    process.kill()
    process.communicate()


def child(code, here):
    return subprocess.Popen([sys.executable, "-c", CHILD + code, str(here)], stdout=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def writer(content):
    return lambda out: out.write_bytes(content)


def forbidden(out):
    pytest.fail("built again")


def test_made_once_and_then_found(place):
    first = cached("name.bin", "key", writer(b"content"))
    assert first.data == b"content"
    assert first.path.parent == place
    assert first.path.suffix == ".bin"
    assert first.path.read_bytes().startswith(b"content")
    assert cached("name.bin", "key", forbidden) == first
    assert cached("name.bin", "other", writer(b"other")).data == b"other"
    assert cached("name.bin", "key", forbidden) == first


def test_digests_tell_parts_and_their_borders_apart():
    keys = [digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("ab", "c", ""), digest("ab", "d"), digest()]
    assert len(set(keys)) == len(keys)
    assert digest("ab", b"c") == keys[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content + b"\0",
        lambda content: b"\0" * len(content),
    ],
)
def test_damaged_artefacts_are_made_again(damage):
    path = cached("name.bin", "key", writer(b"content" * 100)).path
    path.write_bytes(damage(path.read_bytes()))
    assert cached("name.bin", "key", writer(b"content" * 100)).data == b"content" * 100
    assert cached("name.bin", "key", forbidden).data == b"content" * 100


def test_eight_processes_build_once(tmp_path, place):
    racers = [child(RACER, tmp_path) for _ in range(8)]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 8)
    (tmp_path / "go").touch()
    printed = {racer.communicate(timeout=30)[0] for racer in racers}
    assert all(racer.returncode == 0 for racer in racers)
    assert printed == {f"True {place / 'name-key.bin'}\n"}
    assert (tmp_path / "builds").read_text() == "built\n"
    assert not list(place.glob(".making-*"))


def test_a_killed_holder_holds_nothing(holder, place):
    holder.kill()
    holder.wait()
    start = time.monotonic()
    assert cached("name.bin", "key", writer(b"content")).data == b"content"
    assert time.monotonic() - start < 5
    (left,) = place.glob(".making-*")
    old = time.time() - 2 * cache._ABANDONED_S
    os.utime(left, (old, old))
    cached("name.bin", "other", writer(b"content"))
    assert not left.exists()


def test_patience_with_a_holder_ends(holder, place, monkeypatch):
    monkeypatch.setattr(cache, "LOCK_WAIT_S", 0.2)
    assert cached("name.bin", "key", writer(b"content")).data == b"content"
    cached("name.bin", "other", writer(b"content"))
    assert holder.poll() is None
    assert len(list(place.glob(".making-*"))) == 1, "another's young folder is left alone"


@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, "no locks"), OSError(errno.ENOLCK, ""), NotImplementedError()])
def test_file_systems_without_locks(error, monkeypatch):
    def refuse(*_):
        raise error

    monkeypatch.setattr(cache.FileLock, "acquire", refuse)
    assert cached("name.bin", "key", writer(b"content")).data == b"content"


def test_a_failed_build_leaves_nothing(place):
    def fail(out):
        out.write_bytes(b"half of it")
        raise ValueError("of the build")

    with pytest.raises(ValueError, match="of the build"):
        cached("name.bin", "key", fail)
    assert [path.name for path in place.iterdir()] == ["name-key.bin.lock"]
    assert cached("name.bin", "key", writer(b"content")).data == b"content"


def test_a_file_in_use_that_someone_else_has_just_made(monkeypatch):
    """As on Windows, where a loaded library cannot be replaced."""
    rival = cached("name.bin", "key", writer(b"content"))

    def refuse(*_):
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(os, "replace", refuse)
    assert cache._build(rival.path, writer(b"content")) == rival
    with pytest.raises(BuildError, match="in use"):
        cached("name.bin", "other", writer(b"content"))


def test_a_named_folder_is_never_replaced_by_another(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match=r"^Compiled kernels cannot be kept in .*file/cache .*set ASRBENCH_CACHE"):
        cached("name.bin", "key", writer(b"content"))


def test_a_named_folder_may_be_read_only_once_filled(monkeypatch):
    found = cached("name.bin", "key", writer(b"content"))

    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, "read-only")

    for name in ("mkdtemp", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, refuse)
    monkeypatch.setattr(cache.FileLock, "acquire", refuse)
    assert cached("name.bin", "key", forbidden) == found
    with pytest.raises(BuildError, match="read-only"):
        cached("name.bin", "other", writer(b"content"))


def test_the_users_cache_by_convention(roots, monkeypatch):
    monkeypatch.setenv("HOME", str(roots))
    assert folder() == roots / ".cache" / "asrbench"
    assert folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", str(roots / "xdg"))
    assert folder() == roots / "xdg" / "asrbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folder() == roots / ".cache" / "asrbench"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert folder() == roots / "Library" / "Caches" / "asrbench"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(roots / "local"))
    assert folder() == roots / "local" / "asrbench"


def test_a_read_only_home(roots):
    place = roots / "tmp" / f"asrbench-{os.getuid()}"
    found = cached("name.bin", "key", writer(b"content"))
    assert found.path.parent == folder() == place
    assert place.stat().st_mode & 0o777 == 0o700
    assert cached("name.bin", "key", forbidden) == found


def test_no_home(roots, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert folder() == roots / "tmp" / f"asrbench-{os.getuid()}"


def _link(place, roots, monkeypatch):
    (roots / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(roots / "elsewhere")


def _dangling_link(place, roots, monkeypatch):
    place.symlink_to(roots / "elsewhere")


def _open_to_others(place, roots, monkeypatch):
    place.mkdir()
    place.chmod(0o777)


def _of_someone_else(place, roots, monkeypatch):
    other = os.getuid() + 1
    place.with_name(f"asrbench-{other}").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: other)


@pytest.mark.parametrize("plant", [_link, _dangling_link, _open_to_others, _of_someone_else])
def test_a_shared_temporary_folder_must_be_ours_alone(plant, roots, monkeypatch):
    plant(roots / "tmp" / f"asrbench-{os.getuid()}", roots, monkeypatch)
    place = folder()
    assert place.parent == roots / "tmp"
    assert place.name.removeprefix("asrbench-") not in (str(os.getuid()), str(os.getuid() + 1))
    assert place.stat().st_mode & 0o777 == 0o700
    assert folder() == place, "one per process"
    assert not list(roots.glob("elsewhere/*"))


def test_a_folder_of_one_process_goes_with_it(roots):
    (roots / "tmp" / f"asrbench-{os.getuid()}").symlink_to(roots)
    code = """
import tempfile
tempfile.tempdir = str(here / "tmp")
path = cache.cached("name.bin", "key", lambda out: out.write_bytes(b"content")).path
print(path)
sys.stdout.flush()
if os.fork() == 0:
    sys.exit()
os.wait()
assert path.exists(), "removed by a fork"
"""
    process = child(code, roots)
    path = Path(process.communicate(timeout=20)[0].strip())
    assert process.returncode == 0
    assert path.parents[1] == roots / "tmp"
    assert not path.parent.exists()


def test_nothing_can_be_written(roots, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(roots / "file" / "tmp"))
    with pytest.raises(BuildError, match=r"^No folder can be written .*set ASRBENCH_CACHE to one\.$"):
        cached("name.bin", "key", writer(b"content"))


def test_failures_keep_their_log(tmp_path, place, monkeypatch):
    error = failure("The tool failed", "tool-1", "its output")
    assert str(error) == f"The tool failed; its output is in {place / 'tool-1.log'}"
    assert error.log is not None
    assert error.log.read_text() == "its output"
    (tmp_path / "file").touch()
    monkeypatch.setenv("ASRBENCH_CACHE", str(tmp_path / "file" / "cache"))
    error = failure("The tool failed", "tool-1", "its output")
    assert error.log is None
    assert str(error).startswith("The tool failed, and its output could not be kept")
