"""Measures the cells of a plan, each in a fresh process, and stores a row per repeat; resumes where it was stopped."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import mean, median
from uuid import uuid4

from bench.compute import check_device
from bench.cost.calibration import VERSION as CALIBRATION
from bench.cost.client import Failure, Worker, ceilings_elsewhere
from bench.cost.jobs import Failed, Finished, Job, Loaded, Repeat
from bench.cost.measured import cost_rows, failed_row
from bench.cost.plan import Attempt, CostCell, attempts, cost_cells
from bench.cost.rows import CostRow, peak_mib
from bench.cost.settings import CostSettings
from bench.env import ROOT, git_state
from bench.files import safe_name
from bench.manifest import Manifest, State, describe, read_manifest, utc_now
from bench.plan import Plan, make_plan, refuse_the_impossible
from bench.progress import Progress, cell_label
from bench.scoring import unavailable
from bench.store import RunFolder
from methods.errors import UserError

BASE = "-base"
"""Added to the name of the run that holds the other checkout's rows."""


@dataclass(frozen=True)
class CostResult:
    """What came of a cost run."""

    paths: tuple[Path, ...]
    """The run's folder; of an interleaved run, the other checkout's before it."""
    rows: tuple[CostRow, ...]
    counts: Mapping[str, int]
    """planned, done, skipped, failed cells."""
    exit_code: int
    """0, or 3 when a cell failed."""


def measure_cost(
    settings: CostSettings,
    out: str | Path = "results",
    run_id: str | None = None,
    *,
    fresh: bool = False,
    against: Path | None = None,
    ceilings: bool = True,
    progress: Progress | None = None,
) -> CostResult:
    """Measure what `settings` asks for and store it in `out/run_id`.

    Args:
        settings: what to measure and how.
        out: folder of all runs.
        run_id: name of this run's folder; None: one made from the settings, so that the same call resumes.
        fresh: forget the rows that an earlier run left instead of resuming.
        against: another checkout of the suite, measured in turns with this one into `out/run_id-base`; so what the
            machine does meanwhile concerns both.
        ceilings: whether this machine's ceilings are measured first, for the manifest.
        progress: who hears of the progress; None: nobody.

    Raises:
        UserError: nothing of it can be measured, or the results cannot be written.
        KeyboardInterrupt: after the manifest was written; the same call resumes.
    """
    check_device(settings.run.device)
    plan = make_plan(settings.run)
    refuse_the_impossible(plan)
    cells = cost_cells(plan, settings)
    name = safe_name(run_id or default_cost_id(settings), "run id")
    trees = {name: ROOT} if against is None else {safe_name(name + BASE, "run id"): _checkout(against), name: ROOT}
    with ExitStack() as stack:
        folders = {folder: stack.enter_context(RunFolder(Path(out) / folder, CostRow, fresh=fresh)) for folder in trees}
        for folder in folders.values():
            _refuse_other_protocol(folder.path, settings)
            if against is not None and folder.rows():
                raise UserError(f"{folder.path} has rows, and interleaved runs do not resume: add --fresh.")
        facts = {
            **settings.facts(),
            "calibration": CALIBRATION,
            "ceilings": ceilings_elsewhere(settings.run.device, settings.threads) if ceilings else None,
            "interleaved": against is not None,
        }
        measurement = _Measurement(plan, settings, cells, trees, folders, facts, progress or Progress())
        return measurement.run()


def default_cost_id(settings: CostSettings) -> str:
    """A name that the same settings always get, so that the same command resumes its run."""
    text = json.dumps(settings.as_dict(), sort_keys=True)
    return f"cost-{settings.protocol.name.partition(' ')[0]}-{sha256(text.encode()).hexdigest()[:8]}"


def _checkout(path: Path) -> Path:
    path = path.expanduser().absolute()
    if not (path / "bench" / "cost" / "worker.py").is_file():
        raise UserError(f"{path} is no checkout that can measure itself: name a folder that holds bench/cost.")
    return path


def _refuse_other_protocol(path: Path, settings: CostSettings) -> None:
    manifest = read_manifest(path / "manifest.json")
    if manifest is None:
        return
    if manifest.get("kind") != "cost":
        raise UserError(f"{path} holds scores, not cost: choose another --run-id, or --fresh.")
    if manifest["cost"]["protocol"] != json.loads(json.dumps(settings.protocol.as_dict())):
        name = manifest["cost"]["protocol"].get("name")
        raise UserError(f"{path} was measured by the protocol {name!r} of then: choose another --run-id, or --fresh.")


