"""A training step of full-size GSASR beside the plain form of the network: time, memory and gradients.

    python tests/benchmarks/training_step.py --threads 2

The plain form, `tests/methods/plain_gsasr.py`, computes what the paper and the official code describe: attention to
copies of the scale, embeddings in every window, all hidden layers held at once. Both sides take one LR patch of 48 x 48
at x4 on EDSR-baseline through the same encoder and rasterizer, forwards and backwards, each in a process of its own.
Time is that of the fastest of three steps, memory what the process's peak (VmHWM) gained over network and gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "methods")]
SIDE, SCALE, WARM_UP = 48, 4.0, 12


def peak() -> float:
    """Most resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def step(model: torch.nn.Module, side: str, lr: Tensor, hr: Tensor) -> None:
    """Forwards and backwards."""
    from plain_gsasr import plain_gaussians

    from methods.gsasr.gaussians import render

    size = (lr.shape[2], lr.shape[3])
    if side == "plain":
        raw = plain_gaussians(dict(model.state_dict(keep_vars=True)), model.encoder(lr), SCALE, 6)
    else:
        raw = model.gaussians(model.encode(lr), SCALE)
    sr = render(raw, (hr.shape[2], hr.shape[3]), size, SCALE, model.step, model.rendering)
    (sr - hr).abs().mean().backward()


def measure(side: str, threads: int, file: str) -> None:
    """One side's part, in a process of its own."""
    from methods import build

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build("gsasr", "edsr-baseline", dmax=0.5)
    generator = torch.Generator().manual_seed(1)
    lr, hr = (torch.rand(1, 3, int(n), int(n), generator=generator) for n in (SIDE, SIDE * SCALE))
    small = int(WARM_UP * SCALE)
    step(model, side, lr[..., :WARM_UP, :WARM_UP], hr[..., :small, :small])
    model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before, seconds = peak(), []
    for _ in range(3):
        model.zero_grad(set_to_none=False)
        start = time.perf_counter()
        step(model, side, lr, hr)
        seconds.append(time.perf_counter() - start)
    gradients = [p.grad for p in model.parameters()]
    torch.save({"seconds": min(seconds), "memory": peak() - before, "gradients": gradients}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        measure(given.side, given.threads, given.file)
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in ("ours", "plain"):
            call = [sys.executable, __file__, "--side", side, "--threads", str(given.threads)]
            environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
            subprocess.run([*call, "--file", f"{folder}/{side}.pt"], check=True, env=environment)
            found[side] = torch.load(f"{folder}/{side}.pt")
    ours, plain = found["ours"], found["plain"]
    largest = max(float(g.abs().max()) for g in plain["gradients"])
    differences = [float((a - b).abs().max()) for a, b in zip(ours["gradients"], plain["gradients"], strict=True)]
    print(
        json.dumps(
            {
                "seconds": ours["seconds"],
                "plain": plain["seconds"],
                "time": ours["seconds"] / plain["seconds"],
                "mib": ours["memory"],
                "plain_mib": plain["memory"],
                "memory": ours["memory"] / plain["memory"],
                "gradient_difference": max(differences) / largest,
            }
        )
    )


if __name__ == "__main__":
    main()
