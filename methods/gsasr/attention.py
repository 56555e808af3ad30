"""The transformer blocks of GSASR's decoder, on window tokens (windows, tokens per window, channels).

Key names are the official decoder's. Three of its computations are replaced by exact equals:

- the attention to the scale has one key and one value, repeated, so its softmax is uniform whatever the queries and it
  adds one vector per layer. The query and key thirds of `in_proj` and the norm before them have no effect; their
  parameters remain because checkpoints hold them;
- until features enter, all windows hold the same tokens: they stay one window and broadcast;
- queries, keys and values that share an input are one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SCORES = 2**18
"""Attention weights held at a time in training."""
KEPT = 2**19
"""Attention weights of a layer, above which the backward pass computes them again: these are 2 MiB."""


def to_windows(image: Tensor, window: int) -> Tensor:
    """Cut an image of tokens (B, h, w, C) into (B h w / window^2, window^2, C), all row-major."""
    b, h, w, c = image.shape
    grid = image.view(b, h // window, window, w // window, window, c)
    return grid.transpose(2, 3).reshape(-1, window * window, c)


def to_image(windows: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """Undo `to_windows` for an image of size (h, w)."""
    h, w = size
    grid = windows.view(-1, h // window, w // window, window, window, windows.shape[-1])
    return grid.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


def roll_windows(windows: Tensor, size: tuple[int, int], window: int, shift: int) -> Tensor:
    """Roll the whole token image by `shift` on both axes, round the borders."""
    return to_windows(to_image(windows, size, window).roll((shift, shift), (1, 2)), window)


def swin_index(window: int) -> Tensor:
    """Bias-table row of each (query, key) pair, (window^2, window^2) int64, row-major in the offset query - key."""
    dy, dx = _offsets(window)
    return (2 * window - 1) * (dy + window - 1) + dx + window - 1


def set_order_index(window: int) -> Tensor:
    """The cross-attention's index: as `swin_index`, but offsets rank as CPython orders the set of these floats.

    The official code numbers the offsets by walking that set, and multiplies by one less than their count, so that some
    pairs share an entry. Its checkpoints were trained that way.
    """
    last = window - 1
    order = [0, last, *(d for k in range(1, last) for d in (k - last, k)), -last]
    rank = torch.empty(2 * window - 1, dtype=torch.int64)
    rank[torch.tensor(order) + last] = torch.arange(2 * window - 1)
    dy, dx = _offsets(window)
    return 2 * last * rank[dy + last] + rank[dx + last]


def _offsets(window: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return y[:, None] - y, x[:, None] - x


def per_window(x: Tensor, windows: int) -> Tensor:
    """Repeat what the windows of an image share, (B, T, C), for each of them; (1, T, C) and (C,) broadcast anyway."""
    return x if x.ndim == 1 or x.shape[0] in (1, windows) else x.repeat_interleave(windows // x.shape[0], 0)


def add_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Add (C,), or (B, 1, C), one per image, to tokens (windows, T, C) or to the (1, T, C) that all windows share."""
    return x + (scale if len(x) == 1 else per_window(scale, len(x)))


class FeedForward(nn.Module):
    """Linear, ReLU, Linear, all `channels` wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.relu_(self.fc1(x)))
        return out


class ScaleAttention(nn.Module):
    """Attention to copies of the scale embedding: (C,), or (B, 1, C), to what every query receives, of that shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * channels, channels)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        value = embedding.shape[-1] * 2  # rows of in_proj: queries, keys, values
        out: Tensor = self.out_proj(F.linear(embedding, self.in_proj_weight[value:], self.in_proj_bias[value:]))
        return out


