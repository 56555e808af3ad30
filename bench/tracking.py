"""Counting multiply-adds and live memory of a computation, by named part, on any device, the `meta` device included."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from methods.parts import listening

OTHER = "other"
"""The part of whatever no part was named for."""


@dataclass
class Work:
    """What a part did."""

    macs: int = 0
    """Multiply-adds of its matrix products and convolutions."""
    peak: int = 0
    """Most bytes of tensors that were alive at once during it, its own and others'."""


@dataclass
class Tracker(TorchDispatchMode):
    """A mode that counts while it is entered; see `tracking`.

    Counted are tensors that the computation makes; those that exist before, such as weights, are not.
    """

    parts: dict[str, Work] = field(default_factory=dict)
    live: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._names = [OTHER]
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    @property
    def macs(self) -> int:
        """Multiply-adds of all parts."""
        return sum(work.macs for work in self.parts.values())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Account to a part what happens inside; the innermost one counts."""
        self._names.append(name)
        try:
            yield
        finally:
            self._names.pop()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function._overloadpacket not in _COUNTERS and function is not torch.ops.prim.device.default:
            # In inference mode, operators such as `linear` arrive here whole.
            with self:
                result = function.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = function(*args, **(kwargs or {}))
        if function in _AS_REAL and result.is_meta:
            result = _AS_REAL[function](result, args[0])
        work = self.parts.setdefault(self._names[-1], Work())
        if count := _COUNTERS.get(function._overloadpacket):
            work.macs += count(args, kwargs or {}, result)
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._count(leaf.untyped_storage())
        work.peak = max(work.peak, self.live)
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def _convolved(result: Tensor, image: Tensor) -> Tensor:
    """In the memory format of the image: later copies into another format depend on it."""
    last = torch.channels_last
    return result.contiguous(memory_format=last) if image.is_contiguous(memory_format=last) else result


def _folded(result: Tensor, patches: Tensor) -> Tensor:
    """In memory of the size of the patches, which is allocated and then cut."""
    return torch.empty_like(patches).resize_(result.shape)


_AS_REAL: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    torch.ops.aten.convolution.default: _convolved,
    torch.ops.aten.col2im.default: _folded,
}
"""What operators do to memory with real tensors and not on the meta device."""


@contextmanager
def tracking() -> Iterator[Tracker]:
    """Track everything computed inside."""
    tracker = Tracker()
    with listening(tracker.part), tracker:
        yield tracker


Counter = Callable[[tuple[Any, ...], Mapping[str, Any], Any], int]


def _from_registry(operator: Any) -> Counter:
    formula = flop_registry[operator]
    return lambda args, kwargs, result: int(formula(*args, **kwargs, out_val=result)) // 2


def _product(left: int, right: int | None = None) -> Counter:
    """Of the matrix, or matrices, at one position with the matrices at another, with vectors where there is none."""
    return lambda args, kwargs, result: args[left].numel() * (1 if right is None else args[right].shape[-1])


_COUNTERS: dict[Any, Counter] = {operator: _from_registry(operator) for operator in flop_registry}
_COUNTERS |= {
    torch.ops.aten.addmm_: _product(1, 2),
    torch.ops.aten.addbmm: _product(1, 2),
    torch.ops.aten.addbmm_: _product(1, 2),
    torch.ops.aten.baddbmm_: _product(1, 2),
    torch.ops.aten.addmv: _product(1),
    torch.ops.aten.addmv_: _product(1),
    torch.ops.aten.mv: _product(0),
    torch.ops.aten.dot: _product(0),
}
