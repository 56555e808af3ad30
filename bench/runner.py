"""Runs a plan: load, infer, score, append a row per image; resumes where an earlier run of the same name stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cache import PairCache
from bench.compute import Compute, compute_facts, prepare_torch, ready
from bench.files import safe_name
from bench.images import write_png
from bench.inference import OutOfMemory, super_resolve
from bench.manifest import State, count, default_run_id, describe, read_manifest, utc_now
from bench.plan import Cell, Plan, make_plan, refuse_the_impossible
from bench.progress import Progress
from bench.resize import to_uint8
from bench.rows import SETTLED, Row
from bench.scoring import as_scored, score, unavailable
from bench.settings import RunSettings
from bench.store import RunFolder
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.data import ImageRef
    from bench.pairs import Image8, Pair
    from methods.base import SRMethod


@dataclass(frozen=True)
class RunResult:
    """What came of a run."""

    path: Path
    rows: tuple[Row, ...]
    """Those of this plan, including the ones that an earlier run left."""
    counts: Mapping[str, int]
    """planned, done, skipped, failed images."""
    exit_code: int
    """0, or 3 when an image or a whole cell failed."""


def run(
    settings: RunSettings,
    out: str | Path = "results",
    run_id: str | None = None,
    *,
    fresh: bool = False,
    save_images: bool = False,
    deterministic: bool = False,
    threads: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Evaluate what `settings` asks for and store it in `out/run_id`.

    Args:
        settings: what to run; the same settings give the same rows.
        out: folder of all runs.
        run_id: name of this run's folder; None: one made from the settings, so that the same call resumes.
        fresh: forget the rows that an earlier run left instead of resuming.
        save_images: also write every SR image as PNG.
        deterministic: only algorithms that repeat bit by bit, at a cost on GPUs.
        threads: CPU threads; None: torch's choice.
        max_memory: bytes below which tensors are kept by rendering fewer queries at a time; the results stay the same.
        progress: who hears of the progress; None: nobody.

    Raises:
        UserError: nothing of it can be run, or the results cannot be written.
        KeyboardInterrupt: after the manifest was written; the same call resumes.
    """
    plan = make_plan(settings)
    refuse_the_impossible(plan)
    compute = prepare_torch(
        settings.device,
        settings.dtype,
        deterministic=deterministic,
        threads=threads,
        channels_last=settings.channels_last,
        compiled=settings.compiled,
    )
    run_id = safe_name(run_id or default_run_id(settings), "run id")
    path = Path(out) / run_id
    with RunFolder(path, Row, fresh=fresh) as folder:
        _refuse_other_protocol(path, plan)
        choices = _Choices(compute, max_memory, save_images)
        return _Evaluation(plan, folder, run_id, choices, progress or Progress()).run()


@dataclass(frozen=True)
class _Choices:
    """How a plan is carried out."""

    compute: Compute
    max_memory: int | None
    save_images: bool


@dataclass(frozen=True)
class _Network:
    """A loaded network, or why there is none."""

    model: SRMethod | str
    options: str
    """Those in force, as JSON; without a model, those that were asked for."""