class WindowAttention(nn.Module):
    """Multi-head attention inside windows with a learnt bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int, index: Tensor) -> None:
        super().__init__()
        self.heads = heads
        self.qhead = nn.Linear(channels, channels)
        self.khead = nn.Linear(channels, channels)
        self.vhead = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        # A constant of the geometry, 162 KiB at window 12: not worth its place in a checkpoint.
        self.register_buffer("relative_position_index", index, persistent=False)

    def keys_values(self, x: Tensor) -> Tensor:
        """(windows, T, C) to its keys and values, (windows, T, 2 C)."""
        return _fused(x, self.khead, self.vhead)

    def forward(self, x: Tensor, keys_values: Tensor | None = None) -> Tensor:
        """x: (windows, T, C), or (1, T, C) or (B, T, C) for queries that all windows or those of an image share.

        keys_values: of other tokens, (windows, T, 2 C); None: of x itself.
        """
        if keys_values is None:
            parts = _fused(x, self.qhead, self.khead, self.vhead).chunk(3, dim=-1)
        else:
            parts = (self.qhead(x), *keys_values.chunk(2, dim=-1))
        windows = parts[-1].shape[0]
        q, k, v = (self._split(per_window(p, windows)).expand(windows, -1, -1, -1) for p in parts)
        mixed = _attention(q, k, v, self._bias())
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(windows, T, C) to (windows, heads, T, C / heads)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def _bias(self) -> Tensor:
        """(1, heads, T, T)."""
        index = self.relative_position_index
        # Backward of `F.embedding`, with its rows of a few heads, takes eight times as long on a CPU.
        return self.relative_position_bias_table.t().index_select(1, index.flatten()).view(1, self.heads, *index.shape)


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention of (windows, heads, T, d) with logits offset by bias (1, heads, T, T)."""
    if bias.requires_grad:  # no fused kernel of torch differentiates the bias
        out: Tensor = _DifferentiableAttention.apply(q, k, v, bias.to(q.dtype))
        return out
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class _DifferentiableAttention(torch.autograd.Function):
    """Attention, some windows at a time, that keeps few weights for the backward pass and computes many again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        kept = []
        for some in _some(bias, len(v)):
            weights = _weights(q[some], k[some], bias)
            torch.matmul(weights, v[some], out=out[some])
            if bias.numel() * len(v) <= KEPT:
                kept.append(weights)
        ctx.save_for_backward(q, k, v, bias, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, bias, *kept = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        grad_q, grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        grad_bias = torch.zeros_like(bias)
        for i, some in enumerate(_some(bias, len(v))):
            weights = kept[i] if kept else _weights(q[some], k[some], bias)
            torch.matmul(weights.transpose(-1, -2), grad[some], out=grad_v[some])
            scores = torch.matmul(grad[some], v[some].transpose(-1, -2))
            scores = torch._softmax_backward_data(scores, weights, -1, weights.dtype)
            torch.matmul(scores, k[some], out=grad_q[some])
            torch.matmul(scores.transpose(-1, -2), q[some], out=grad_k[some])
            grad_bias += scores.sum(0, keepdim=True)
        return grad_q.mul_(scale), grad_k.mul_(scale), grad_v, grad_bias


def _some(bias: Tensor, windows: int) -> Iterator[slice]:
    """Windows of which the attention weights stay in the cache of a CPU core; all of them elsewhere."""
    step = max(1, SCORES // bias.numel()) if bias.device.type == "cpu" else windows
    return (slice(start, start + step) for start in range(0, windows, step))


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """(windows, heads, T, T), each row of sum 1."""
    return torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).add_(bias).softmax(-1)


def _fused(x: Tensor, *layers: nn.Linear) -> Tensor:
    return F.linear(x, torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))


class CrossLayer(nn.Module):
    """One layer of the condition injection block: tokens meet the scale, then the features of their window."""

    def __init__(self, channels: int, heads: int, window: int, index: Tensor) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)  # normalises the queries to the scale: no effect
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.norm4 = nn.LayerNorm(channels)
        self.gs_cross_attn_scale = ScaleAttention(channels)
        self.mlp_crossattn_scale = FeedForward(channels)
        self.window_cross_attn = WindowAttention(channels, heads, window, index)
        self.mlp_crossattn_feature = FeedForward(channels)

    def forward(self, x: Tensor, position: Tensor, scale: Tensor, keys_values: Tensor) -> Tensor:
        """x: (windows or 1, T, C). position: (T, C). scale: (C,), or (B, 1, C), one per image.

        keys_values: of the features, (windows, T, 2 C).
        """
        x = add_scale(x, self.gs_cross_attn_scale(scale))
        x = x + self.mlp_crossattn_scale(self.norm2(x))
        x = per_window(x, len(keys_values)) + self.window_cross_attn(self.norm3(x) + position, keys_values)
        out: Tensor = x + self.mlp_crossattn_feature(self.norm4(x))
        return out


class SelfLayer(nn.Module):
    """One layer of the Gaussian interaction block: tokens meet the scale, then each other in windows."""

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)  # normalises the queries to the scale: no effect
        self.norm4 = nn.LayerNorm(channels)
        self.gs_cross_attn_scale = ScaleAttention(channels)
        self.mlp_crossattn = FeedForward(channels)
        self.gs_self_attn = WindowAttention(channels, heads, window, swin_index(window))
        self.mlp_selfattn = FeedForward(channels)

    def forward(self, x: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """x: (windows, T, C) of token images of size (h, w). scale: (C,), or (B, 1, C), one per image."""
        x = add_scale(x, self.gs_cross_attn_scale(scale))
        x = x + self.mlp_crossattn(self.norm4(x))
        x = x + self._attend(self.norm1(x), size)
        out: Tensor = x + self.mlp_selfattn(self.norm2(x))
        return out

    def _attend(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Odd layers attend in windows shifted by half; these wrap round the image, without a mask."""
        if not self.shifted:
            out: Tensor = self.gs_self_attn(x)
            return out
        x = roll_windows(x, size, self.window, -(self.window // 2))
        return roll_windows(self.gs_self_attn(x), size, self.window, self.window // 2)


def _block_mlp(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))


class CrossBlock(nn.Module):
    """Condition injection: Gaussian embeddings receive the scale and the image features."""

    def __init__(self, channels: int, heads: int, window: int, layers: int, index: Tensor) -> None:
        """index: bias-table rows, as of `set_order_index` or `swin_index`."""
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(CrossLayer(channels, heads, window, index.clone()) for _ in range(layers))
        self.mlp = _block_mlp(channels)

    def keys_values(self, features: Tensor) -> list[Tensor]:
        """What the layers need of features (B, h, w, C): each (windows, T, 2 C).

        Odd layers roll the features, not the queries, so that queries look half a window down and right; round the
        border, without a mask.
        """
        shift = -(self.window // 2)
        rolled = features.roll((shift, shift), (1, 2))
        views = [to_windows(image, self.window) for image in (features, rolled)]
        layers = cast(Iterable[CrossLayer], self.blocks)
        return [layer.window_cross_attn.keys_values(views[i % 2]) for i, layer in enumerate(layers)]

    def forward(self, x: Tensor, position: Tensor, scale: Tensor, keys_values: list[Tensor]) -> Tensor:
        """x: (windows or 1, T, C), the rest as `CrossLayer`, with keys_values per layer."""
        y = self.norm(x)
        for layer, kv in zip(self.blocks, keys_values, strict=True):
            y = layer(y, position, scale, kv)
        out: Tensor = x + self.mlp(y)
        return out


class SelfBlock(nn.Module):
    """Gaussian interaction: embeddings exchange what they know within and across windows."""

    def __init__(self, channels: int, heads: int, window: int, layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(SelfLayer(channels, heads, window, shifted=i % 2 == 1) for i in range(layers))
        self.mlp = _block_mlp(channels)

    def forward(self, x: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """As `SelfLayer`."""
        y = self.norm(x)
        for layer in self.blocks:
            y = layer(y, scale, size)
        out: Tensor = x + self.mlp(y)
        return out
