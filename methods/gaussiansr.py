"""GaussianSR: high-fidelity 2D Gaussian splatting for arbitrary-scale super-resolution (Hu et al., AAAI 2025).

Eight of the encoder's 64 channels are spread by Gaussian kernels, the others enlarged bicubically; a local texture
estimator (LTE) at the size of the output and an MLP make the colours. The kernels come from a learnt bank: a classifier
chooses one for every LR pixel, and the choices are averaged over all 7x7 patches, which leaves 49 kernels, one for each
place in a patch (arXiv 2407.18046; github.com/tljxyys/GaussianSR).

Everything is computed once per image, where the official code repeats all but encoder and MLP for every 30,000 queries;
the kernels are applied to all patches by one matrix product; the bank goes into the class map before its resizing; most
of the texture estimator's convolutions happens before the enlargement, which is linear too.

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

CHUNK, DEVICE_CHUNK = 2048, 32768
"""Output pixels at a time: on the CPU, where their hidden units are to fit the cache of a core, and elsewhere."""
COLUMNS = 32
"""Output columns that are mixed by one matrix, small because most of it is zero."""
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

    points: kernels in the bank, a square number. dim: amplitudes and frequencies per pixel. hidden: widths of the MLP.
    classes: `"argmax"`, the likeliest kernel, or `"sampled"`, drawn with Gumbel noise from torch's generator, as
    officially, and in training mode mixed. statistics: `"image"`, kernels averaged within each image, or `"batch"`,
    over all images of a batch, as officially.
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
        with part("Gaussian splatting"):
            return Encoded(features, self._kernels(self._choose(self._logits(features))))

    def _logits(self, features: Tensor) -> Tensor:
        """Scores of the kernels for every LR pixel, (B, h, w, points), with noise where they are drawn.

        In this order of axes the same seed draws the same classes as in the official code.
        """
        logits: Tensor = self.segmentation_head(features).permute(0, 2, 3, 1).contiguous()
        if self.classes == "argmax":
            return logits
        return logits - torch.empty_like(logits, dtype=wide(logits.dtype)).exponential_().log()

    def _choose(self, logits: Tensor) -> Tensor:
        """The chosen kernel of every LR pixel, (B, h, w, 4): a mixture in training mode, where they are drawn.

        A choice has no gradient; the classifier gets that of the mixture.
        """
        bank = self._bank()
        if self.training and self.classes == "sampled":
            return logits.softmax(-1).to(bank) @ bank
        chosen = bank[logits.argmax(-1)]
        if torch.is_grad_enabled():
            mixture = logits.softmax(-1).to(bank) @ bank.detach()
            chosen = chosen + (mixture - mixture.detach())
        return chosen

    def _bank(self) -> Tensor:
        """sigma rows, sigma columns, opacity, rho of all kernels, (points, 4)."""
        return torch.cat([self.sigma_x[:, None], self.sigma_y[:, None], self.opacity, self.rho], dim=1)

    def _kernels(self, chosen: Tensor) -> Tensor:
        """The mean of the chosen kernels (B, h, w, 4) at every place of a patch: (B, 49, 4)."""
        mean = _cut(chosen.permute(0, 3, 1, 2)).mean((2, 4)).flatten(2).transpose(1, 2)
        return mean.mean(0, keepdim=True).expand_as(mean) if self.statistics == "batch" else mean

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        factor = _factor(scale)
        chunk = chunk or (CHUNK if feat.features.device.type == "cpu" else DEVICE_CHUNK)
        images = [self._image(*maps, out_size, factor, chunk) for maps in zip(*feat, strict=True)]
        return self.denormalise(torch.stack(images).permute(0, 3, 1, 2))

    def render_at(self, feat: Encoded, index: Tensor, out_size: tuple[int, int], scale: tuple[float, float]) -> Tensor:
        factor, size = _factor(scale), (feat.features.shape[2], feat.features.shape[3])
        grid = axes(size, size, out_size)
        rel_y, rel_x, phase = self._places(grid, feat.features)
        weight, bias = self._estimators()
        images = []
        for features, kernels, queries in zip(*feat, index, strict=True):
            spread = self._spread(features, kernels, factor, out_size)
            enlarged = F.interpolate(features[None, SPREAD:], size=out_size, mode="bicubic", align_corners=False)[0]
            seen = F.unfold(torch.cat([spread, enlarged])[None], 3, padding=1)[0].index_select(1, queries)
            coef, freq = torch.addmm(bias, seen.t(), weight.flatten(1).t()).chunk(2, dim=-1)
            rows, columns = queries.div(out_size[1], rounding_mode="floor"), queries % out_size[1]
            x = waves(coef, freq, torch.stack([rel_y[rows], rel_x[columns]], -1), phase)
            images.append(self.dec.layers(x))
        return self.denormalise(torch.stack(images).transpose(1, 2))

    def _image(self, features: Tensor, kernels: Tensor, out_size: tuple[int, int], scale: float, chunk: int) -> Tensor:
        """One image, normalised: features (C, h, w), kernels (49, 4), to (H, W, 3)."""
        size = (features.shape[1], features.shape[2])
        grid = axes(size, size, out_size)
        with part("Gaussian splatting"):
            spread = self._spread(features, kernels, scale, out_size).permute(1, 2, 0)
        with part("amplitudes and frequencies"):
            texture = Texture(*self._estimators(), spread, features[SPREAD:].permute(1, 2, 0), grid)
        rel_y, rel_x, phase = self._places(grid, features)
        colors = features.new_empty(*out_size, 3)  # not a list of blocks, whose pieces would keep freed memory apart
        for block in row_blocks(out_size, chunk):
            rel = torch.stack(torch.broadcast_tensors(rel_y[block, None], rel_x), -1).flatten(0, 1)
            with part("amplitudes and frequencies"):
                coef, freq = texture(block).chunk(2, dim=-1)
            with part("waves"):
                x = waves(coef, freq, rel, phase)
            with part("decoder"):
                colors[block] = self.dec.layers(x).unflatten(0, (-1, out_size[1]))
        return colors

    def _spread(self, features: Tensor, kernels: Tensor, scale: float, out_size: tuple[int, int]) -> Tensor:
        """The spread channels at the output's size, (8, H, W)."""
        patches = self._splat(features[:SPREAD], kernels, scale)[None]
        return F.interpolate(patches, size=out_size, mode="bicubic", align_corners=False)[0]

    def _estimators(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of one convolution for amplitudes, then frequencies, those along y first."""
        weight = torch.cat([self.coef.weight, halves(self.freq.weight)])
        return weight, torch.cat([cast(Tensor, self.coef.bias), halves(cast(Tensor, self.freq.bias))])

    def _places(self, grid: tuple[Axis, Axis], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets of output rows and columns, and what the cell adds to angles; float32 at least."""
        rel_y, rel_x = (_offsets(axis).to(like.device, wide(like.dtype)) for axis in grid)
        phase = self.phase.weight.to(rel_y)
        return rel_y, rel_x, phase @ phase.new_tensor([axis.rel_cell for axis in grid])

    def _splat(self, features: Tensor, kernels: Tensor, scale: float) -> Tensor:
        """Spread (8, h, w) by the kernels; whole patches at the output's scale, (8, rows, columns)."""
        places = _cut(features[None])[0].permute(1, 3, 0, 2, 4).flatten(3)  # (patches down, across, 8, 49)
        side = round(PATCH * scale)
        placed = (kernels[:, 2, None, None] * _placed(kernels, side)).flatten(1).to(places)
        patches: Tensor = (places @ placed).clamp(0, 1).unflatten(3, (side, side))
        return patches.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        features = self.features(self.normalise(lr))
        classes = given["classes"].long() if self.classes == "sampled" else self._logits(features).argmax(-1)
        feat = Encoded(features, self._kernels(self._bank()[classes]))
        return {"out": self.render(feat, out_size, scale), "classes": classes}


class Texture:
    """Amplitudes and frequencies of one image's output pixels, a few rows at a time.

    They are a 3x3 convolution of the spread channels and of the enlarged others. Of the latter, which are enlarged down
    the columns only, it makes three terms, one for each column of the weights; the enlargement along the rows then adds
    those of three output pixels. So most of the work is done for LR columns.
    """

    def __init__(self, weight: Tensor, bias: Tensor, spread: Tensor, others: Tensor, grid: tuple[Axis, Axis]) -> None:
        """weight: (F, C, 3, 3). bias: (F,). spread: (H, W, 8). others: (h, w, C - 8)."""
        self.weight, self.bias, self.spread, self.others = weight[:, :SPREAD], bias, spread, others.contiguous()
        self.terms = weight[:, SPREAD:].permute(3, 0, 1, 2).flatten(0, 1)[..., None]  # (3 F, C - 8, 3, 1)
        self.rows, columns = (_bicubic(axis) for axis in grid)
        self.mix_rows = self.rows.to(others)
        # Outside the output's border the convolution sees zeros. (W, w, 3), LR column and term as one axis:
        mix = F.pad(columns, (0, 0, 1, 1)).unfold(0, 3, 1).flatten(1)
        blocks = [slice(start, start + COLUMNS) for start in range(0, len(mix), COLUMNS)]
        bands = [_band(mix[block]) for block in blocks]
        self.blocks = [(block, band, mix[block, band].to(others)) for block, band in zip(blocks, bands, strict=True)]

    def __call__(self, rows: slice) -> Tensor:
        """Of all pixels of some output rows: (rows W, F)."""
        seen = slice(max(rows.start - 1, 0), min(rows.stop + 1, len(self.rows)))
        band, count = _band(self.rows[seen]), rows.stop - rows.start
        tall = torch.tensordot(self.mix_rows[seen, band], self.others[band], dims=1)  # (rows + 2, w, C - 8)
        border = (0, 0, 0, 0, seen.start - (rows.start - 1), rows.stop + 1 - seen.stop)
        tall, spread = (F.pad(x[None], border).permute(0, 3, 1, 2) for x in (tall, self.spread[seen]))
        terms = F.conv2d(tall, self.terms)[0].permute(1, 2, 0).reshape(count, -1, len(self.weight))
        own = F.conv2d(spread, self.weight, self.bias, padding=(0, 1))[0].permute(1, 2, 0)
        found = [
            torch.baddbmm(own[:, block], mix.expand(count, -1, -1), terms[:, band]) for block, band, mix in self.blocks
        ]
        return torch.cat(found, dim=1).flatten(0, 1)


def _factor(scale: tuple[float, float]) -> float:
    factor = square_scale(scale, "GaussianSR")
    if round(PATCH * factor) < KERNEL:
        raise UserError(f"GaussianSR cannot render at scale {factor:g}: choose one of at least 5/7.")
    return factor


def _cut(image: Tensor) -> Tensor:
    """Resize (B, C, h, w) to whole patches: (B, C, patches down, 7, patches across, 7)."""
    down, across = (-(-size // PATCH) for size in image.shape[2:])
    size = (down * PATCH, across * PATCH)
    resized: Tensor = F.interpolate(image, size=size, mode="bicubic", align_corners=False)
    patches: Tensor = resized.unflatten(2, (down, PATCH)).unflatten(4, (across, PATCH))
    return patches


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


def _band(matrix: Tensor) -> slice:
    """From the first to the last column that is not zero; the matrix is on the CPU."""
    used = matrix.any(0).nonzero()
    return slice(int(used[0]), int(used[-1]) + 1)


def _offsets(axis: Axis) -> Tensor:
    """Of each output pixel from the nearest LR pixel's centre, in half LR pixels, as in float32: (out,)."""
    coord, lr_coord = centres(axis.out, axis.out), centres(axis.lr, axis.lr)
    return (coord - lr_coord[nearest(coord, axis.lr)]) * axis.lr
