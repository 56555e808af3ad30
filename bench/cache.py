"""Decoded images and LR/GT pairs that the next cell will want again, within a memory budget."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.pairs import Pair, make_pair

if TYPE_CHECKING:
    from bench.data import ImageRef
    from bench.pairs import Image8
    from bench.protocol import Protocol

_BYTES = 256 << 20
_ORIGINALS = 8


class PairCache:
    """Makes the pairs of one protocol, remembering the latest ones up to a number of bytes."""

    def __init__(self, protocol: Protocol, limit: int = _BYTES) -> None:
        self._protocol, self._limit, self._bytes = protocol, limit, 0
        self._pairs: OrderedDict[tuple[ImageRef, float, str], Pair] = OrderedDict()
        self._original = lru_cache(_ORIGINALS)(_read)

    def pair(self, image: ImageRef, scale: float, family: str) -> Pair:
        """The pair of `image` at `scale`.

        Raises:
            UserError: a file is damaged, or the ready LR does not belong to it.
        """
        key = image, scale, family
        if key not in self._pairs:
            hr = self._original(replace(image, lr=None))
            self._add(key, make_pair(hr, scale, self._protocol, lr_uint8=image.read_lr(), family=family))
        self._pairs.move_to_end(key)
        return self._pairs[key]

    def _add(self, key: tuple[ImageRef, float, str], pair: Pair) -> None:
        self._pairs[key] = pair
        self._bytes += _size(pair)
        while self._bytes > self._limit and len(self._pairs) > 1:
            self._bytes -= _size(self._pairs.popitem(last=False)[1])


def _read(image: ImageRef) -> Image8:
    return image.read()


def _size(pair: Pair) -> int:
    return pair.hr.nbytes + pair.lr.nbytes