class _Measurement:
    """One cost run into one open folder, or two in turns."""

    def __init__(
        self,
        plan: Plan,
        settings: CostSettings,
        cells: Sequence[CostCell],
        trees: Mapping[str, Path],
        folders: Mapping[str, RunFolder[CostRow]],
        facts: Mapping[str, object],
        progress: Progress,
    ) -> None:
        self.plan, self.settings, self.cells = plan, settings, cells
        self.trees, self.folders, self.progress = trees, folders, progress
        wanted = dict.fromkeys(name for cell in cells for name in cell.job.metrics)
        absent = unavailable(wanted)
        self.notes = (*plan.notes, *plan.problems, *absent.values())
        self.manifests: dict[str, Manifest] = {
            name: describe(plan, name, compute={}, rasterizer={}, absent=absent, metrics=wanted, cost=facts)
            for name in folders
        }
        for name, tree in trees.items():
            environment = {**self.manifests[name].environment, "git": git_state(tree)}
            self.manifests[name] = replace(self.manifests[name], environment=environment)
        self.states: dict[str, str] = {}
        self.before = {
            name: Counter(row.row_key for row in folder.rows() if row.status == "ok")
            for name, folder in folders.items()
        }

    def run(self) -> CostResult:
        """Measure what is left and write the manifests, also when interrupted."""
        for text in self.notes:
            self.progress.note(text)
        self._write_manifests("running")
        start, measured = time.monotonic(), 0
        try:
            for number, cell in enumerate(self.cells, 1):
                head = f"[{number}/{len(self.cells)}] {_label(cell)}"
                if self._settled(cell):
                    self.states[cell.row_key] = "done"
                    self.progress.note(f"{head}  measured before")
                    continue
                self._measure_cell(cell, head)
                measured += 1
                self._write_manifests("running")
                self._say_time_left(number, measured, time.monotonic() - start)
        except KeyboardInterrupt:
            self._write_manifests("interrupted")
            raise
        for folder in self.folders.values():
            folder.consolidate()
        self._write_manifests("finished")
        counts = self._counts()
        rows = tuple(list(self.folders.values())[-1].rows())
        paths = tuple(folder.path for folder in self.folders.values())
        return CostResult(paths, rows, counts, 3 if counts["failed"] or self.plan.problems else 0)

    def _say_time_left(self, number: int, measured: int, seconds: float) -> None:
        left = len(self.cells) - number
        if left and measured % 5 == 0:
            cells = f"{left} cell{'s' * (left > 1)}"
            self.progress.note(f"About {max(1, round(seconds / measured * left / 60))} min left for {cells}.")

    def _settled(self, cell: CostCell) -> bool:
        """Whether an attempt of the cell has all its repeats, from this run or an earlier one."""
        keys = {attempt.row_key for attempt in attempts(cell)}
        count = self._repeats(len(cell.cell.images[: cell.job.images]))
        return all(any(before[key] >= count for key in keys) for before in self.before.values())

    def _repeats(self, images: int) -> int:
        """How many inferences a cell with so many images is measured by."""
        protocol = self.settings.protocol
        return max(1, images - protocol.warmups) if protocol.repeats is None else protocol.repeats

    def _measure_cell(self, cell: CostCell, head: str) -> None:
        """Measure as asked for; while memory runs out, with less of it, each attempt in rows of its own."""
        self.states[cell.row_key] = "failed"
        for attempt in attempts(cell):
            try:
                rows = self._measure_attempt(cell, attempt)
            except Failure as failure:
                if failure.failed.user and "done" not in self.states.values():
                    raise UserError(failure.failed.reason) from failure  # other cells would most likely fail so, too
                self._store_failure(cell, attempt, uuid4().hex, failure.failed)
                self.progress.note(f"{head}{_suffix(attempt)}  {failure.failed.status}: {failure.failed.reason}")
                if failure.failed.status == "oom":
                    continue
                return
            self.states[cell.row_key] = "done" if all(row.status == "ok" for row in rows) else "failed"
            self.progress.note(f"{head}{_suffix(attempt)}  {summary(rows, self.settings.protocol.statistic)}")
            return

    def _measure_attempt(self, cell: CostCell, attempt: Attempt) -> list[CostRow]:
        """Share the repeats out to the processes, one after the other; returns this checkout's rows, stored.

        Nothing is stored before all have come through: rows of a part would look like the whole.
        """
        left = self._repeats(len(cell.cell.images[: cell.job.images]))
        sessions: list[tuple[str, dict[str, _Taken]]] = []
        for processes in range(min(self.settings.processes, left), 0, -1):
            count = -(-left // processes)
            asked = attempt.job if not sessions else replace(attempt.job, count=False)
            sessions.append((uuid4().hex, self._take(asked, count)))
            left -= count
        rows: list[CostRow] = []
        for name, folder in self.folders.items():
            rows = []
            for session, taken in sessions:
                found, counted = taken[name], sessions[0][1][name].finished
                finished = replace(found.finished, gmacs=counted.gmacs, padded=counted.padded)
                answers = found.loaded, found.repeats, finished
                rows += cost_rows(name, self.settings, cell, attempt, session, *answers, first=len(rows))
            for row in rows:
                folder.append(row)
        return rows

    def _take(self, job: Job, count: int) -> dict[str, _Taken]:
        """Run one process per checkout through warm-ups and repeats, in turns if there are two."""
        with ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(tree)) for name, tree in self.trees.items()}
            loaded = {name: worker.load(job) for name, worker in workers.items()}
            for name, found in loaded.items():
                if not self.manifests[name].compute:
                    self.manifests[name] = replace(
                        self.manifests[name], compute=found.compute, rasterizer=found.rasterizer
                    )
            repeats: dict[str, list[Repeat]] = {name: [] for name in workers}
            for _ in range(self.settings.protocol.warmups):
                for worker in workers.values():
                    worker.warm_up()
            for number in range(count):
                # Whoever is second finds the caches as the first has left them: take turns at that, too.
                order = list(workers) if number % 2 == 0 else list(workers)[::-1]
                for name in order:
                    repeats[name].append(workers[name].measure())
            return {name: _Taken(loaded[name], repeats[name], worker.finish()) for name, worker in workers.items()}

    def _store_failure(self, cell: CostCell, attempt: Attempt, session: str, failed: Failed) -> None:
        for name, folder in self.folders.items():
            folder.append(failed_row(name, self.settings, cell, attempt, session, failed))

    def _counts(self) -> dict[str, int]:
        states = list(self.states.values())
        planned = len(self.cells)
        return {"planned": planned, "done": states.count("done"), "skipped": 0, "failed": states.count("failed")}

    def _write_manifests(self, state: State) -> None:
        ended = None if state == "running" else utc_now()
        for name, folder in self.folders.items():
            manifest = replace(self.manifests[name], state=state, counts=self._counts(), ended=ended)
            folder.write_manifest(manifest)


