"""Methods that need no training, some of which misbehave; `plug_in` installs one for other processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.base import SRMethod
from methods.registry import MethodSpec


class Nearest(SRMethod):
    calls = 0

    def __init__(self) -> None:
        super().__init__()

    def encode(self, lr: Tensor) -> Tensor:
        return lr

    def render(self, feat: Any, out_size: Any, scale: Any, *, chunk: int | None = None) -> Tensor:
        type(self).calls += 1
        return functional.interpolate(feat, size=out_size, mode="nearest-exact")


class Raising(Nearest):
    def encode(self, lr: Tensor) -> Tensor:
        raise ZeroDivisionError("no\nluck")


class NotFinite(Nearest):
    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().render(*args, **kwargs) * float("nan")


class WrongShape(Nearest):
    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().render(*args, **kwargs)[..., :-1]


class WholeNumbers(Nearest):
    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().render(*args, **kwargs).to(torch.int32)


class Unbuildable(Nearest):
    def __init__(self) -> None:
        raise AttributeError("no such layer")


class Hungry(Nearest):
    """Runs out of memory unless it may render at most `fits` queries at a time."""

    fits = 4096

    def render(self, feat: Any, out_size: Any, scale: Any, *, chunk: int | None = None) -> Tensor:
        if chunk is None or chunk > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 EiB.")
        return super().render(feat, out_size, scale, chunk=chunk)


class Starving(Hungry):
    fits = 0


class Interrupting(Nearest):
    """Ctrl-C at the third image, once."""

    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        image = super().render(*args, **kwargs)
        if type(self).calls == 3:
            raise KeyboardInterrupt
        return image


class Slow(Nearest):
    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        time.sleep(float(os.environ.get("STUB_SECONDS", "0.05")))
        return super().render(*args, **kwargs)


class Random(Nearest):
    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        image = super().render(*args, **kwargs)
        return image + 0.1 * torch.rand_like(image)


class Optional(Nearest):
    """Has options, and is as bright as they say."""

    options = frozenset({"cell", "gain"})

    def __init__(self, cell: str = "true", gain: float = 1.0) -> None:
        super().__init__()
        self.cell, self.gain = cell, gain

    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().render(*args, **kwargs) * self.gain


class Peeking(Nearest):
    """Looks at numbers, which there are none of on the meta device."""

    def render(self, feat: Any, *args: Any, **kwargs: Any) -> Tensor:
        return super().render(feat, *args, **kwargs) * float(feat.max() <= 1)


class Fickle(Nearest):
    """Brighter every other time."""

    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        image = super().render(*args, **kwargs)
        return image + 0.5 * (type(self).calls % 2)


class Vanishing(Nearest):
    """Its process is killed at the third image, as the system does when memory runs out."""

    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        image = super().render(*args, **kwargs)
        if not image.is_meta and type(self).calls > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return image


class Leaving(Nearest):
    """Its process ends as soon as it computes."""

    def render(self, *args: Any, **kwargs: Any) -> Tensor:
        if not args[0].is_meta:
            os._exit(7)
        return super().render(*args, **kwargs)


def spec(cls: type[SRMethod]) -> MethodSpec:
    name = cls.__name__.lower()
    return MethodSpec(name, cls.__name__, "none", f"stub_methods:{cls.__name__}", (), 50, learned=False)


slow, hungry, starving, fickle, vanishing, leaving = map(spec, (Slow, Hungry, Starving, Fickle, Vanishing, Leaving))


def plug_in(folder: Path, *names: str) -> dict[str, str]:
    """Install `slow`, or others, as plug-ins under `folder`; returns the environment in which they are found."""
    info = folder / "stubs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stubs\nVersion: 1.0\n")
    entries = [f"{name} = stub_methods:{name}\n" for name in names or ("slow",)]
    (info / "entry_points.txt").write_text("[asrbench.methods]\n" + "".join(entries))
    root = Path(__file__).resolve().parents[2]
    paths = [str(folder), str(Path(__file__).parent), str(root), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
