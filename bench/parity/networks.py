"""Cases with regenerated weights or Gaussians: methods, encoders, the rasterizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.parity.cases import Array, CannotRun, Case, Check, method_name
from bench.parity.weights import fill
from kernels import available_backends, dmax_to_window, from_kernel_units, rasterize
from methods import build, method_spec
from methods.base import SRMethod
from methods.encoders import build_encoder
from methods.errors import UserError
from methods.loading import method_class
from methods.registry import ENCODERS

_ENCODER_HPARAMS = {
    "n_resblocks": "blocks",
    "n_feats": "channels",
    "D": "blocks",
    "C": "layers",
    "G": "growth",
    "G0": "channels",
    "embed_dim": "embed",
    "window_size": "window",
    "mlp_ratio": "mlp_ratio",
    "num_feat": "channels",
}
"""The references' names of hyperparameters, to ours."""


def check_method(case: Case) -> list[Check]:
    """A whole method: LR to image, and the intermediate arrays that both sides have."""
    ours = method_arrays(case, method_model(case))
    rest = case.arrays.keys() - ours.keys() - case.spec["state_dict"].keys() - {"lr"}
    aside = f" (not compared: {', '.join(sorted(rest))})" if rest else ""
    shared = ["out", *(key for key in case.arrays if key in ours and key != "out")]
    return [_compare(key + aside, ours[key], case.arrays[key], _rtol(case, key)) for key in shared]


def method_model(case: Case) -> SRMethod:
    """The network of a method's case, with its weights.

    Raises:
        CannotRun: this version has no such network.
    """
    name, backbone = method_name(case), case.spec["backbone"]
    if name is None:
        raise CannotRun(f"no method called {case.spec['method']} in this version")
    if backbone not in method_spec(name).backbones:
        raise CannotRun(f"{name} does not run on {backbone} in this version")
    config = {**case.spec, **case.spec["config"]}
    model = build(name, backbone, **method_class(name).reference_hparams(config)).eval()
    _load(model, model.from_reference(_reference_state(case)))
    return model


def method_arrays(case: Case, model: SRMethod, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """What a network on `device` makes of a case's inputs; the arrays stay there."""
    given = {key: torch.from_numpy(value) for key, value in case.arrays.items() if key not in case.spec["state_dict"]}
    given = {key: value.to(device) for key, value in given.items()}
    height, width = case.spec["out_size"]
    with torch.inference_mode():
        return model.reference_arrays(given["lr"], (height, width), _pair(case.spec["scale"]), given)


def check_encoder(case: Case) -> list[Check]:
    """An encoder's features, mixed to three channels by a fixed random matrix."""
    backbone, procedure = case.spec["backbone"], case.spec["procedure"]
    if backbone not in ENCODERS:
        raise CannotRun(f"no encoder called {backbone} in this version")
    encoder: Any = build_encoder(backbone, **_encoder_hparams(case)).eval()
    _load(encoder, encoder.from_reference(_reference_state(case)))
    lr = torch.from_numpy(case.arrays["lr"])
    rows, columns = (out - size for out, size in zip(case.spec["out_size"], lr.shape[-2:], strict=True))
    padded = F.pad(lr, (0, columns, 0, rows), mode="reflect")
    mixing = torch.from_numpy(fill("parity.projection", (3, encoder.channels)))
    with torch.inference_mode():
        features = encoder(padded if "lr itself" in procedure else (padded - 0.5) / 0.5)
        ours = torch.einsum("oc,bchw->bohw", mixing, features)
    return [_compare("out", ours, case.arrays["out"], case.spec["rtol"])]


def check_rasterizer(case: Case) -> list[Check]:
    """Image and gradients of every backend on every device that it serves, in float32."""
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    pairs = [(backend, device) for device in devices for backend in available_backends(device)]
    return [check for backend, device in pairs for check in _check_backend(case, backend, device)]


def _check_backend(case: Case, backend: str, device: str) -> list[Check]:
    arrays, size = case.arrays, (case.spec["h"], case.spec["w"])
    inputs = {key: torch.from_numpy(arrays[key]).to(device).requires_grad_() for key in ("sigmas", "coords", "colors")}
    mu, sigma, rho = from_kernel_units(inputs["sigmas"][None], inputs["coords"][None], size)
    window = dmax_to_window(float(np.float32(case.spec["dmax"])), size)
    image = rasterize(mu, sigma, rho, inputs["colors"][None], size, window=window, backend=backend)[0].permute(1, 2, 0)
    label = f"of backend {backend} on {device}"
    checks = [_compare(f"image {label}", image.detach().cpu(), arrays["image"], case.spec["rtol"])]
    if "grad_image" in arrays:
        upstream = torch.from_numpy(arrays["grad_image"]).to(device)
        gradients = torch.autograd.grad(image, list(inputs.values()), upstream)
        for key, gradient in zip(inputs, gradients, strict=True):
            name = f"grad_{key}"
            checks.append(_compare(f"{name} {label}", gradient.cpu(), arrays[name], case.spec["rtol_grad"]))
    return checks


def _reference_state(case: Case) -> dict[str, Tensor]:
    """The reference's state dict: filled, then scaled by `gain`, then replaced where the npz has the entry."""
    gain: Mapping[str, float] = case.spec.get("gain", {})
    state = {}
    for key, shape in case.spec["state_dict"].items():
        value = case.arrays[key] if key in case.arrays else fill(key, shape) * np.float32(gain.get(key, 1))
        state[key] = torch.from_numpy(np.ascontiguousarray(value))
    return state


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    ours = module.state_dict()
    shapes = {key: value.shape for key, value in ours.items()}
    theirs = {key: value.shape for key, value in state.items()}
    wrong = sorted(key for key in shapes.keys() | theirs.keys() if shapes.get(key) != theirs.get(key))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"the network and the reference differ in the entries {', '.join(wrong[:3])}{more}")
    module.load_state_dict(state)


def _encoder_hparams(case: Case) -> dict[str, Any]:
    config = case.spec["config"]
    hparams = {ours: config[theirs] for theirs, ours in _ENCODER_HPARAMS.items() if theirs in config}
    if "without the global skip" in case.spec["procedure"]:
        hparams["global_skip"] = False
    return hparams


def _rtol(case: Case, key: str) -> float:
    return float(case.spec.get(f"rtol_{key}", case.spec["rtol"]))


def _pair(scale: float | list[float]) -> tuple[float, float]:
    return (float(scale[0]), float(scale[1])) if isinstance(scale, list) else (float(scale), float(scale))


def _compare(name: str, ours: Tensor, reference: Array, rtol: float) -> Check:
    """The largest deviation relative to the reference's largest value."""
    if tuple(ours.shape) != reference.shape:
        raise UserError(f"{name} has the shape {tuple(ours.shape)}, not {reference.shape}")
    error = np.abs(ours.numpy().astype(np.float64) - reference).max()
    return Check(name, float(error / (np.abs(reference).max() or 1)), rtol)
