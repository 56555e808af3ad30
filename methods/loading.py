"""From a method's name to a network: with fresh weights, or with those of a checkpoint."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch

from methods.base import SRMethod
from methods.checkpoints import Checkpoint, locate, read_checkpoint, usual_backbones
from methods.encoders import build_encoder
from methods.errors import UserError
from methods.names import resolve
from methods.registry import encoder_spec, method_spec

Loaded = tuple[dict[str, torch.Tensor], Mapping[str, Any]]


def build(
    name: str, backbone: str | None = None, *, encoder: Mapping[str, Any] | None = None, **hparams: Any
) -> SRMethod:
    """Build a method with fresh weights from torch's global generator.

    backbone: an encoder's name; none for methods without one. encoder: its hyperparameters where they differ from those
    that the method registers. hparams: the method's where they differ from the published ones.

    Raises:
        UserError: a name is unknown, or the two do not go together.
    """
    check_backbone(name, backbone)
    cls = method_class(name)
    check_hparams(cls, hparams, name)
    hparams = {**method_spec(name).hparams, **hparams}
    try:
        if not backbone:
            return cls(**hparams)
        chosen = {**cls.encoder_hparams.get(backbone, {}), **(encoder or {})}
        check_hparams(_import(encoder_spec(backbone).target), chosen, backbone)
        return cls(build_encoder(backbone, **chosen), **hparams)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        given = ", ".join(f"{key} = {value!r}" for key, value in {"encoder": encoder, **hparams}.items() if value)
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot be built with {given} ({reason}): correct these hyperparameters.") from error


def load(
    name: str,
    backbone: str | None = None,
    *,
    weights: str | Checkpoint = "shipped",
    options: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> SRMethod:
    """Build a method with the weights of a checkpoint, ready for inference.

    backbone: None: the one that the weights are for. weights: `"shipped"`, `"random"` (seed 0), a file or folder, or
    what `locate` made of one of these. options: the method's hyperparameters that need no retraining.

    Raises:
        UserError: an unknown name or option, or weights that are not there or belong to another network.
    """
    cls = method_class(name)
    for key in options or {}:
        resolve(key, sorted(cls.options), f"option of {name}")
    if backbone is None and not isinstance(weights, Checkpoint):
        backbone = next(iter(usual_backbones(name, weights)), None)
    check_backbone(name, backbone)
    checkpoint = weights if isinstance(weights, Checkpoint) else locate(name, backbone or "", weights)
    if checkpoint.paths:
        state, config = read_checkpoint(checkpoint)
        model = _build_for(checkpoint, config, options or {})
        _load_state(model, state, checkpoint)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(name, backbone, **(options or {}))
    return model.to(device=device, dtype=dtype).eval()


def method_class(name: str) -> type[SRMethod]:
    """The `SRMethod` subclass of a method; imports it."""
    found: type[SRMethod] = _import(method_spec(name).target)
    return found


def check_backbone(name: str, backbone: str | None) -> None:
    """Refuse a backbone that the method does not run on.

    Raises:
        UserError: the backbone is unknown, missing, or one of other methods.
    """
    known = method_spec(name).backbones
    if backbone:
        encoder_spec(backbone)
    if (backbone or None) not in (known or (None,)):
        wanted = f"choose from {', '.join(known)}" if known else "leave the backbone out"
        raise UserError(f"{name} does not run on {f'backbone {backbone!r}' if backbone else 'no backbone'}: {wanted}.")


def check_hparams(cls: type, given: Iterable[str], name: str) -> None:
    """Refuse what the constructor of a method or an encoder has no place for.

    Raises:
        UserError: a hyperparameter is unknown; near names are offered.
    """
    parameters = inspect.signature(cls).parameters.values()
    known = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} | getattr(cls, "options", frozenset())
    for key in given:
        resolve(key, sorted(known - {"encoder"}), f"hyperparameter of {name}")


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _build_for(checkpoint: Checkpoint, config: Mapping[str, Any], options: Mapping[str, Any]) -> SRMethod:
    """Build the network that a checkpoint's config describes; the published one where it says nothing."""
    name, cls = checkpoint.method, method_class(checkpoint.method)
    try:
        hparams = cls.reference_hparams(config["reference"]) if "reference" in config else config.get("hparams", {})
        check_hparams(cls, dict(hparams), name)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{checkpoint.files} describes no {name} ({error}): use another file.") from None
    replaced = {key for rivals in cls.rival_options if rivals & options.keys() for key in rivals}
    kept = {key: value for key, value in hparams.items() if key not in replaced}
    return build(name, checkpoint.backbone, encoder=config.get("encoder"), **{**kept, **options})


def _load_state(model: SRMethod, state: Mapping[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Load all of a state dict or nothing.

    Raises:
        UserError: keys are missing, unexpected or of another shape.
    """
    ours, theirs = model.state_dict(), model.from_reference(state)
    problems = {
        "missing": ours.keys() - theirs.keys(),
        "unexpected": theirs.keys() - ours.keys(),
        "not finite": {key for key, value in theirs.items() if not bool(value.isfinite().all())},
        "of another shape": {key for key in ours.keys() & theirs.keys() if ours[key].shape != theirs[key].shape},
    }
    found = "; ".join(f"{len(keys)} {problem} ({_few(keys)})" for problem, keys in problems.items() if keys)
    if found:
        network = " on ".join(filter(None, (checkpoint.method, checkpoint.backbone)))
        remedy = "name the method and the backbone that it was made for"
        raise UserError(f"{checkpoint.files} does not fit {network}: entries {found}: {remedy}.")
    model.load_state_dict(theirs)


def _few(keys: Iterable[str], limit: int = 3) -> str:
    names = sorted(keys)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
