"""Our networks beside the official code: time, memory and output, with the same weights, one after the other.

    python tests/benchmarks/beside_official.py CHECKOUTS --methods lte,srno --cases 180x4,60x12

CHECKOUTS is a folder with clones of the repositories that `OFFICIAL` names, each in a folder called like it. For GSASR,
`pip install einops` first; what else the official code imports and does not need here is replaced by dummies. Each side
runs in a process of its own, after a small image for warming up. Time is the wall's, memory what the process's peak
(VmHWM) gained over the network and its weights. GSASR is compared up to its Gaussians, for lack of an official
rasterizer for CPUs; CiaoSR with the port of its network in LMF's repository, whose attention is computed here as in the
official code: over the whole image, anew for each 30,000 queries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

import torch

ROOT = Path(__file__).parents[2]
QUERIES = 30000
"""At a time, as in the official test scripts."""
UNLIMITED = 4147200
MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
DUMMIES = ("cv2", "distutils", "distutils.version", "einops", "imageio", "lpips", "matplotlib", "matplotlib.pyplot")
DUMMIES += ("tensorboardX", "timm", "timm.models", "timm.models.layers", "tqdm")

ENCODER = {"name": "edsr-baseline", "args": {"no_upsampling": True}}


def mlp(out: int | None, *hidden: int) -> dict:
    return {"name": "mlp", "args": {"out_dim": out, "hidden_list": [*hidden]}}


def modulated(depth: int) -> dict:
    return {
        "name": "lmmlp",
        "args": {"out_dim": 3, "hidden_dim": 16, "hidden_depth": depth, "mod_scale": True, "mod_shift": True},
    }


ATTENTION = {"local_size": 2, "feat_unfold": True, "non_local_attn": True, "multi_scale": [2], "softmax_scale": 1}
ENSEMBLE = {"local_ensemble": True, "cell_decode": True, "mod_input": True}
HYPER = {"out_dim": None, "hidden_list": [288]}

OFFICIAL = {
    "metasr": ("yinboc/liif", "metasr", {"encoder_spec": ENCODER}),
    "liif": ("yinboc/liif", "liif", {"encoder_spec": ENCODER, "imnet_spec": mlp(3, *[256] * 4)}),
    "lte": (
        "jaewon-lee-b/lte",
        "lte",
        {"encoder_spec": ENCODER, "imnet_spec": mlp(3, *[256] * 3), "hidden_dim": 256},
    ),
    "srno": (
        "2y7c3/Super-Resolution-Neural-Operator",
        "sronet",
        {"encoder_spec": ENCODER, "width": 256, "blocks": 16},
    ),
    "linf": (
        "JNNNNYao/LINF",
        "linf",
        {
            "encoder_spec": ENCODER,
            "imnet_spec": {"name": "flow", "args": {"name": "flow"}},
            "flow_layers": 10,
            "num_layer": 3,
            "hidden_dim": 256,
        },
    ),
    "lm-liif": (
        "HeZongyao/LMF",
        "lmliif",
        {
            "encoder_spec": ENCODER,
            "imnet_spec": modulated(6),
            "hypernet_spec": mlp(208, 208),
            "feat_unfold": True,
            **ENSEMBLE,
        },
    ),
    "lm-lte": (
        "HeZongyao/LMF",
        "lmlte",
        {
            "encoder_spec": ENCODER,
            "imnet_spec": modulated(8),
            "hypernet_spec": mlp(288, 288),
            "hidden_dim": 128,
            **ENSEMBLE,
        },
    ),
    "lmf": (
        "HeZongyao/LMF",
        "lmciaosr",
        {
            "encoder": ENCODER,
            "prenet_q": mlp(256, 256),
            "hypernet_q": mlp(288, 288),
            "imnet_q": modulated(8),
            "imnet_k": mlp(256, 256),
            "imnet_v": mlp(256, 256),
            "mod_input": True,
            **ATTENTION,
        },
    ),
    "ciaosr": (
        "HeZongyao/LMF",
        "ciaosr",
        {
            "encoder": ENCODER,
            "imnet_q": mlp(3, *[256] * 4),
            "imnet_k": mlp(64, *[256] * 4),
            "imnet_v": mlp(64, *[256] * 4),
            **ATTENTION,
        },
    ),
    "gaussiansr": (
        "tljxyys/GaussianSR",
        "gaussian-splatter",
        {"encoder_spec": ENCODER, "dec_spec": mlp(3, *[256] * 4), "kernel_size": 5},
    ),
    "gsasr": ("ChrisDud0257/GSASR", "", {}),
}
"""Method to repository, the network's name in it and its arguments, as in its configuration files."""


