"""What a run was, in full: enough to judge its rows and to do it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import env
from bench.keys import image_sha256
from bench.metrics import METRICS
from bench.plan import Plan
from bench.rows import FAILED, Row
from bench.settings import RunSettings
from methods.errors import UserError
from methods.registry import encoder_spec, method_spec

if TYPE_CHECKING:
    from bench.data import Dataset

SCHEMA_VERSION = 1
State = Literal["running", "finished", "interrupted"]
Kind = Literal["run", "cost"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Content of `manifest.json`."""

    schema: int = SCHEMA_VERSION
    kind: Kind = "run"
    """Whose rows these are: `bench.rows.Row` or `bench.cost.rows.CostRow`."""
    run_id: str
    state: State
    partial: bool
    """Whether images were left out on purpose; no table shows such a run as final."""
    limit: int | None
    """Images per dataset, where --limit cut them."""
    argv: tuple[str, ...]
    settings: Mapping[str, Any]
    protocol: Mapping[str, Any]
    """The evaluation protocol's whole content, not only its name."""
    methods: tuple[Mapping[str, Any], ...]
    backbones: tuple[Mapping[str, Any], ...]
    datasets: tuple[Mapping[str, Any], ...]
    """`sha256` is over the names and contents of all images that were used, ready LR files among them."""
    checkpoints: tuple[Mapping[str, Any], ...]
    metrics: tuple[Mapping[str, Any], ...]
    """Whose implementation each metric is, or why it has no values."""
    compute: Mapping[str, Any]
    """Device, type, determinism, threads."""
    rasterizer: Mapping[str, Any]
    """Name of the backend and why it was taken, for native code with what compiled it."""
    environment: Mapping[str, Any]
    problems: tuple[str, ...]
    """Why some cells could not run."""
    cost: Mapping[str, Any] | None = None
    """Of a cost run: the cost protocol's whole content, sizes, switches, and this machine's ceilings."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """planned, done, skipped, failed images."""
    started: str
    """UTC, ISO 8601."""
    ended: str | None = None

    def to_json(self) -> str:
        """Strict, indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def utc_now() -> str:
    """The time as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def default_run_id(settings: RunSettings) -> str:
    """A name that the same settings always get, so that the same command resumes its run."""
    text = json.dumps(settings.as_dict(), sort_keys=True)
    return f"{settings.protocol}-{sha256(text.encode()).hexdigest()[:8]}"


def count(planned: Iterable[str], rows: Mapping[str, Row]) -> dict[str, int]:
    """How many of the planned row keys are done, skipped and failed in `rows`."""
    planned = list(planned)
    found = [rows[key].status for key in planned if key in rows]
    return {
        "planned": len(planned),
        "done": found.count("ok"),
        "skipped": found.count("skipped"),
        "failed": sum(status in FAILED for status in found),
    }


def describe(
    plan: Plan,
    run_id: str,
    *,
    compute: Mapping[str, Any],
    rasterizer: Mapping[str, Any],
    absent: Mapping[str, str],
    metrics: Iterable[str],
    cost: Mapping[str, Any] | None = None,
) -> Manifest:
    """The manifest of a run that starts now.

    compute, rasterizer: as the manifest has them. absent: {metric: why it cannot be computed}. metrics: names of all
    that were asked for. cost: what a cost run adds.
    """
    return Manifest(
        kind="run" if cost is None else "cost",
        cost=cost,
        run_id=run_id,
        state="running",
        partial=plan.settings.limit is not None,
        limit=plan.settings.limit,
        argv=(Path(sys.argv[0]).name, *sys.argv[1:]),
        settings=plan.settings.as_dict(),
        protocol=plan.protocol.as_dict(),
        methods=_named(method_spec(name) for name in dict.fromkeys(cell.method for cell in plan.cells)),
        backbones=_named(encoder_spec(name) for name in dict.fromkeys(cell.backbone for cell in plan.cells) if name),
        datasets=_datasets(plan),
        checkpoints=_checkpoints(plan),
        metrics=tuple(_metric(name, absent.get(name)) for name in metrics),
        compute=compute,
        rasterizer=rasterizer,
        environment=env.capture(),
        problems=plan.problems,
        started=utc_now(),
    )


def read_manifest(path: Path, *, remedy: str = "choose another --run-id") -> dict[str, Any] | None:
    """The manifest at `path` as plain data; None where there is none.

    remedy: what the user can do about a file that cannot be used.

    Raises:
        UserError: it is damaged or was written by another version.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{path} is not the manifest of a run: {remedy}.") from error
    if schema != SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {schema}, not {SCHEMA_VERSION}: {remedy}.")
    return dict(manifest)


def _metric(name: str, absent: str | None) -> Mapping[str, Any]:
    return {"name": name, "implementation": None if absent else METRICS[name].identity(), "absent": absent}


def _named(specs: Iterable[Any]) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"name": spec.name, "title": spec.title, "order": getattr(spec, "order", index)}
        for index, spec in enumerate(specs)
    )


def _datasets(plan: Plan) -> tuple[Mapping[str, Any], ...]:
    return tuple(_dataset(dataset, plan) for dataset in plan.datasets)


def _dataset(dataset: Dataset, plan: Plan) -> Mapping[str, Any]:
    images = {image for cell in plan.cells if cell.dataset == dataset.name for image in cell.images}
    hashes = sorted(f"{image.name} {image_sha256(image)}" for image in images)
    return {
        "name": dataset.name,
        "title": dataset.descriptor.title,
        "order": dataset.descriptor.order,
        "family": dataset.family,
        "images": len({image.name for image in images}),
        "sha256": sha256("\n".join(hashes).encode()).hexdigest(),
    }


def _checkpoints(plan: Plan) -> tuple[Mapping[str, Any], ...]:
    found = dict.fromkeys((cell.method, cell.backbone, cell.checkpoint) for cell in plan.cells if cell.checkpoint)
    return tuple(
        {
            "method": method,
            "backbone": backbone,
            "label": checkpoint.label,
            "files": [path.name for path in checkpoint.paths],
            "sha256": checkpoint.sha256,
        }
        for method, backbone, checkpoint in found
    )
