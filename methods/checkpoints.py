"""Checkpoints: finding them, reading ours and the official containers without running their code, writing ours.

Ours are safetensors whose one metadata entry, `asrbench`, is a JSON object: format, method, backbone, encoder, hparams,
and the recipe.
Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import UserError
from methods.official import official_files
from methods.registry import ENCODERS, by_reference_name, method_spec

if TYPE_CHECKING:
    from torch import Tensor

ZOO = Path(__file__).parent / "zoo"
FORMAT = 1
METADATA_KEY = "asrbench"
DEFAULT_BACKBONE = "edsr-baseline"
"""What weights are taken to be for when neither the user nor their file says so: the papers' first encoder."""
PAIRS = (("encoder", "decoder"), ("net_g", "net_fea2gs"))
"""How official GSASR names the two files of one model, as published and as its training writes them."""


@dataclass(frozen=True)
class Checkpoint:
    """Which weights a method gets: those of files (one, or encoder and decoder), random ones, or none."""

    method: str
    backbone: str
    label: str
    """`"shipped"`, the file's or folder's name, `"random"`, or `"none"` for methods that learn nothing."""
    paths: tuple[Path, ...] = ()
    sha256: str | None = None
    """Of the files' bytes, one after the other."""
    about: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Shipped checkpoints: their entry in zoo.toml."""

    @property
    def files(self) -> str:
        """The paths as a sentence has them."""
        return " and ".join(map(str, self.paths))


def list_checkpoints() -> list[Checkpoint]:
    """The shipped checkpoints, as `zoo/zoo.toml` lists them."""
    entries = _parse((ZOO / "zoo.toml").read_text(encoding="utf-8")).get("checkpoint", [])
    return [
        Checkpoint(e["method"], e["backbone"], "shipped", (ZOO / e["file"],), e["sha256"], about=e) for e in entries
    ]


@cache
def _parse(text: str) -> dict[str, Any]:
    """A plan asks for the list many times over."""
    return tomllib.loads(text)


def usual_backbones(method: str, weights: str | Path = "shipped") -> tuple[str, ...]:
    """The backbones of a method that weights are for when none was named; none for methods without.

    Those that weights are shipped for, or the one that a checkpoint of ours names, or `DEFAULT_BACKBONE`.
    """
    if not method_spec(method).backbones:
        return ()
    if weights == "shipped":
        found = tuple(known.backbone for known in list_checkpoints() if known.method == method)
    else:
        found = _described_backbone(Path(weights).expanduser())
    return found or (DEFAULT_BACKBONE,)


def _described_backbone(path: Path) -> tuple[str, ...]:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return ()
    try:
        with safe_open(path, framework="np") as file:
            backbone = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}")).get("backbone")
    except (OSError, SafetensorError, ValueError, AttributeError):
        return ()  # reading it will say what is wrong
    return (backbone,) if isinstance(backbone, str) and backbone in ENCODERS else ()


def locate(method: str, backbone: str, weights: str | Path = "shipped") -> Checkpoint:
    """Find and hash the weights of a method on a backbone.

    weights: `"shipped"`, `"official"`, `"random"`, or the path of a file, of one file of an encoder-decoder pair, or of
    their folder.

    Raises:
        UserError: they are not there, or a shipped file is not the one that was shipped.
    """
    if not method_spec(method).learned:
        return Checkpoint(method, backbone, "none")
    if weights == "random":
        return Checkpoint(method, backbone, "random")
    if weights == "shipped":
        return _shipped(method, backbone)
    if weights == "official":
        paths = official_files(method, backbone)
        return Checkpoint(method, backbone, "official", paths, _sha256(paths))
    paths = _files(Path(weights).expanduser())
    return Checkpoint(method, backbone, Path(weights).name, paths, _sha256(paths))


def read_checkpoint(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and what the file says about their network.

    The second part has `encoder` and `hparams` (ours), `reference` (the arguments in a LIIF container), or nothing.
    Pickles are read weights-only: nothing in them is executed.

    Raises:
        UserError: a file changed since it was hashed, cannot be read, holds more than tensors and plain values, or
            belongs to another method or backbone.
    """
    _verify(checkpoint)
    state: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    prefixes = ("encoder.", "") if len(checkpoint.paths) == 2 else ("",)
    for path, prefix in zip(checkpoint.paths, prefixes, strict=True):
        read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
        tensors, about = read(path)
        state |= {prefix + key: value for key, value in tensors.items()}
        config |= about
    for key in ("method", "backbone"):
        if config.get(key, getattr(checkpoint, key)) != getattr(checkpoint, key):
            wanted = getattr(checkpoint, key)
            raise UserError(f"{checkpoint.paths[0]} is for {key} {config[key]!r}, not {wanted!r}: ask for that {key}.")
    _check_reference(checkpoint, config.get("reference", {}))
    return state, config


