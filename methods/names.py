"""Choosing names from a known list: wildcards, `all`, and near names for misspelt ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from methods.errors import UserError


def resolve(name: str, known: Iterable[str], what: str) -> str:
    """Return `name` if it is known.

    Raises:
        UserError: it is not; the sentence offers the nearest names, or all of them.
    """
    known = list(known)
    if name in known:
        return name
    near = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known) or 'none'}."
    raise UserError(f"There is no {what} called {name!r}: {hint}")


def select(patterns: str | Sequence[str], known: Iterable[str], what: str) -> list[str]:
    """Expand a comma list of names, wildcards (`gs*`) and `all` into known names, without repeats, in order of mention.

    Raises:
        UserError: a name is unknown, a wildcard matches nothing, or nothing was given.
    """
    known = list(known)
    items = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    chosen: dict[str, None] = {}
    for item in filter(None, (item.strip() for item in items)):
        if item == "all":
            hits = known
        elif any(mark in item for mark in "*?["):
            hits = [name for name in known if fnmatchcase(name, item)]
            if not hits:
                raise UserError(f"No {what} matches {item!r}: known are {', '.join(known) or 'none'}.")
        else:
            hits = [resolve(item, known, what)]
        chosen.update(dict.fromkeys(hits))
    if not chosen:
        raise UserError(f"No {what} was named: choose from {', '.join(known) or 'none'}, or all.")
    return list(chosen)
