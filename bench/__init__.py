"""Benchmark of arbitrary-scale super-resolution: `from bench import load, make_plan, make_settings, run`.

Settings take the command line's flags: `run(make_settings(methods="gsasr,liif", scales="2,3.5"))`. Importing this
package imports neither torch nor anything else that is slow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.plan import make_plan
    from bench.runner import run
    from bench.settings import make_settings
    from methods.loading import load

__all__ = ["load", "make_plan", "make_settings", "run"]

_HOMES = {
    "load": "methods.loading:load",
    "make_plan": "bench.plan:make_plan",
    "make_settings": "bench.settings:make_settings",
    "run": "bench.runner:run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)