def _check_reference(checkpoint: Checkpoint, reference: Mapping[str, Any]) -> None:
    """Refuse an official container of another method or encoder, by the names that it gives."""
    name, spec = reference.get("name"), method_spec(checkpoint.method)
    if isinstance(name, str) and spec.reference_names and name not in spec.reference_names:
        other = by_reference_name(name)
        remedy = f"ask for {other.name}" if other else "use another file"
        raise UserError(f"{checkpoint.files} holds the network {name!r}, which is not {checkpoint.method}: {remedy}.")
    encoder = reference.get("encoder_spec") or reference.get("encoder")
    stored = encoder.get("name") if isinstance(encoder, dict) else None
    if isinstance(stored, str) and stored in ENCODERS and stored != checkpoint.backbone:
        raise UserError(
            f"{checkpoint.files} is for backbone {stored!r}, not {checkpoint.backbone!r}: ask for that backbone."
        )


def save_checkpoint(path: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a checkpoint of ours, whole or not at all; the same content gives the same bytes.

    config: method, backbone, encoder and hparams as `methods.build` takes them, and whatever else JSON holds.
    """
    from safetensors.torch import save

    path = Path(path)
    # One entry: safetensors writes several in any order.
    header = {METADATA_KEY: json.dumps({"format": FORMAT, **config}, sort_keys=True)}
    content = save({key: value.detach().cpu().contiguous() for key, value in state.items()}, header)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _shipped(method: str, backbone: str) -> Checkpoint:
    known = list_checkpoints()
    for checkpoint in known:
        if (checkpoint.method, checkpoint.backbone) == (method, backbone):
            _verify(checkpoint)
            return checkpoint
    names = ", ".join(f"{c.method} on {c.backbone}" for c in known) or "none"
    raise UserError(
        f"No weights are shipped for {method} on {backbone or 'no backbone'} (shipped: {names}): "
        "name a file with --weights, or `random`."
    )


def _files(path: Path) -> tuple[Path, ...]:
    """One file, or encoder and decoder."""
    if path.is_dir():
        found = [file for first, _ in PAIRS for file in sorted(path.glob(f"{first}*.pth"))]
        if len(found) != 1:
            what = "several encoders" if found else "no encoder*.pth or net_g*.pth"
            raise UserError(f"The folder {path} holds {what}: name a file.")
        path = found[0]
    for pair in PAIRS:
        for own, other in (pair, pair[::-1]):
            if re.fullmatch(rf"{own}(_\w+)?\.pth", path.name):
                partner = path.with_name(other + path.name.removeprefix(own))
                return _existing(path, partner) if own == pair[0] else _existing(partner, path)
    return _existing(path)


def _existing(*paths: Path) -> tuple[Path, ...]:
    for path in paths:
        if not path.is_file():
            others = [str(other) for other in paths if other.is_file()]
            role = f", which {others[0]} needs beside it" if others else ""
            raise UserError(f"There is no weights file {path}{role}: correct the path, or use `shipped` or `random`.")
    return paths


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise UserError(f"The weights {path} cannot be read ({error.strerror}): check the file.") from None
    return digest.hexdigest()


def _verify(checkpoint: Checkpoint) -> None:
    if _sha256(checkpoint.paths) != checkpoint.sha256:
        expected = checkpoint.sha256
        raise UserError(f"{checkpoint.files} was not opened, as its sha256 is not {expected}: restore the file.")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no whole safetensors file ({error}): fetch it again.") from None
    if not isinstance(config, dict) or config.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path} has a description that this version cannot read: use format {FORMAT}.")
    return state, config


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken pickle brings about, it is the file's fault
        raise UserError(_pickle_problem(path, error)) from None
    return _unwrap(path, content)


def _pickle_problem(path: Path, error: Exception) -> str:
    names = dict.fromkeys(re.findall(r"GLOBAL ([\w.]+)", str(error)))
    if names:
        return f"{path} was refused, as it calls for code ({', '.join(names)}), not only tensors: use another file."
    return f"{path} is no whole PyTorch file ({type(error).__name__}): fetch it again."


def _unwrap(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take the state dict out of LIIF's container, mmediting's, BasicSR's (averaged weights first), or none at all."""
    from torch import Tensor

    config: dict[str, Any] = {}
    if isinstance(content, dict):
        if isinstance(model := content.get("model"), dict):
            content, config = model.get("sd"), {"reference": {"name": model.get("name"), **model.get("args", {})}}
        elif isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        else:
            content = content.get("params_ema", content.get("params", content))
    named = isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    if not named or not content:
        kinds = "model.sd, state_dict, params_ema or params"
        raise UserError(f"{path} holds no network: looked for {kinds}, or names of tensors alone; use another file.")
    return content, config
