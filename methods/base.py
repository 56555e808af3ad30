"""The interface that every method implements, and all that the runner knows of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.errors import UserError


class SRMethod(nn.Module, ABC):
    """An arbitrary-scale super-resolution network: LR image and output size in, SR image out.

    Normalisation, padding and cell conventions live inside the method; clamping, rounding and cropping live in the
    evaluation protocol. Order is always (y, x) and (H, W).
    """

    options: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that change the output but not the weights; users may set them for any checkpoint."""
    rival_options: ClassVar[tuple[frozenset[str], ...]] = ()
    """Groups of options that say the same thing in different ways: what a user sets of one replaces all of it."""
    encoder_hparams: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Per backbone: how this method's official models differ from the registered encoder."""

    def effective_options(self) -> dict[str, Any]:
        """The values of all `options` that are in force, defaults included; kept in attributes of these names."""
        return {name: getattr(self, name) for name in sorted(self.options)}

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Translate a reference's hyperparameters into this class's keyword arguments.

        config: a parity case's JSON merged with its `config`, or an official container's `args`, with `name`, what the
        container calls the network, beside them.
        """
        return {}

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the entries of a reference checkpoint to this module's keys, leaving out what has no meaning here."""
        return dict(state)

    def to_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `from_reference`: the entries of this module's state dict under the official keys."""
        return dict(state)

    @abstractmethod
    def encode(self, lr: Tensor) -> Any:
        """Compute what does not depend on the scale. lr: (B, 3, h, w) in [0, 1]."""

    @abstractmethod
    def render(
        self, feat: Any, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        """Render `encode`'s result at (H, W) pixels.

        scale: nominal (y, x) factors. chunk: how many queries (pixels, Gaussians) to hold at a time; None: the method's
        default. Returns (B, 3, H, W), neither clamped nor rounded.
        """

    def forward(
        self,
        lr: Tensor,
        out_size: tuple[int, int],
        scale: float | tuple[float, float] | None = None,
        *,
        chunk: int | None = None,
    ) -> Tensor:
        """Super-resolve lr (B, 3, h, w) in [0, 1] to (B, 3, H, W).

        scale: nominal, one or (y, x); the ratio of the sizes, per axis, by default.
        """
        return self.render(self.encode(lr), out_size, nominal_scale(lr, out_size, scale), chunk=chunk)

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The arrays of a parity case by name; `out` always, intermediate results where the cases hold them.

        given: the case's arrays, for those that are inputs (random draws of the reference).
        """
        return {"out": self(lr, out_size, scale)}


def nominal_scale(
    lr: Tensor, out_size: tuple[int, int], scale: float | tuple[float, float] | None = None
) -> tuple[float, float]:
    """The scale as (y, x): as given, or the ratio of the sizes."""
    if scale is None:
        return out_size[0] / lr.shape[-2], out_size[1] / lr.shape[-1]
    return scale if isinstance(scale, tuple) else (float(scale), float(scale))


def square_scale(scale: tuple[float, float], title: str) -> float:
    """The one scale of both axes.

    Raises:
        UserError: the axes differ.
    """
    if abs(scale[0] - scale[1]) > 1e-6 * max(scale):
        asked = f"{scale[0]:g} x {scale[1]:g}"
        raise UserError(f"{title} takes one scale for both axes, not {asked}: give a single number.")
    return scale[0]
