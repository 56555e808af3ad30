"""Naming the parts of a network, so that a profiler can tell them apart; free while none listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Listener = Callable[[str], AbstractContextManager[object]]
_listener: Listener | None = None


def part(name: str) -> AbstractContextManager[object]:
    """Mark a block of code as belonging to a part; parts may nest, the innermost counts."""
    return nullcontext() if _listener is None else _listener(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener(name)` entered around every part of this process."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
