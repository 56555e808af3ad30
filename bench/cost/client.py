"""A measuring process as an object: started, told what to do, and replaced when it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Timer
from types import TracebackType
from typing import Any, Self

from bench.cost.jobs import VERSION, Failed, Finished, Job, Loaded, Repeat, from_line
from bench.env import ROOT
from methods.errors import UserError

ANSWER_SECONDS = 3600.0
"""A process that takes longer for one command hangs, and is ended."""
_KILLED = (-9, 137)


_CEILINGS = """
import json, sys
from bench.compute import prepare_torch
from bench.cost.ceilings import measure_ceilings
threads = int(sys.argv[2]) if sys.argv[2] else None
print(json.dumps(measure_ceilings(prepare_torch(sys.argv[1], "float32", threads=threads).device).as_dict()))
"""


def ceilings_elsewhere(device: str, threads: int | None) -> dict[str, Any] | None:
    """This machine's ceilings as a process of its own finds them, whose memory goes with it; None: it failed."""
    command = [sys.executable, "-c", _CEILINGS, device, "" if threads is None else str(threads)]
    done = subprocess.run(command, env=environment(ROOT), capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment(tree: Path) -> dict[str, str]:
    """In which a checkout's packages are found first."""
    paths = [str(tree), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Failure(Exception):
    """A cell could not be measured; `args[0]` says how."""

    @property
    def failed(self) -> Failed:
        """Status and reason."""
        failed: Failed = self.args[0]
        return failed


class Worker:
    """One fresh process that runs the code of a checkout; a context manager, at whose end it is gone."""

    def __init__(self, tree: Path = ROOT, seconds: float = ANSWER_SECONDS) -> None:
        """tree: folder that holds the packages to measure. seconds: for one answer."""
        self._seconds = seconds
        self._errors = TemporaryFile()  # noqa: SIM115 - closed with the process
        self._outputs = TemporaryDirectory(prefix="asrbench-cost-")  # ours: the process may be killed
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.cost.worker", self._outputs.name],
            cwd=tree,
            env=environment(tree),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()
        self._outputs.cleanup()

    def load(self, job: Job) -> Loaded:
        """Load a network and its inputs.

        Raises:
            UserError: the checkout speaks another version.
            Failure: it cannot be loaded.
        """
        loaded: Loaded = self._ask("load", job=asdict(job))
        if loaded.version != VERSION:
            raise UserError("The other checkout measures in another way: update it, or compare two finished runs.")
        return loaded

    def warm_up(self) -> None:
        """Run the next input once and drop the result; raises `Failure`."""
        self._ask("warm")

    def measure(self) -> Repeat:
        """Time the next input once; raises `Failure`."""
        repeat: Repeat = self._ask("measure")
        return repeat

    def finish(self) -> Finished:
        """Check and score what was measured; raises `Failure`."""
        finished: Finished = self._ask("finish")
        return finished

    def _ask(self, command: str, **content: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = Timer(self._seconds, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps({"do": command, **content}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            in_time = late.is_alive()
            late.cancel()
        if not line:
            raise Failure(self._post_mortem(in_time))
        if line == "{}\n":
            return None
        answer = from_line(line)
        if isinstance(answer, Failed):
            raise Failure(answer)
        return answer

    def _post_mortem(self, in_time: bool) -> Failed:
        """Why there is no answer."""
        code = self._process.wait()
        if not in_time:
            return Failed("error", f"the process did not answer within {self._seconds:g} s and was ended")
        if code in _KILLED:
            return Failed("oom", "the process was killed, as the system does when memory runs out")
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        if "std::bad_alloc" in text:
            return Failed("oom", "the process ended when it asked for more memory than there is")
        said = text.strip().splitlines()
        return Failed("error", f"the process ended with code {code}: {said[-1][:300] if said else 'it said nothing'}")
