"""What is known of each dataset before its images are seen: `datasets/*.toml`, checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from bench.layouts import Layout, shared_layouts
from bench.resources import data_folder
from bench.schema import parse
from methods.errors import UserError
from methods.names import resolve

Size = tuple[int, int]
Family = Literal["benchmark", "div2k"]


@dataclass(frozen=True)
class Descriptor:
    """One dataset: its images, its terms, and where its files may be. `datasets/README.md` explains how to add one."""

    name: str
    title: str
    family: Family
    """Which of the protocol's rules apply."""
    count: int | None
    """How many images the complete set has; None for a folder of the user's, of which nothing is known."""
    licence: str = ""
    citation: str = ""
    source: str = ""
    """Where to get it."""
    order: int = 100
    """Position in lists and tables."""
    folders: tuple[str, ...] = ()
    """What archives call the set's folder; users may call the set so as well."""
    names: tuple[str, ...] = ()
    """The images in their usual order; empty where only their number is known."""
    numbered: tuple[str, ...] = ()
    """Names that archives use instead, by position: "img_{index:03d}". Without `names` the first gives the names."""
    first_index: int = 1
    files: Mapping[str, str] = field(default_factory=dict)
    """Stems of single images that differ from their names."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """(H, W) of each image, in the order of the names."""
    any_size: tuple[tuple[int, ...], ...] = ()
    """(H, W) that images may have, where it is not listed for each."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Hashes of the files' bytes, by image."""
    crop: tuple[int, ...] = ()
    """(H, W) that larger images are cut to, around their centre."""
    package: str | None = None
    """The installed Python package that ships the images; None: they are under the data root."""
    layouts: tuple[str, ...] = ()
    """Entries of `datasets/layouts.toml`."""
    layout: tuple[Layout, ...] = ()
    """Layouts of this set alone; preferred to the shared ones."""

    def __post_init__(self) -> None:
        """Check what the fields say of each other.

        Raises:
            UserError: names or sizes do not match the count, or a shared layout is unknown.
        """
        for what, values in (("names", self.names), ("sizes", self.sizes)):
            if values and len(values) != self.count:
                raise UserError(f"The dataset {self.name} lists {len(values)} {what} but counts {self.count} images.")
        for layout in self.layouts:
            resolve(layout, shared_layouts(), f"layout (in the dataset {self.name})")

    def image_names(self) -> tuple[str, ...]:
        """The images' names in their usual order; empty where they are not known."""
        return self.names or (self._numbers(self.numbered[0]) if self.numbered else ())

    def spellings(self) -> Mapping[str, tuple[str, ...]]:
        """Per image name, the names that its file may have instead, the likeliest first."""
        names = self.image_names()
        columns = [[self.files.get(name, name) for name in names], *(self._numbers(form) for form in self.numbered)]
        return {name: tuple(dict.fromkeys(row)) for name, *row in zip(names, *columns, strict=True)}

    def all_layouts(self) -> tuple[Layout, ...]:
        """Where to look, the preferred layouts first."""
        return (*self.layout, *(shared_layouts()[name] for name in self.layouts))

    def _numbers(self, form: str) -> tuple[str, ...]:
        return tuple(form.format(index=self.first_index + i) for i in range(self.count or 0))


@cache
def list_datasets() -> Mapping[str, Descriptor]:
    """All datasets that the suite knows, by name, in the order of lists and tables.

    Raises:
        UserError: a descriptor is not right; the sentence names the file and the key.
    """
    paths = sorted(path for path in data_folder("datasets").glob("*.toml") if path.name != "layouts.toml")
    found = sorted(map(read_descriptor, paths), key=lambda descriptor: (descriptor.order, descriptor.name))
    return {descriptor.name: descriptor for descriptor in found}


def read_descriptor(path: Path) -> Descriptor:
    """Read one descriptor.

    Raises:
        UserError: it is not TOML, has an unknown or missing key, or contradicts itself.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"The dataset descriptor {path.name} is not TOML ({error}): correct it.") from error
    return parse(Descriptor, table, path.name)


def descriptor(name: str) -> Descriptor:
    """The dataset called `name`, in any case; what archives call its folder is understood too.

    Raises:
        UserError: there is none.
    """
    known = list_datasets()
    aliases = {alias.casefold(): d for d in known.values() for alias in (d.name, *d.folders)}
    return aliases.get(name.casefold()) or known[resolve(name, known, "dataset")]
