"""The networks of LPIPS and DISTS, built from files on this machine only and kept per device.

Both packages fetch an ImageNet trunk when built. Here the trunk must already lie in `$ASRBENCH_TRUNKS` or in torch's
hub cache, under torchvision's file name; the first digits of its SHA-256, which that name carries, are checked.
Packages and torch are imported when a network is built, not before.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from methods.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

TRUNK_FILES = {"alexnet": "alexnet-owt-7be5be79.pth", "vgg16": "vgg16-397923af.pth"}
"""torchvision's ImageNet weights; the hexadecimal digits begin the file's SHA-256."""
LPIPS_MIN_SIDE = 31
"""Smaller images do not survive AlexNet's stride and poolings."""

Trunk = Literal["alexnet", "vgg16"]
State = Mapping[str, "torch.Tensor"]


def lpips_unavailable() -> str | None:
    """Why LPIPS cannot be computed here, as a sentence; None if it can."""
    return _unavailable("LPIPS", "lpips", "lpips", "alexnet")


def dists_unavailable() -> str | None:
    """Why DISTS cannot be computed here, as a sentence; None if it can."""
    return _unavailable("DISTS", "DISTS_pytorch", "DISTS-pytorch", "vgg16")


def lpips_identity() -> str:
    """Package, version, trunk and heads of LPIPS."""
    return f"lpips {_version('lpips')}, AlexNet ({TRUNK_FILES['alexnet']}), heads v0.1, float32"


def dists_identity() -> str:
    """Package, version and trunk of DISTS."""
    return f"DISTS-pytorch {_version('DISTS-pytorch')}, VGG16 ({TRUNK_FILES['vgg16']}), no resize, float32"


@cache
def lpips_network(device: str = "cpu") -> nn.Module:
    """LPIPS on AlexNet with the local trunk, float32.

    Raises:
        UserError: the package or the trunk is missing, or the trunk is damaged.
    """
    _require(lpips_unavailable())
    return build_lpips(_load_trunk("alexnet")).to(device)


@cache
def dists_network(device: str = "cpu") -> nn.Module:
    """DISTS with the local trunk, float32.

    Raises:
        UserError: the package or the trunk is missing, or the trunk is damaged.
    """
    _require(dists_unavailable())
    return build_dists(_load_trunk("vgg16")).to(device)


def build_lpips(trunk: State, net: Literal["alex", "vgg"] = "alex") -> nn.Module:
    """LPIPS with the package's v0.1 heads; `trunk` has torchvision's keys, of which `features.*` are used."""
    lpips = importlib.import_module("lpips")
    with _local_trunk(lpips.pretrained_networks, "tv", "alexnet" if net == "alex" else "vgg16", trunk):
        network: nn.Module = lpips.LPIPS(net=net, version="0.1", verbose=False)
    return network


def build_dists(trunk: State) -> nn.Module:
    """DISTS with the package's alpha and beta; `trunk` has torchvision's VGG16 keys, of which `features.*` are used."""
    import torch

    package = importlib.import_module("DISTS_pytorch.DISTS_pt")
    with _local_trunk(package, "models", "vgg16", trunk):
        network: nn.Module = package.DISTS(load_weights=False)
    # The package itself looks in the interpreter's prefix, where not every installation puts the file.
    heads = torch.load(Path(str(package.__file__)).with_name("weights.pt"), map_location="cpu", weights_only=True)
    network.load_state_dict(heads, strict=False)
    return network.eval()


def distance(network: nn.Module, sr: npt.NDArray[Any], hr: npt.NDArray[Any]) -> float:
    """The network's distance of two images (H, W, 3) in its own range, in its own precision and on its device."""
    import torch

    like = next(network.parameters())
    with torch.inference_mode():
        pair = [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(like) for image in (sr, hr)]
        return float(network(*pair))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"


def _unavailable(title: str, module: str, distribution: str, trunk: Trunk) -> str | None:
    missing = [name for name in (module, "torchvision") if find_spec(name) is None]
    if missing:
        return f"{title} needs the package {distribution}: pip install 'asrbench[perceptual]'."
    path = _find_trunk(trunk)
    if path is None:
        return (
            f"{title} needs {TRUNK_FILES[trunk]}: put it into {_trunk_folders()[0]} "
            f"(from https://download.pytorch.org/models/{TRUNK_FILES[trunk]})."
        )
    if not _sha256(path).startswith(path.stem.rpartition("-")[2]):
        return f"{title} cannot use {path}: its SHA-256 does not begin as its name says; fetch it again."
    return None


def _require(problem: str | None) -> None:
    if problem:
        raise UserError(problem)


def _trunk_folders() -> list[Path]:
    caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    hub = Path(os.environ.get("TORCH_HOME", caches / "torch")).expanduser() / "hub" / "checkpoints"
    own = os.environ.get("ASRBENCH_TRUNKS")
    return [Path(own).expanduser(), hub] if own else [hub]


def _find_trunk(trunk: Trunk) -> Path | None:
    candidates = (folder / TRUNK_FILES[trunk] for folder in _trunk_folders())
    return next((path for path in candidates if path.is_file()), None)


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_trunk(trunk: Trunk) -> State:
    import torch

    path = _find_trunk(trunk)
    assert path is not None, "availability was checked"
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state


@contextmanager
def _local_trunk(package: ModuleType, attribute: str, trunk: Trunk, state: State) -> Iterator[None]:
    """Give `package` a stand-in for `torchvision.models`, so that building its network neither downloads nor warns."""
    features = _features(trunk, state)
    original = getattr(package, attribute)
    setattr(package, attribute, SimpleNamespace(**{trunk: lambda **_: SimpleNamespace(features=features)}))
    try:
        yield
    finally:
        setattr(package, attribute, original)


def _features(trunk: Trunk, state: State) -> nn.Module:
    """The convolutional part of a torchvision network holding `state`, in its precision."""
    import torch

    models = importlib.import_module("torchvision.models")
    prefix = "features."
    with torch.device("meta"):
        features: nn.Module = getattr(models, trunk)(weights=None).features
    entries = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    features.load_state_dict(entries, assign=True)
    return features
