"""SwinIR without its upsampler (Liang et al., ICCVW 2021, arXiv 2108.10257), the classical model with 64 channels out.

Attributes bear the names of the official checkpoints' keys. Maps of tokens are (B, h, w, C). The stochastic depth of
the official training is left out; it has no part in inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.encoders.edsr import conv3x3
from methods.padding import pad_to_multiple

CONSTANTS = ("relative_position_index", "attn_mask")
"""Buffers that official checkpoints store and that follow from the geometry."""


class WindowAttention(nn.Module):
    """Multi-head attention within windows of `window` x `window` tokens, biased by relative position."""

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("index", relative_position_index(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (B, windows, n, C), n = window^2; mask (windows, n, n) is added to the scores."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(1, 2)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        # Four axes also without a mask: with three, PyTorch's attention takes its slow path.
        bias = (bias[None] if mask is None else (mask[:, None] + bias).repeat(x.shape[0], 1, 1, 1)).expand(
            len(q), -1, -1, -1
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed: Tensor = self.proj(out.transpose(1, 2).reshape(x.shape))
        return mixed


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Transformer block: x + attention(norm(x)), then x + mlp(norm(x)); windows moved by `shift` tokens."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, mlp_ratio * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        size, shift = (x.shape[1], x.shape[2]), self.shift
        if not shift:
            return merge(self.attn(partition(x, self.window), None), size, self.window)
        mask = shift_mask(size, self.window, shift).to(x)
        windows = self.attn(partition(x.roll((-shift, -shift), (1, 2)), self.window), mask)
        return merge(windows, size, self.window).roll((shift, shift), (1, 2))


class Stage(nn.Module):
    """x + conv(blocks(x)); every second block has its windows shifted by half a window."""

    def __init__(self, channels: int, blocks: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        shifts = (window // 2 * (i % 2) for i in range(blocks))
        sequence = nn.Sequential(*(Block(channels, heads, window, shift, mlp_ratio) for shift in shifts))
        self.residual_group = nn.ModuleDict({"blocks": sequence})
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + to_tokens(self.conv(to_image(self.residual_group["blocks"](x))))


class SwinIR(nn.Module):
    """(B, 3, h, w) to (B, channels, h', w') in the range that the method feeds.

    h' and w' are the next multiples of the window: methods pad before and crop after, so that coordinates refer to the
    padded image. What they leave is reflected here. channels: None for the `embed` ones before the last convolution.
    """

    def __init__(
        self,
        embed: int = 180,
        stages: int = 6,
        blocks: int = 6,
        heads: int = 6,
        window: int = 8,
        mlp_ratio: int = 2,
        channels: int | None = 64,
    ) -> None:
        super().__init__()
        self.channels, self.window = channels or embed, window
        self.conv_first = conv3x3(3, embed)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed)})
        self.layers = nn.Sequential(*(Stage(embed, blocks, heads, window, mlp_ratio) for _ in range(stages)))
        self.norm = nn.LayerNorm(embed)
        self.conv_after_body = conv3x3(embed, embed)
        if channels:
            self.conv_before_upsample = nn.Sequential(conv3x3(embed, channels), nn.LeakyReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv_first(pad_to_multiple(x, self.window))
        tokens = self.norm(self.layers(self.patch_embed["norm"](to_tokens(shallow))))
        out: Tensor = self.conv_after_body(to_image(tokens)) + shallow
        return self.conv_before_upsample(out) if hasattr(self, "conv_before_upsample") else out

    def from_reference(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official keys (LTE's and GSASR's agree) are ours, but for constants that are computed here."""
        return {key: value for key, value in state.items() if not key.endswith(CONSTANTS)}

    def to_reference(self, state: Mapping[str, Tensor], style: str = "liif") -> dict[str, Tensor]:
        """Our keys are the official ones everywhere; the constants that files store besides may be left out."""
        return dict(state)


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h, w, C)."""
    return image.permute(0, 2, 3, 1)


def to_image(tokens: Tensor) -> Tensor:
    """(B, h, w, C) to (B, C, h, w)."""
    return tokens.permute(0, 3, 1, 2)


def partition(x: Tensor, window: int) -> Tensor:
    """(B, h, w, C) to (B, windows, window^2, C)."""
    batch, height, width, channels = x.shape
    cut = x.reshape(batch, height // window, window, width // window, window, channels)
    return cut.transpose(2, 3).reshape(batch, -1, window**2, channels)


def merge(windows: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """The inverse of `partition` for a map of `size` (h, w)."""
    batch, _, _, channels = windows.shape
    cut = windows.view(batch, size[0] // window, size[1] // window, window, window, channels)
    return cut.transpose(2, 3).reshape(batch, *size, channels)


def relative_position_index(window: int) -> Tensor:
    """(window^2, window^2): row of the bias table for (query, key), by their distances in y and x."""
    y, x = torch.arange(window**2).div(window, rounding_mode="floor"), torch.arange(window**2) % window
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


@lru_cache(maxsize=4)
def shift_mask(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """(windows, window^2, window^2): -100 between tokens that were neighbours only through rolling a map of (h, w)."""
    rows, cols = (torch.bucketize(torch.arange(n), torch.tensor([n - window, n - shift]), right=True) for n in size)
    region = partition((3 * rows[:, None] + cols)[None, :, :, None], window)[0, :, :, 0]
    return torch.where(region[:, None] == region[:, :, None], 0.0, -100.0)
