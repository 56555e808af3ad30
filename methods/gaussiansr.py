"""GaussianSR: high-fidelity 2D Gaussian splatting for arbitrary-scale super-resolution (Hu et al., AAAI 2025).

Eight of the encoder's 64 channels are spread by Gaussian kernels, the others enlarged bicubically; a local texture
estimator (LTE) at the size of the output and an MLP make the colours. The kernels come from a learnt bank: a classifier
chooses one for every LR pixel, and the choices are averaged over all 7x7 patches, which leaves 49 kernels, one for each
place in a patch (arXiv 2407.18046; github.com/tljxyys/GaussianSR).

Everything is computed once per image, where the official code repeats all but the MLP for every 30,000 queries; the
kernels are applied to all patches by one matrix product; the bank goes into the class map before its resizing.

Quirks of the official code that are kept: kernels have 5x5 output pixels at every scale, so that from ×8 on most pixels
see none; they are placed 0.5 to 0.7 LR pixels towards the upper left; the image is resized, not padded, to whole
patches; there is no local ensemble and no enlarged image to add to. The official classifier draws its choices at random
also when testing (`classes`), and averages over all images of a batch, whose results so depend on each other
(`statistics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import square_scale
from methods.encoders.edsr import conv3x3
from methods.errors import UserError
from methods.fourier import halves, waves
from methods.grid import Axis, centres, nearest, row_blocks
from methods.implicit import ENCODER, ImplicitMethod, axes, wide
from methods.mlp import MLP
from methods.parts import part

CHUNK = 8192
"""Output pixels at a time."""
PATCH, KERNEL, SPREAD = 7, 5, 8
"""Sides of patches in LR pixels and of kernels in output pixels; channels that go through the kernels."""
EPSILON = 1e-5
"""Added to squared deviations."""
HEAD = "segmentation_head."


class Encoded(NamedTuple):
    """What of LR images does not depend on the scale."""

    features: Tensor
    """(B, C, h, w)."""
    kernels: Tensor
    """sigma rows, sigma columns, opacity, rho of the kernels at the places of a patch, row by row: (B, 49, 4)."""


class GaussianSR(ImplicitMethod):
    """GaussianSR on any encoder; the defaults are the published model. One scale for both axes, at least 5/7.

    points: kernels in the bank, a square number. dim: of the texture estimator. hidden: widths of the MLP. classes:
    `"argmax"`, the likeliest kernel, or `"sampled"`, drawn (Gumbel) from torch's generator of the device, as official.
    statistics: `"image"`, kernels averaged within each image, or `"batch"`, over all images of a batch, as officially.
    """

    options = frozenset({"classes", "statistics"})
    CLASSES: ClassVar = ("argmax", "sampled")
    STATISTICS: ClassVar = ("image", "batch")

    def __init__(
        self,
        encoder: nn.Module,
        *,
        points: int = 100,
        dim: int = 256,
        hidden: tuple[int, ...] = (256, 256, 256, 256),
        classes: Literal["argmax", "sampled"] = "argmax",
        statistics: Literal["image", "batch"] = "image",
    ) -> None:
        super().__init__(encoder)
        for name, value, known in (("classes", classes, self.CLASSES), ("statistics", statistics, self.STATISTICS)):
            if value not in known:
                raise UserError(f"GaussianSR has no {name} {value!r}: choose {' or '.join(known)}.")
        if self.channels <= SPREAD:
            raise UserError(f"GaussianSR needs more than {SPREAD} channels, not {self.channels}: take a wider encoder.")
        side = round(points**0.5)
        if points < 1 or side**2 != points:
            raise UserError(f"GaussianSR cannot lay out a bank of {points} kernels: choose a square number.")
        self.classes, self.statistics = classes, statistics
        self.segmentation_head = nn.Sequential(conv3x3(self.channels, points))
        deviations = torch.linspace(0.2, 3.0, side)
        self.sigma_x = nn.Parameter(deviations.repeat_interleave(side))
        self.sigma_y = nn.Parameter(deviations.repeat(side))
        self.opacity = nn.Parameter(torch.sigmoid(torch.ones(points, 1)))
        self.rho = nn.Parameter(torch.zeros(points, 1))
        self.coef, self.freq = conv3x3(self.channels, dim), conv3x3(self.channels, dim)
        self.phase = nn.Linear(2, dim // 2, bias=False)
        self.dec = MLP(dim, *hidden, 3, activation=nn.GELU)

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        hidden = config.get("decoder_hidden") or config.get("dec_spec", {}).get("args", {}).get("hidden_list")
        found: dict[str, Any] = {"hidden": tuple(hidden)} if hidden else {}
        names = {"num_points": "points", "hidden_dim": "dim"}
        found |= {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
        if "procedure" in config:  # parity cases are of the official behaviour
            found |= {"statistics": "batch", "classes": "sampled" if config.get("classes") == "given" else "argmax"}
        return found

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wrapped, head = f"{ENCODER}{self._wrapper}.", ENCODER + HEAD
        found = {}
        for key, value in state.items():
            key = HEAD + key.removeprefix(head) if key.startswith(head) else key
            found[ENCODER + key.removeprefix(wrapped) if key.startswith(wrapped) else key] = value
        return super().from_reference(found)

    def to_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for key, value in super().to_reference(state).items():
            if key.startswith(ENCODER):
                key = f"{ENCODER}{self._wrapper}.{key.removeprefix(ENCODER)}"
            found[ENCODER + key if key.startswith(HEAD) else key] = value
        return found

    @property
    def _wrapper(self) -> str:
        """What official keys call the encoder within `encoder`."""
        return type(self.encoder).__name__.lower()

    def encode(self, lr: Tensor) -> Encoded:
        features = self.features(self.normalise(lr))
        with part("kernels"):
            return Encoded(features, self._kernels(self._classify(features), features))

    def _classify(self, features: Tensor) -> Tensor:
        """The chosen kernel of every LR pixel, (B, h, w)."""
        logits = self.segmentation_head(features)
        if self.classes == "sampled":
            logits = logits - torch.empty_like(logits, dtype=wide(logits.dtype)).exponential_().log()
        chosen: Tensor = logits.argmax(1)
        return chosen

    def _kernels(self, classes: Tensor, features: Tensor) -> Tensor:
        """The mean of the chosen kernels at every place of a patch: (B, 49, 4)."""
        bank = torch.cat([self.sigma_x[:, None], self.sigma_y[:, None], self.opacity, self.rho], dim=1).to(features)
        chosen = bank[classes].permute(0, 3, 1, 2)
        size = _patches(classes.shape[1:])
        resized = F.interpolate(chosen, size=(size[0] * PATCH, size[1] * PATCH), mode="bicubic", align_corners=False)
        mean = (
            resized.unflatten(2, (size[0], PATCH))
            .unflatten(4, (size[1], PATCH))
            .mean((2, 4))
            .flatten(2)
            .transpose(1, 2)
        )
        kernels: Tensor = mean.mean(0, keepdim=True).expand_as(mean) if self.statistics == "batch" else mean
        return kernels

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        factor = square_scale(scale, "GaussianSR")
        if round(PATCH * factor) < KERNEL:
            raise UserError(f"GaussianSR cannot render at scale {factor:g}: choose one of at least 5/7.")
        images = [self._image(*maps, out_size, factor, chunk or CHUNK) for maps in zip(*feat, strict=True)]
        return self.denormalise(torch.stack(images).permute(0, 3, 1, 2))

    def _image(self, features: Tensor, kernels: Tensor, out_size: tuple[int, int], scale: float, chunk: int) -> Tensor:
        """One image, normalised: features (C, h, w), kernels (49, 4), to (H, W, 3)."""
        size = (features.shape[1], features.shape[2])
        grid = axes(size, size, out_size)
        with part("Gaussian splatting"):
            spread = self._splat(features[:SPREAD], kernels, scale)
            spread = F.interpolate(spread[None], size=out_size, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
        with part("enlargement"):
            rows, columns = (_bicubic(axis).to(features) for axis in grid)
            wide_rows = torch.einsum("chw,xw->hxc", features[SPREAD:], columns)
        rel_y, rel_x = (_offsets(axis).to(features.device, wide(features.dtype)) for axis in grid)
        phase = self.phase.weight.to(rel_y)
        phase = phase @ phase.new_tensor([axis.rel_cell for axis in grid])
        found = []
        for block in row_blocks(out_size, chunk):
            rel = torch.stack(torch.broadcast_tensors(rel_y[block, None], rel_x), -1).flatten(0, 1)
            coef, freq = self._texture(self._window(spread, wide_rows, rows, block))
            with part("waves"):
                x = waves(coef, freq, rel, phase)
            with part("decoder"):
                found.append(self.dec.layers(x).unflatten(0, (-1, out_size[1])))
        return torch.cat(found)

    def _splat(self, features: Tensor, kernels: Tensor, scale: float) -> Tensor:
        """Spread (8, h, w) by the kernels; whole patches at the output's scale, (8, rows, columns)."""
        count = _patches(features.shape[1:])
        resized = F.interpolate(
            features[None], size=(count[0] * PATCH, count[1] * PATCH), mode="bicubic", align_corners=False
        )
        # (rows of patches, columns, channels, 49 places)
        places = (
            resized[0].unflatten(1, (count[0], PATCH)).unflatten(3, (count[1], PATCH)).permute(1, 3, 0, 2, 4).flatten(3)
        )
        side = round(PATCH * scale)
        placed = (kernels[:, 2, None, None] * _placed(kernels, side)).flatten(1).to(places)
        patches: Tensor = (places @ placed).clamp(0, 1).unflatten(3, (side, side))
        return patches.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)

    def _window(self, spread: Tensor, wide_rows: Tensor, rows: Tensor, block: slice) -> Tensor:
        """All channels of some output rows and their neighbours above and below: (1, C, rows + 2, W), channels last."""
        height = len(rows)
        first, last = max(block.start - 1, 0), min(block.stop + 1, height)
        matrix = rows[first:last]
        low, high = _band(height, wide_rows.shape[0], first, last)
        with part("enlargement"):
            others = torch.tensordot(matrix[:, low:high], wide_rows[low:high], dims=1)
            both = torch.cat([spread[first:last].to(others), others], dim=-1)
        padding = (0, 0, 0, 0, first - (block.start - 1), block.stop + 1 - last)
        return F.pad(both, padding).permute(2, 0, 1)[None]

    def _texture(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes and frequencies of the output pixels within a window, (N, dim) each."""
        weight = torch.cat([self.coef.weight, halves(self.freq.weight)])
        bias = torch.cat([cast(Tensor, self.coef.bias), halves(cast(Tensor, self.freq.bias))])
        with part("amplitudes and frequencies"):
            found = F.conv2d(window, weight, bias, padding=(0, 1))
        coef, freq = found[0].permute(1, 2, 0).flatten(0, 1).chunk(2, dim=-1)
        return coef, freq

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        features = self.features(self.normalise(lr))
        classes = given["classes"].long() if self.classes == "sampled" else self._classify(features)
        feat = Encoded(features, self._kernels(classes, features))
        return {"out": self.render(feat, out_size, scale), "classes": classes}


def _patches(size: Any) -> tuple[int, int]:
    """Patches per column and row of an LR image (h, w)."""
    height, width = size
    return -(-height // PATCH), -(-width // PATCH)


def _placed(kernels: Tensor, side: int) -> Tensor:
    """The kernels (49, 4) where a patch of `side` output pixels has them: (49, side, side)."""
    sigma_rows, sigma_columns, _, rho = kernels.to(wide(kernels.dtype)).unbind(1)
    a, c, b = sigma_rows**2 + EPSILON, sigma_columns**2 + EPSILON, rho * sigma_rows * sigma_columns
    u = torch.linspace(-5, 5, KERNEL, dtype=a.dtype, device=a.device)
    a, b, c = (value[:, None, None] for value in (a, b, c))
    power = (c * u[:, None] ** 2 - 2 * b * u[:, None] * u + a * u**2) / (a * c - b**2)
    kernel = torch.exp(-0.5 * (power - power.amin((1, 2), keepdim=True)))
    # Shifted with linear interpolation, which is a matrix per axis and place.
    place = torch.arange(PATCH, dtype=torch.float64)
    shift = (1 - 2 * place / PATCH) * (side - 1) / 2
    source = torch.arange(side) + shift[:, None]  # (7, side)
    own = (side - KERNEL) // 2 + torch.arange(KERNEL)
    hat = (1 - (source[..., None] - own).abs()).clamp(min=0).to(kernel)  # (7, side, 5)
    kernel = kernel.view(PATCH, PATCH, KERNEL, KERNEL)
    return torch.einsum("yru,yxuv,xcv->yxrc", hat, kernel, hat).flatten(0, 1)


def _bicubic(axis: Axis) -> Tensor:
    """PyTorch's bicubic enlargement along one axis as a matrix, float64 (out, lr)."""
    eye = torch.eye(axis.lr, dtype=torch.float64)[None, None]
    return F.interpolate(eye, size=(axis.out, axis.lr), mode="bicubic", align_corners=False)[0, 0]


def _band(out: int, size: int, first: int, last: int) -> tuple[int, int]:
    """LR pixels, from and to, that bicubic enlargement reads for output pixels from `first` to before `last`."""
    low, high = (int((number + 0.5) * size / out - 0.5) for number in (first, last - 1))
    return max(low - 2, 0), min(high + 4, size)


def _offsets(axis: Axis) -> Tensor:
    """Of each output pixel from the nearest LR pixel's centre, in half LR pixels, as in float32: (out,)."""
    coord, lr_coord = centres(axis.out, axis.out), centres(axis.lr, axis.lr)
    return (coord - lr_coord[nearest(coord, axis.lr)]) * axis.lr
