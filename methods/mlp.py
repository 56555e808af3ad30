"""The multilayer perceptron of the LIIF family, under its checkpoints' key names."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


class MLP(nn.Module):
    """Linear layers with an activation after each but the last; `layers.0`, `layers.2`, ... are the linear ones."""

    def __init__(self, *widths: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), activation())]
        self.layers = nn.Sequential(*layers[:-1])
