"""Print what the cut-off costs, as a Markdown table: float32 images and gradients against float64 ones without it."""

import math

import torch

from kernels import rasterize

CUTOFFS = (4.6, 6.9, 8.0, 9.2, 11.5, 14.0, 20.0)
LR, SCALE = 16, 4  # GSASR's grid: 16 Gaussians for each of 16 x 16 LR pixels, drawn on 64 x 64


def scene() -> tuple[torch.Tensor, ...]:
    """Float64 mu, sigma, rho, color and an upstream gradient."""
    torch.manual_seed(0)
    cells = torch.cartesian_prod(torch.arange(LR), torch.arange(LR)).repeat_interleave(16, 0)
    mu = (SCALE * (cells + torch.rand(len(cells), 2)) - 0.5)[None].double()
    sigma = (0.2 + 0.4 * torch.rand_like(mu)) * SCALE / 1.2
    rho = torch.tanh(0.5 * torch.randn_like(mu[..., 0]))
    color = 0.2 * torch.rand_like(rho)[..., None] * torch.rand(1, len(cells), 3).double()
    return mu, sigma, rho, color, torch.randn(1, 3, SCALE * LR, SCALE * LR).double()


def draw(cutoff: float, dtype: torch.dtype) -> list[torch.Tensor]:
    """The image, and the gradients of mu, sigma, rho and color."""
    mu, sigma, rho, color, upstream = (value.to(dtype).requires_grad_() for value in scene())
    image = rasterize(mu, sigma, rho, color, (SCALE * LR, SCALE * LR), cutoff=cutoff)
    return [image.detach(), *torch.autograd.grad(image, (mu, sigma, rho, color), upstream)]


def main() -> None:
    """Print the table."""
    print("| E | exp(-E) | image, largest error | mu | sigma | rho | color |\n|---|---|---|---|---|---|---|")
    image, *gradients = draw(math.inf, torch.float64)  # by the dense reference
    for cutoff in CUTOFFS:
        own_image, *own = draw(cutoff, torch.float32)
        worst = ((a - b).abs().max() / b.abs().max() for a, b in zip(own, gradients, strict=True))
        errors = (math.exp(-cutoff), (own_image - image).abs().max(), *worst)
        print(f"| {cutoff:g} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")


if __name__ == "__main__":
    main()