class Ours:
    def __init__(self, method: str) -> None:
        sys.path.insert(0, str(ROOT))
        from methods import load

        self.method, self.network = method, load(method, "edsr-baseline", weights="random")

    def __call__(self, lr: torch.Tensor, scale: int) -> torch.Tensor:
        if self.method == "gsasr":
            gaussians: torch.Tensor = self.network.gaussians(self.network.encode(lr), float(scale))
            return gaussians
        out: torch.Tensor = self.network(lr, tuple(scale * side for side in lr.shape[2:]), float(scale))
        return out


class Theirs:
    def __init__(self, method: str, checkouts: Path) -> None:
        repository, name, arguments = OFFICIAL[method]
        self.method, state = method, Ours(method).network
        state = state.to_reference(state.state_dict())
        for module in ("utils", "methods"):  # names that the checkout may want for itself
            sys.modules.pop(module, None)
        sys.path[0] = str(checkouts / repository.split("/")[1])
        if not Path(sys.path[0]).is_dir():
            raise SystemExit(f"{sys.path[0]} is missing: clone github.com/{repository} there.")
        for module in DUMMIES:
            try:
                import_module(module)
            except ImportError:
                sys.modules[module] = MagicMock()
        torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]
        warnings.simplefilter("ignore")
        if method == "gsasr":
            self._gsasr(state)
            return
        self.network = import_module("models").make({"name": name, "args": arguments}).eval()
        if method == "ciaosr":
            state = {_renamed(key.removeprefix("generator.")): value for key, value in state.items()}
        missing, unexpected = self.network.load_state_dict(state, strict=False)
        if unexpected or any("mean" not in key for key in missing):  # EDSR's shifts of the mean, which are constants
            raise SystemExit(f"{method}: keys differ: missing {missing[:3]}, unexpected {unexpected[:3]}")

    def _gsasr(self, state: dict[str, torch.Tensor]) -> None:
        if isinstance(sys.modules["einops"], MagicMock):
            raise SystemExit("GSASR needs einops: pip install einops")
        encoder = import_module("utils.edsrbaseline").EDSRNOUP()
        decoder = import_module("utils.fea2gs").Fea2GS()
        encoder.load_state_dict({key: value for key, value in state.items() if key in encoder.state_dict()})
        decoder.load_state_dict({key: state.get(key, value) for key, value in decoder.state_dict().items()})
        self.network = torch.nn.ModuleList([encoder, decoder]).eval()

    def __call__(self, lr: torch.Tensor, scale: int) -> torch.Tensor:
        height, width = (scale * side for side in lr.shape[2:])
        if self.method == "gsasr":
            padding = [-side % 12 for side in lr.shape[2:]]
            padded = torch.nn.functional.pad(lr, (0, padding[1], 0, padding[0]), mode="reflect")
            encoder, decoder = self.network
            found: torch.Tensor = decoder(encoder(padded), torch.tensor([float(scale)]))
            return found
        x = lr - MEAN if self.method == "ciaosr" else (lr - 0.5) / 0.5
        # What these repositories' test scripts make of the cell beyond x4.
        clip = max(scale / 4, 1) if self.method in ("lte", "srno", "lmf", "lm-liif", "lm-lte") else 1
        coord = _coordinates(height, width)
        cell = torch.tensor([2 / height, 2 / width]) * clip
        out = self._colors(x, coord, cell, scale)
        return out + MEAN if self.method == "ciaosr" else out * 0.5 + 0.5

    def _colors(self, x: torch.Tensor, coord: torch.Tensor, cell: torch.Tensor, scale: int) -> torch.Tensor:
        network, (height, width, _) = self.network, coord.shape
        if self.method == "srno":
            network.gen_feat(x)
            out: torch.Tensor = network.query_rgb(coord[None], cell[None])
            return out
        if self.method == "linf":
            feat = network("gen_feat", inp=x)
            rows = [
                network("query_rgb", inp=x, feat=feat, coord=part[None], cell=cell[None], temperature=0)
                for part in coord.split(256)
            ]
            return torch.cat(rows, 2)
        coord, cells = coord.view(1, -1, 2), cell.expand(1, height * width, 2)
        if self.method.startswith("lm"):
            colors = network(x, coord, cells, bsize=921600 if self.method == "lmf" else UNLIMITED)
            colors = colors[0] if isinstance(colors, tuple) else colors
        elif self.method == "ciaosr":
            network.non_local_attn = False  # which is in tiles here
            (feat,) = network.gen_feat(x)
            network.non_local_attn, found = True, []
            for part, c in zip(coord.split(QUERIES, 1), cells.split(QUERIES, 1), strict=True):
                network.non_local_feat_v = network.cs_attn(feat)
                found.append(network.query_rgb(part, c))
            colors = torch.cat(found, 1)
        else:
            network.gen_feat(x)
            first = (torch.tensor([float(scale)]),) if self.method == "gaussiansr" else ()
            blocks = zip(coord.split(QUERIES, 1), cells.split(QUERIES, 1), strict=True)
            colors = torch.cat([network.query_rgb(part.contiguous(), *first, c.contiguous()) for part, c in blocks], 1)
        return colors.transpose(1, 2).reshape(1, 3, height, width)