@dataclass(frozen=True)
class _Taken:
    """What one process answered."""

    loaded: Loaded
    repeats: Sequence[Repeat]
    finished: Finished


def _label(cell: CostCell) -> str:
    job = cell.job
    return f"{cell_label(job.method, job.backbone, cell.cell.dataset, job.scale)} {job.crop}x{job.crop}"


def _suffix(attempt: Attempt) -> str:
    if attempt.fallback == "tiles":
        return f" in tiles of {attempt.job.tile_lr} LR pixels"
    return f" by {attempt.job.chunk} queries" if attempt.fallback else ""


def summary(rows: Sequence[CostRow], statistic: str) -> str:
    """The rows of one cell in a phrase: time, its spread, memory."""
    middle: Callable[[Iterator[float]], float] = median if statistic == "median" else mean
    times = sorted(row.latency_ms for row in rows if row.latency_ms is not None)
    if not times:
        return rows[0].reason or "nothing was measured"
    low, high = times[len(times) // 4], times[(3 * len(times)) // 4]
    center = middle(iter(times))
    text = f"{center:.1f} ms (middle half {low:.1f} to {high:.1f}, {len(times)} repeat{'s' * (len(times) > 1)})"
    memory = [peak for row in rows if (peak := peak_mib(row)) is not None]
    return text + (f", {middle(iter(memory)):.0f} MiB" if memory else "")
