"""The GSASR network (Chen et al., 2025, arXiv 2501.06838): encoder, Gaussian decoder, rasterisation.

Every LR pixel carries one learnt Gaussian embedding; the decoder conditions it on the scale and on the image features
(condition injection), lets the embeddings interact, and splits each into 16 Gaussians whose sum is the image. Where the
official code (github.com/ChrisDud0257/GSASR) differs from the paper, this follows the code, whose checkpoints it loads;
the decoder's modules bear its names.

Quirks of the official code that are kept: EDSR without its global skip; the network is told the inverse of the scale;
the attention to the scale has identical keys and so adds one vector per layer; shifted windows wrap around without a
mask, and in the cross-attention only the features shift; the relative position index of the cross-attention collides;
LR pixels carry 144 distinct embeddings per window, not one; a Gaussian is cut off at `dmax` of the image's side, which
shows on small images (`lr_window` counts LR pixels instead); sigma is at most 1 / 1.2 LR pixels and the correlation at
most 0.999999.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final, Literal, cast

import torch
from torch import Tensor, nn

from methods.base import SRMethod, square_scale
from methods.encoders.edsr import conv3x3
from methods.encoders.rdn import RDN
from methods.errors import UserError
from methods.gsasr.attention import CrossBlock, SelfBlock, set_order_index, swin_index, to_image
from methods.gsasr.gaussians import Rendering, render, render_each
from methods.gsasr.heads import HEADS, head, predict, up_net
from methods.padding import pad_to_multiple
from methods.parts import part

TOLD_SCALE: Final = ("inverse", "scale")
BIAS_INDEX: Final = {"official": set_order_index, "swin": swin_index}


@dataclass(frozen=True)
class Encoded:
    """What of an LR image does not depend on the scale."""

    size: tuple[int, int]
    """Padded (h, w)."""
    keys_values: list[list[Tensor]]
    """Of the projected features, per cross-attention block and layer."""


class GSASR(SRMethod):
    """The paper version: 16 Gaussians per LR pixel.

    channels, heads: width of the tokens, heads of their attention. window: side of the attention windows in LR pixels.
    cross_*, self_*: depth of condition injection and Gaussian interaction. head_ratio: hidden width of the heads and of
    the scale embedding, over channels. up: factors that split tokens into Gaussians. step: a sigma of 1 is 1 / step LR
    pixels.

    Where the code departs from the paper, and for ablations: shared_embedding: all tokens start from one embedding, as
    in the paper. told_scale: the network is told the `"inverse"` of the scale, or the `"scale"`, as in the paper.
    bias_index: of the cross-attention, `"official"`, which collides, or `"swin"`. reference_positions: whether a
    Gaussian's centre counts from its place in the grid, or from the image's corner, in sides of the image.

    dmax and all after it: see `Rendering`; users may change these for any checkpoint.
    """

    options = frozenset(field.name for field in fields(Rendering))
    rival_options = (frozenset({"dmax", "raster_ratio", "lr_window"}),)
    encoder_hparams: ClassVar[Mapping[str, Mapping[str, Any]]] = {"edsr-baseline": {"global_skip": False}}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        channels: int = 180,
        heads: int = 6,
        window: int = 12,
        cross_blocks: int = 1,
        cross_layers: int = 2,
        self_blocks: int = 6,
        self_layers: int = 6,
        head_ratio: int = 4,
        up: tuple[int, ...] = (2, 2),
        step: float = 1.2,
        shared_embedding: bool = False,
        told_scale: Literal["inverse", "scale"] = "inverse",
        bias_index: Literal["official", "swin"] = "official",
        reference_positions: bool = True,
        dmax: float = 0.1,
        dmax_mode: str = "fix",
        raster_ratio: float | None = None,
        lr_window: float | None = None,
        canvas: str = "floor",
        cutoff: float = 14.0,
    ) -> None:
        super().__init__()
        self.rendering = Rendering(dmax, dmax_mode, raster_ratio, lr_window, canvas, cutoff)
        for name, value, known in (("told_scale", told_scale, TOLD_SCALE), ("bias_index", bias_index, BIAS_INDEX)):
            if value not in known:
                raise UserError(f"GSASR has no {name} {value!r}: choose {' or '.join(known)}.")
        self.window, self.step = window, step
        self.told_scale, self.reference_positions = told_scale, reference_positions
        self.encoder = encoder
        self.divisor = math.lcm(window, getattr(encoder, "window", 1))
        self.gs_embedding = nn.Parameter(torch.randn(1 if shared_embedding else window**2, channels))
        self.pos_embedding = nn.Parameter(torch.randn(window**2, channels))
        hidden = head_ratio * channels
        self.scale_mlp = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.img_feat_proj = nn.Sequential(
            conv3x3(cast(int, encoder.channels), channels), nn.ReLU(inplace=True), conv3x3(channels, channels)
        )
        self.window_crossattn_blocks = nn.ModuleList(
            CrossBlock(channels, heads, window, cross_layers, BIAS_INDEX[bias_index](window))
            for _ in range(cross_blocks)
        )
        self.gs_selfattn_blocks = nn.ModuleList(
            SelfBlock(channels, heads, window, self_layers) for _ in range(self_blocks)
        )
        self.UPNet = up_net(channels, up)
        for name, parameters in HEADS.items():
            self.add_module(f"mlp_block_{name}", head(channels, head_ratio, parameters))

    def effective_options(self) -> dict[str, Any]:
        return asdict(self.rendering)

    def encode(self, lr: Tensor) -> Encoded:
        padded = pad_to_multiple(lr, self.divisor)
        with part("encoder"):
            features = self.encoder(padded)
        with part("condition injection"):
            features = self.img_feat_proj(features).permute(0, 2, 3, 1)
            size = (features.shape[1], features.shape[2])
            blocks = cast(Iterable[CrossBlock], self.window_crossattn_blocks)
            return Encoded(size, [block.keys_values(features) for block in blocks])

    def gaussians(self, feat: Encoded, scale: float | Sequence[float], *, chunk: int | None = None) -> Tensor:
        """Predict the Gaussians for a scale, or for one per image: raw (B, N, 9), row-major over a grid.

        The grid holds prod(up)^2 per padded LR pixel.

        Columns: sigma y, x, rho, opacity, R, G, B, all before activation, and mean x, y in [0, 1] of the padded image.
        """
        scales = self.gs_embedding.new_tensor(scale)
        told = scales if self.told_scale == "scale" else 1 / scales
        embedding = self.scale_mlp(told[:, None, None] if isinstance(scale, Sequence) else told[None])
        x = self.gs_embedding.expand(self.window**2, -1)[None]
        with part("condition injection"):
            for block, keys_values in zip(self.window_crossattn_blocks, feat.keys_values, strict=True):
                x = block(x, self.pos_embedding, embedding, keys_values)
        injected = x
        with part("Gaussian interaction"):
            for block in self.gs_selfattn_blocks:
                x = block(x, embedding, feat.size)
        tokens = to_image(x + injected, feat.size, self.window).permute(0, 3, 1, 2)
        heads = [cast(nn.Sequential, self.get_submodule(f"mlp_block_{name}")) for name in HEADS]
        with part("Gaussian heads"):
            return predict(tokens, self.UPNet, heads, chunk, reference_positions=self.reference_positions)

    def render(
        self, feat: Encoded, out_size: tuple[int, int], scale: tuple[float, float], *, chunk: int | None = None
    ) -> Tensor:
        factor = square_scale(scale, "GSASR")
        raw = self.gaussians(feat, factor, chunk=chunk)
        with part("rendering"):
            return render(raw, out_size, feat.size, factor, self.step, self.rendering)

    def render_each(self, feat: Encoded, out_sizes: Sequence[tuple[int, int]], scales: Sequence[float]) -> Tensor:
        """Render the images of a batch each at its own size and scale, as training does.

        out_sizes: B times (H, W). scales: B nominal scales. Returns (B, 3, max H, max W), zero beyond each image.
        """
        raw = self.gaussians(feat, scales)
        return render_each(raw, out_sizes, feat.size, scales, self.step, self.rendering)

    def reference_arrays(
        self, lr: Tensor, out_size: tuple[int, int], scale: tuple[float, float], given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        feat, factor = self.encode(lr), square_scale(scale, "GSASR")
        raw = self.gaussians(feat, factor)
        out = render(raw, out_size, feat.size, factor, self.step, self.rendering)
        return {"gaussians": raw, "out": out, "cross_attn_index": BIAS_INDEX["official"](self.window)}

    @classmethod
    def reference_hparams(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        names = {
            "channel": "channels",
            "num_heads": "heads",
            "window_size": "window",
            "num_crossattn_blocks": "cross_blocks",
            "num_crossattn_layers": "cross_layers",
            "num_selfattn_blocks": "self_blocks",
            "num_selfattn_layers": "self_layers",
            "default_step_size": "step",
            "dmax": "dmax",
            "dmax_mode": "dmax_mode",
        }
        up = (config["shuffle_scale1"], config["shuffle_scale2"])
        return {"up": up, **{ours: config[theirs] for theirs, ours in names.items() if theirs in config}}

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map official keys, the encoder's and the decoder's in one mapping, to ours.

        Raises:
            UserError: a stored relative position index differs from the one computed here.
        """
        roots = {key.split(".")[0] for key in self.state_dict()} - {"encoder"}
        decoder = {key: value for key, value in state.items() if key.split(".")[0] in roots}
        encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key not in decoder}
        for key, index in self.named_buffers():
            if key in decoder and not torch.equal(decoder.pop(key).to(index), index):
                raise UserError(f"{key} is not the official GSASR's: use a checkpoint with its relative positions.")
        renamed = cast(Any, self.encoder).from_reference(encoder)
        return decoder | {f"encoder.{key}": value for key, value in renamed.items()}

    def to_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's and the decoder's entries in one mapping, under official keys."""
        encoder = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
        decoder = {key: value for key, value in state.items() if not key.startswith("encoder.")}
        style = "liif" if isinstance(self.encoder, RDN) else "mmediting"  # BasicSR's RDN has LIIF's names
        renamed: dict[str, Tensor] = cast(Any, self.encoder).to_reference(encoder, style=style)
        return decoder | renamed