def _renamed(key: str) -> str:
    """mmediting's EDSR in the names of LIIF's."""
    if not re.match(r"(conv_first|body|conv_after_body)\.", key):
        return key
    key = key.replace("conv_first.", "head.0.").replace("conv_after_body.", "body.16.")
    return "encoder." + re.sub(r"conv([12])\.", lambda found: f"body.{2 * int(found[1]) - 2}.", key)


def _coordinates(height: int, width: int) -> torch.Tensor:
    axes = [-1 + 1 / n + 2 / n * torch.arange(n).float() for n in (height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def peak() -> float:
    """Most resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def measure(side: str, method: str, checkouts: Path, size: int, scale: int, threads: int, file: str) -> None:
    """One side's part, in a process of its own."""
    torch.set_num_threads(threads)
    network = Ours(method) if side == "ours" else Theirs(method, checkouts)
    lr = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = peak()
        network(lr[:, :, :24, :24], scale)
        start = time.perf_counter()
        out = network(lr, scale)
        seconds = time.perf_counter() - start
    torch.save({"seconds": seconds, "memory": peak() - before, "out": out}, file)


def compare(method: str, checkouts: Path, size: int, scale: int, threads: int) -> dict[str, float | str]:
    """Both sides, one after the other."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in ("ours", "theirs"):
            file = f"{folder}/{side}.pt"
            call = [sys.executable, __file__, str(checkouts), "--side", side, "--methods", method, "--file", file]
            call += ["--cases", f"{size}x{scale}", "--threads", str(threads)]
            subprocess.run(call, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
            found[side] = torch.load(file)
    ours, theirs = found["ours"], found["theirs"]
    return {
        "method": method,
        "lr": size,
        "scale": scale,
        "seconds": ours["seconds"],
        "official": theirs["seconds"],
        "time": ours["seconds"] / theirs["seconds"],
        "mib": ours["memory"],
        "official_mib": theirs["memory"],
        "memory": ours["memory"] / theirs["memory"],
        "difference": float((ours["out"] - theirs["out"]).abs().max() / theirs["out"].abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("--methods", default=",".join(OFFICIAL))
    parser.add_argument("--cases", default="180x4,60x12", help="LR side x scale")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = [tuple(map(int, case.split("x"))) for case in given.cases.split(",")]
    for method in given.methods.split(","):
        for size, scale in cases:
            if given.side:
                measure(given.side, method, given.checkouts, size, scale, given.threads, given.file)
            else:
                print(json.dumps(compare(method, given.checkouts, size, scale, given.threads)), flush=True)


if __name__ == "__main__":
    main()