class _Evaluation:
    """One run of one plan into one open folder."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder[Row],
        run_id: str,
        choices: _Choices,
        progress: Progress,
    ) -> None:
        self.plan, self.folder, self.progress, self.choices = plan, folder, progress, choices
        from kernels import choose

        self.cells = [cell for cell in plan.cells if not cell.problem]
        wanted = dict.fromkeys(name for cell in self.cells for name in self._metrics(cell))
        self.absent = unavailable(wanted)
        self.rows = {row.row_key: row for row in folder.rows()}
        self.pairs = PairCache(plan.protocol)
        compute = choices.compute
        self.manifest = describe(
            plan,
            run_id,
            compute=compute_facts(compute),
            rasterizer=choose(compute.device, compute.dtype)._asdict(),
            absent=self.absent,
            metrics=wanted,
        )

    def run(self) -> RunResult:
        """Do what is left and write the manifest, also when interrupted."""
        for cells in self._networks():
            if any(self._left(cell) for cell in cells):
                self._load(cells[0])
        for text in (*self.plan.notes, *self.plan.problems, *self.absent.values()):
            self.progress.note(text)
        self._write_manifest("running")
        try:
            with self.progress.running(sum(len(self._left(cell)) for cell in self.cells)):
                for cells in self._networks():
                    self._run_network(cells)
        except KeyboardInterrupt:
            self._write_manifest("interrupted")
            raise
        self.folder.consolidate()
        self._write_manifest("finished")
        return self._result()

    def _networks(self) -> list[list[Cell]]:
        """The cells, grouped by what has to be loaded for them."""
        return [list(cells) for _, cells in groupby(self.cells, lambda cell: (cell.method, cell.backbone))]

    def _metrics(self, cell: Cell) -> tuple[str, ...]:
        return tuple(self.plan.settings.metrics or self.plan.protocol.rules(cell.family).metrics)

    def _left(self, cell: Cell) -> list[tuple[ImageRef, str]]:
        images = zip(cell.images, cell.row_keys, strict=True)
        return [(image, key) for image, key in images if not self._settled(cell, image, key)]

    def _settled(self, cell: Cell, image: ImageRef, key: str) -> bool:
        """Whether a row needs no repeating; with `save_images` its image has to be there too."""
        row = self.rows.get(key)
        if row is None or row.status not in SETTLED:
            return False
        return row.status != "ok" or not self.choices.save_images or self._image_file(cell, image).exists()

    def _load(self, cell: Cell) -> _Network:
        """The cell's network, or what went wrong; users' mistakes are raised and stop the run at its start."""
        assert cell.checkpoint is not None
        try:
            model = ready(
                cell.method,
                cell.backbone or None,
                self.choices.compute,
                weights=cell.checkpoint,
                options=cell.options,
                cell=self.plan.protocol.cell,
            )
            return _Network(model, json.dumps(model.effective_options(), sort_keys=True))
        except UserError:
            raise
        except Exception as error:
            reason = f"{cell.method} cannot be loaded: {_one_line(error)}"
            return _Network(reason, json.dumps(dict(cell.options), sort_keys=True))

    def _run_network(self, cells: list[Cell]) -> None:
        """Run the cells of one network, which is loaded once, and only if something is left to do."""
        network: _Network | None = None
        for cell in cells:
            left = self._left(cell)
            pending = {key for _, key in left}
            self.progress.begin(cell, [self.rows[key] for key in cell.row_keys if key not in pending])
            if left and network is None:
                network = self._load(cell)
            for image, key in left:
                assert network is not None
                row = self._row(cell, image, key, network)
                self.folder.append(row)
                self.rows[key] = row
                self.progress.image(row)
            self.progress.end()

    def _row(self, cell: Cell, image: ImageRef, key: str, network: _Network) -> Row:
        checkpoint, compute = cell.checkpoint, self.choices.compute
        assert checkpoint is not None
        outcome = self._outcome(cell, image, network.model)
        return Row(
            row_key=key,
            run_id=self.manifest.run_id,
            protocol=self.plan.protocol.name,
            method=cell.method,
            backbone=cell.backbone,
            weights=checkpoint.label,
            checkpoint_sha256=checkpoint.sha256,
            options=network.options,
            dataset=cell.dataset,
            image=image.name,
            scale=cell.scale,
            device=str(compute.device),
            dtype=compute.dtype_name,
            acceleration=self.plan.settings.acceleration(cell.backbone),
            **outcome,
        )

    def _outcome(self, cell: Cell, image: ImageRef, model: SRMethod | str) -> dict[str, Any]:
        """The columns that depend on the image; a bad image or method becomes status and reason."""
        try:
            if image.size:
                self.plan.protocol.sizes(image.size, cell.scale)
        except UserError as error:
            return {"status": "skipped", "reason": str(error)}
        try:
            pair = self.pairs.pair(image, cell.scale, cell.family)
        except UserError as error:
            return {"status": "error", "reason": str(error)}
        sizes = dict(zip(("lr_h", "lr_w", "hr_h", "hr_w"), (*pair.lr.shape[:2], *pair.hr.shape[:2]), strict=True))
        if isinstance(model, str):
            return sizes | {"status": "error", "reason": model}
        try:
            return sizes | self._scored(cell, image, pair, model)
        except UserError as error:
            return sizes | {"status": "skipped", "reason": str(error)}
        except OutOfMemory as error:
            return sizes | {"status": "oom", "reason": str(error)}
        except Exception as error:
            return sizes | {"status": "error", "reason": _one_line(error)}

    def _scored(self, cell: Cell, image: ImageRef, pair: Pair, model: SRMethod) -> dict[str, Any]:
        out_size = pair.hr.shape[0], pair.hr.shape[1]
        compute, seed, limit = self.choices.compute, self.plan.settings.seed, self.choices.max_memory
        inference = super_resolve(model, pair.lr, out_size, cell.scale, compute, seed=seed, max_memory=limit)
        sr, hr = as_scored(inference.sr, pair.hr, self.plan.protocol.quantize)
        border = self.plan.protocol.border(cell.scale, cell.family)
        scores = score(sr, hr, border, self._metrics(cell), self.absent, str(compute.device))
        if self.choices.save_images:
            self._save(cell, image, pair, to_uint8(inference.sr))
        extra = {"tile": inference.chunk, "seconds": round(inference.seconds, 6)}
        return {"status": "ok", "reason": scores.reason} | scores.values | extra

    def _save(self, cell: Cell, image: ImageRef, pair: Pair, sr: Image8) -> None:
        """Write SR, and beside it the pair that it belongs to."""
        file = self._image_file(cell, image)
        for name, pixels in ((f"{image.name}_hr.png", pair.hr), (f"{image.name}_lr.png", pair.lr)):
            if not file.with_name(name).exists():
                write_png(file.with_name(name), pixels)
        write_png(file, sr)

    def _image_file(self, cell: Cell, image: ImageRef) -> Path:
        """Where SR goes: `<image>_<method>_<backbone>.png` in a folder per dataset and scale."""
        network = "_".join(filter(None, (cell.method, cell.backbone)))
        return self.folder.path / "images" / cell.dataset / f"x{cell.scale:g}" / f"{image.name}_{network}.png"

    def _write_manifest(self, state: State) -> None:
        counts = count(self._keys(), self.rows)
        ended = None if state == "running" else utc_now()
        self.manifest = replace(self.manifest, state=state, counts=counts, ended=ended)
        self.folder.write_manifest(self.manifest)

    def _keys(self) -> list[str]:
        return [key for cell in self.cells for key in cell.row_keys]

    def _result(self) -> RunResult:
        rows = tuple(self.rows[key] for key in self._keys())
        counts = self.manifest.counts
        return RunResult(self.folder.path, rows, counts, 3 if counts["failed"] or self.plan.problems else 0)


def _refuse_other_protocol(path: Path, plan: Plan) -> None:
    manifest = read_manifest(path / "manifest.json")
    if manifest is not None and manifest["protocol"] != json.loads(json.dumps(plan.protocol.as_dict())):
        name = manifest["protocol"].get("name")
        raise UserError(f"{path} was made with the protocol {name!r} of then: choose another --run-id, or --fresh.")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
