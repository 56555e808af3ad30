"""Cross-scale non-local attention (Mei et al., CVPR 2020), as CiaoSR and LM-CiaoSR use it.

Every 3x3 patch of a feature map is compared with all 3x3 patches of the map at half its size; the 6x6 patches of the
map itself that lie above the latter are mixed accordingly, laid over one another at twice the size, and brought back by
a strided convolution. Mixing, laying and convolving are linear, so each 6x6 patch becomes a 4x4 patch of the result
beforehand, less than half the numbers to mix; queries are taken a few rows at a time, so that the matrix of all pairs
never exists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.padding import pad_to_multiple
from methods.parts import part

PAIRS = 1 << 22
"""Pairs of query and key to hold at a time, by default."""


class CrossScaleAttention(nn.Module):
    """(B, C, h, w) to (B, C, h, w); attributes bear the official keys.

    channels: C. reduction: by what factor queries and keys are narrower. softmax_scale: factor of the scores.
    """

    escape_NaN: Tensor

    def __init__(self, channels: int = 64, reduction: int = 2, softmax_scale: float = 10.0) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale
        self.register_buffer("escape_NaN", torch.tensor([1e-4]))
        narrow = channels // reduction
        self.conv_match_1, self.conv_match_2 = _matching(channels, narrow), _matching(channels, narrow)
        self.conv_assembly = _matching(channels, channels)
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, *, chunk: int | None = None) -> Tensor:
        """chunk: pairs of query and key to hold at a time, about."""
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, 2)
        with part("non-local attention"):
            images = [self._attend(image, chunk or PAIRS) for image in padded.split(1)]
        return torch.cat(images)[..., :height, :width]

    def _attend(self, x: Tensor, pairs: int) -> Tensor:
        """One image (1, C, h, w) of even sides."""
        height, width = x.shape[-2:]
        queries = F.unfold(self.conv_match_1(x), 3, padding=1)[0].t()  # (h w, 9 C / 2)
        keys = F.unfold(self.conv_match_2(F.avg_pool2d(x, 2)), 3, padding=1)[0]  # (9 C / 2, h w / 4)
        norm = torch.maximum(torch.linalg.vector_norm(keys, dim=0), self.escape_NaN.to(keys))
        keys = keys * (self.softmax_scale / norm)
        values, top, left, corner = self._values(x)
        result = x.new_zeros(1, x.shape[1], height + 3, width + 3)
        step = max(1, pairs // (keys.shape[1] * width))
        for start in range(0, height, step):
            stop = min(start + step, height)
            share = torch.softmax(queries[start * width : stop * width] @ keys, dim=-1)
            patches = F.fold((share @ values).t()[None], (stop - start + 3, width + 3), 4)
            result[:, :, start : stop + 3] += patches
            # What the map's upper and left edges cut off; the corner has been cut off twice then.
            edge = share.unflatten(0, (stop - start, width))
            if start == 0:
                row = (edge[0] @ top).t()[None, :, None]
                result[:, :, 1:2] -= F.fold(row.flatten(2), (1, width + 3), (1, 4))
                result[:, :, 1, 1] += (edge[0, 0] @ corner)[None]
            column = (edge[:, 0] @ left).t()[None]
            result[:, :, start : stop + 3, 1:2] -= F.fold(column, (stop - start + 3, 1), (4, 1))
        bias = self.down.bias
        assert bias is not None
        return (result[:, :, 1 : height + 1, 1 : width + 1] + bias[:, None, None].to(result)) / 6

    def _values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What each patch adds to the result's 4x4 pixels, (keys, C 16), and of that, what comes from beyond an edge.

        `down` sees row 2 p + d - 1 of the enlarged map, d < 3, and pixel q of the map puts row 2 q + u - 2 of a 6x6
        patch there, u < 6. So q = p + t contributes for t from -2 to 1, u = d + 1 - 2 t: a convolution of the patch by
        `down` with stride 2 whose output 1 - t lands on pixel p. On the first row, t = 0 and d = 0 is row -1, which
        does not exist. Likewise for columns.
        """
        channels = x.shape[1]
        patches = F.unfold(self.conv_assembly(x), 6, stride=2, padding=2)[0].t().unflatten(1, (channels, 6, 6))
        weight = self.down.weight
        values = F.conv2d(F.pad(patches, (1, 2, 1, 2)), weight, stride=2).flatten(1)
        top = F.conv2d(F.pad(patches[:, :, 1:2], (1, 2, 0, 0)), weight[:, :, :1], stride=2).flatten(1)
        left = F.conv2d(F.pad(patches[..., 1:2], (0, 0, 1, 2)), weight[..., :1], stride=2).flatten(1)
        corner = patches[:, :, 1, 1] @ weight[:, :, 0, 0].t()
        return values, top, left, corner


def _matching(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 1x1 convolution and a PReLU."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), nn.PReLU())
