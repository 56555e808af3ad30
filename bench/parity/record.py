"""What the last comparisons with the references found, kept so that lists can show it. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.files import write_atomic
from bench.keys import numbers_sha256
from bench.parity.cases import CaseResult

RECORD = Path("results") / "parity.json"


def record(results: Iterable[CaseResult], file: Path = RECORD) -> None:
    """Store the verdicts per method, beside those of other methods; of these methods older verdicts are forgotten."""
    verdicts: dict[str, Counter[str]] = {}
    for result in results:
        if result.method is not None:
            verdicts.setdefault(result.method, Counter())[result.verdict] += 1
    now, code = datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), numbers_sha256()
    found = {method: {"verdicts": dict(counts), "when": now, "code": code} for method, counts in verdicts.items()}
    if found:
        write_atomic(file, json.dumps({**_read(file), **found}, indent=1, sort_keys=True).encode())


def verdict(method: str, file: Path = RECORD) -> str:
    """What the last comparison of a method found, in a few words; `"not run"` where none is on record."""
    entry = _read(file).get(method)
    if not isinstance(entry, dict):
        return "not run"
    counts: Mapping[str, int] = entry["verdicts"]
    passed, run = counts.get("pass", 0), sum(counts.values()) - counts.get("skip", 0)
    age = "" if entry["code"] == numbers_sha256() else ", older code"
    return f"{passed} of {run} pass{age}" if run else "not run"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a record, not a result: it is made again by the next comparison
    return content if isinstance(content, dict) else {}
