"""Fit a photograph with 2D Gaussians by gradient descent on the CPU, with nothing of this repository but `rasterize`.

    python docs/examples/fit_photograph.py                            # the astronaut that comes with scikit-image
    python docs/examples/fit_photograph.py photo.jpg --gaussians 20000 --out fitted
    python docs/examples/fit_photograph.py --compare                  # a small fit, and the same with dense PyTorch

Writes final.png, fit.gif (the progress), psnr.csv and psnr.png (PSNR over steps); the same for the same seed.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait shall not take cores from other programs

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from kernels import choose, rasterize

LEARNING_RATES = {"mu": 0.3, "log_sigma": 0.05, "atanh_rho": 0.05, "color": 0.02}  # at first; mu's in pixels


class Gaussians(torch.nn.Module):
    """N Gaussians by parameters without bounds: sigma = exp(log_sigma), rho = tanh(atanh_rho)."""

    def __init__(self, photograph: torch.Tensor, count: int, seed: int) -> None:
        super().__init__()
        self.size = photograph.shape[2], photograph.shape[3]
        detail = torch.hypot(*torch.gradient(photograph.mean(1)[0]))
        share = (detail + 0.1 * detail.mean() + 1e-6).flatten()  # most where the picture changes, some everywhere
        random = torch.Generator().manual_seed(seed)
        pixel = torch.multinomial(share, count, replacement=True, generator=random)
        corner = torch.stack([pixel // self.size[1], pixel % self.size[1]], -1) - 0.5  # of pixels; centres are integers
        density = count * (share / share.sum())[pixel]  # Gaussians per pixel near each
        sigma = (0.5 / density.sqrt()).clamp(min=0.5)  # half the distance between neighbours
        overlap = (2 * math.pi * sigma**2 * density).clamp(min=1)  # what such Gaussians of color 1 add up to
        self.mu = torch.nn.Parameter((corner + torch.rand(count, 2, generator=random))[None])
        self.log_sigma = torch.nn.Parameter(sigma.log()[None, :, None].repeat(1, 1, 2))
        self.atanh_rho = torch.nn.Parameter(torch.zeros(1, count))
        self.color = torch.nn.Parameter((photograph[0].flatten(1)[:, pixel] / overlap).T[None])

    def forward(self, backend: str = "auto") -> torch.Tensor:
        """Draw (1, 3, H, W), neither clamped nor rounded."""
        return rasterize(self.mu, self.log_sigma.exp(), self.atanh_rho.tanh(), self.color, self.size, backend=backend)


class Fit(NamedTuple):
    """PSNR in dB before each step and after the last; steps and pictures on the way; time taken."""

    psnr: list[float]
    frames: list[tuple[int, Image.Image]]
    seconds: float


def fit(photograph: torch.Tensor, count: int, steps: int, seed: int = 0, backend: str = "auto") -> Fit:
    """Minimise the squared error to a (1, 3, H, W) in [0, 1]."""
    model = Gaussians(photograph, count, seed)
    groups = [{"params": [getattr(model, name)], "lr": rate} for name, rate in LEARNING_RATES.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    shown = [round((steps + 1) ** (k / 40)) - 1 for k in range(41)]  # the first ones several times
    psnr, frames, start = [], [], time.perf_counter()
    for step in range(steps + 1):
        image = model(backend)
        error = (image - photograph).square().sum()
        psnr.append(10 * math.log10(photograph.numel() / max(error.item(), 1e-9)))
        if step in shown:
            pixels = image.detach()[0].clamp(0, 1).mul(255).round().to(torch.uint8)
            frames += [(step, Image.fromarray(pixels.permute(1, 2, 0).numpy()))] * shown.count(step)
        if step % max(1, steps // 5) == 0:
            print(f"{backend:9} step {step:5}  {psnr[-1]:5.2f} dB  {time.perf_counter() - start:5.1f} s", flush=True)
        if step < steps:
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
    return Fit(psnr, frames, time.perf_counter() - start)


def plot(done: Fit) -> Image.Image:
    """PSNR over the logarithm of the step, below six pictures of the progress."""
    width, floor, top, margin, font = 900, 490, 190, 84, ImageFont.load_default(15)
    low, high = math.floor(min(done.psnr) / 5) * 5, math.ceil(max(done.psnr) / 5) * 5
    draw = ImageDraw.Draw(picture := Image.new("RGB", (width, floor + 44), "white"))

    def place(step: int, psnr: float) -> tuple[float, float]:
        across, up = math.log(step + 1, len(done.psnr)), (psnr - low) / (high - low)
        return margin + (width - 2 * margin) * across, floor - (floor - top) * up

    for psnr in range(low, high + 1, 5):
        draw.line([place(0, psnr), place(len(done.psnr) - 1, psnr)], "#dddddd")
        draw.text((margin - 10, place(0, psnr)[1]), f"{psnr} dB", "#6b6b6b", font, anchor="rm")
    for slot, (step, frame) in enumerate(done.frames[::8]):
        small, middle = ImageOps.contain(frame, (128, 128)), margin + (width - 2 * margin) * slot / 5
        picture.paste(small, (round(middle - small.width / 2), 12))
        draw.text((middle, 146), f"{done.psnr[step]:.1f} dB", "#1a1a1a", font, anchor="ma")
        draw.line([(middle, 168), place(step, high), place(step, low)], "#dddddd")
        draw.text((place(step, low)[0], floor + 10), f"step {step:,}", "#6b6b6b", font, anchor="ma")
    draw.line([place(*point) for point in enumerate(done.psnr)], "#0082c8", 3, joint="curve")
    return picture


def write(done: Fit, out: Path) -> None:
    """Write the four files."""
    out.mkdir(parents=True, exist_ok=True)
    np.savetxt(out / "psnr.csv", list(enumerate(done.psnr)), "%d,%.4f", header="step,psnr", comments="")
    plot(done).save(out / "psnr.png", optimize=True)
    done.frames[-1][1].save(out / "final.png")
    colors = done.frames[-1][1].quantize()
    first, *others = (ImageOps.contain(frame, (256, 256)).quantize(palette=colors) for _, frame in done.frames)
    first.save(out / "fit.gif", save_all=True, append_images=others, duration=[120] * len(others) + [3000], loop=0)


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments, fit, write or compare."""
    parser = argparse.ArgumentParser(description="Fit a photograph with 2D Gaussians by gradient descent.")
    parser.add_argument("image", nargs="?", default=skimage.data.__path__[0] + "/astronaut.png", help="a file")
    parser.add_argument("--gaussians", type=int, help="default: 10000; 1000 with --compare")
    parser.add_argument("--steps", type=int, help="default: 2000; 100 with --compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fit"), help="folder for the results; default: fit")
    parser.add_argument("--compare", action="store_true", help="time a thumbnail's fit against dense PyTorch's")
    given = parser.parse_args(arguments)
    usual = (1000, 100) if given.compare else (10_000, 2000)
    how = given.gaussians or usual[0], given.steps or usual[1], given.seed
    if not Path(given.image).is_file():
        parser.error(f"there is no file {given.image}")
    photograph = ImageOps.exif_transpose(Image.open(given.image)).convert("RGB")
    photograph.thumbnail((96, 96) if given.compare else photograph.size)
    target = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None] / 255
    print("rasterizer: {}, {}".format(*choose()))  # builds it, where that is needed
    done = fit(target, *how)
    print(f"{done.psnr[-1]:.2f} dB, {done.seconds:.1f} s, {1000 * done.seconds / (len(done.psnr) - 1):.1f} ms per step")
    if not given.compare:
        write(done, given.out)
    else:
        dense = fit(target, *how, "reference")
        ratio, apart = dense.seconds / done.seconds, np.abs(np.subtract(done.psnr, dense.psnr)).max()
        print(f"dense PyTorch: {dense.seconds:.1f} s, {ratio:.0f} times as long; PSNR within {apart:.0e} dB")


if __name__ == "__main__":
    main()
