"""Finding the files of a dataset on disk, whichever archive they came in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

from bench.images import IMAGE_SUFFIXES
from bench.resources import data_folder
from bench.schema import parse
from methods.errors import UserError

HR_FOLDERS = ("GT", "HR", "original")


@dataclass(frozen=True)
class Layout:
    """One way in which archives lay out a set; the fields are explained in `datasets/layouts.toml`."""

    hr: tuple[str, ...]
    lr: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[str, ...] = ("",)


@cache
def shared_layouts() -> Mapping[str, Layout]:
    """The layouts of `datasets/layouts.toml`, by name."""
    path = data_folder("datasets") / "layouts.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: parse(Layout, table, f"{name!r} in {path.name}") for name, table in tables.items()}


class Images:
    """The images of one folder whose stems follow one template, found by name."""

    def __init__(self, root: Path, template: str, scale: float | None = None) -> None:
        """List the folder that `template` (relative to `root`, ending in a stem with {name}) and `scale` point to.

        Raises:
            UserError: it is there but cannot be read.
        """
        folder, _, stem = _at_scale(template, scale).rpartition("/")
        self.folder = root / folder
        self._before, _, self._after = stem.partition("{name}")
        try:
            files = sorted(file for file in self.folder.iterdir() if file.is_file())
        except OSError as error:
            raise UserError(f"The folder {self.folder} cannot be read ({error.strerror}): check its rights.") from error
        visible = [file for file in files if not file.name.startswith(".")]
        self.others = tuple(file.name for file in visible if file.suffix.lower() not in IMAGE_SUFFIXES)
        """Files that are no images."""
        self._exact: dict[str, list[Path]] = {}
        self._loose: dict[str, list[Path]] = {}
        for file in visible:
            if file.suffix.lower() in IMAGE_SUFFIXES and (name := self._name(file.stem)):
                self._exact.setdefault(name, []).append(file)
                self._loose.setdefault(_loosely(name), []).append(file)

    def _name(self, stem: str) -> str:
        fits = stem.startswith(self._before) and stem.endswith(self._after)
        return stem[len(self._before) : len(stem) - len(self._after)] if fits else ""

    def names(self) -> list[str]:
        """All names, sorted as strings."""
        return sorted(self._exact)

    def paths(self) -> list[Path]:
        """All files, in the order of their names."""
        return [path for name in self.names() for path in self._exact[name]]

    def stem(self, name: str) -> str:
        """The stem that the file of an image should have."""
        return self._before + name + self._after

    def find(self, *spellings: str) -> Path | None:
        """The file of an image that goes by one of `spellings`, exactly or up to case and leading zeros.

        Raises:
            UserError: several files answer to it.
        """
        exact = (self._exact.get(name) for name in spellings)
        loose = (self._loose.get(_loosely(name)) for name in spellings)
        hits = next(filter(None, (*exact, *loose)), [])
        if len(hits) > 1:
            files = " and ".join(file.name for file in hits)
            raise UserError(f"{self.folder} holds several files for the image {spellings[0]!r} ({files}): keep one.")
        return hits[0] if hits else None


@dataclass(frozen=True)
class Place:
    """A layout applied to one set: where its HR and LR files would be."""

    root: Path
    hr: str
    """Path template relative to `root`, with {name}, and {scale} where HR images are stored per scale."""
    lr: Mapping[str, str]
    """The same for LR images, by scale ("4") or for "any"."""

    @property
    def per_scale(self) -> bool:
        """Whether the HR images were cropped for one scale."""
        return "{scale}" in self.hr

    def scales(self) -> list[float]:
        """The scales that have a folder of HR images, ascending; empty unless `per_scale`.

        Whole scales only: at fractional ones LR images are made from the uncropped original, which such archives lack.
        """
        if not self.per_scale:
            return []
        folder = self.hr.rpartition("/")[0]
        pattern = re.compile(re.escape(folder).replace(re.escape("{scale}"), "([0-9]+)"))
        paths = (path.relative_to(self.root).as_posix() for path in self.root.glob(folder.replace("{scale}", "*")))
        return sorted(float(match[1]) for match in map(pattern.fullmatch, paths) if match)

    def hr_folder(self, scale: float | None = None) -> Path:
        """The folder of the HR images; of the first scale if none is given and they are stored per scale."""
        return self.root / _at_scale(self.hr, scale or next(iter(self.scales()), None)).rpartition("/")[0]

    def hr_images(self, scale: float | None = None) -> Images:
        """The HR images, for a scale if they are stored per scale.

        Raises:
            UserError: there is no such folder.
        """
        return Images(self.root, self.hr, scale)

    def lr_images(self, scale: float) -> Images | None:
        """The ready LR images of a scale; None when there is no folder of them."""
        template = self.lr.get(f"{scale:g}", self.lr.get("any"))
        folder = _at_scale(template, scale).rpartition("/")[0] if template else ""
        return Images(self.root, template, scale) if template and (self.root / folder).is_dir() else None


def places(root: Path, sets: Sequence[str], layouts: Sequence[Layout]) -> Iterator[Place]:
    """All places under `root` where a set, called by any of the names `sets`, could be; the preferred ones first.

    A root that is itself called like the set is understood as the set's folder.
    """
    bases = [root, root.parent] if root.name in sets else [root]
    for layout in layouts:
        for base, inner, set_name, template in product(bases, layout.roots, sets, layout.hr):
            for gt in HR_FOLDERS if "{gt}" in template else ("",):
                hr = template.replace("{set}", set_name).replace("{gt}", gt)
                lr = {scale: path.replace("{set}", set_name) for scale, path in layout.lr.items()}
                yield Place(base / inner, hr, lr)


def _loosely(name: str) -> str:
    """A name without case and leading zeros, so that number-like names of any width are one name."""
    return re.sub(r"[0-9]+", lambda digits: digits[0].lstrip("0") or "0", name).casefold()


def _at_scale(template: str, scale: float | None) -> str:
    return template if scale is None else template.replace("{scale}", f"{scale:g}")
