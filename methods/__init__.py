"""The methods under test: a registry that knows them without importing torch, and lazily what builds and loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.errors import UserError
from methods.registry import MethodSpec, list_methods, method_spec, register

if TYPE_CHECKING:
    from methods.loading import build, load

__all__ = ["MethodSpec", "UserError", "build", "list_methods", "load", "method_spec", "register"]


def __getattr__(name: str) -> Any:
    if name in ("build", "load"):
        from methods import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
