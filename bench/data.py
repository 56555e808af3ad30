"""Datasets as lists of checked image files: known sets under the data root, the embedded photographs, any folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bench.descriptors import Descriptor, Size, descriptor, list_datasets
from bench.keys import file_sha256
from bench.layouts import Images, Layout, Place, places
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.pairs import Image8

DATA_ROOT_VARIABLE = "ASRBENCH_DATA"
_FOLDER_LAYOUT = Layout(hr=("{name}", "{gt}/{name}"), lr={"any": "LR_bicubic/X{scale}/{name}x{scale}"})


@dataclass(frozen=True)
class ImageRef:
    """One HR image on disk. Its header has been read, its pixels have not."""

    name: str
    path: Path
    size: Size | None = None
    """(H, W) after the crop; None when the header cannot be read, and `damage` then says why."""
    crop: tuple[int, int, int, int] | None = None
    """(top, left, height, width) of the part that is used; None: all of it."""
    lr: Path | None = None
    """The dataset's own LR image at the scale that was asked for."""
    damage: str | None = None

    def read(self) -> Image8:
        """The pixels, (H, W, 3), cropped.

        Raises:
            UserError: the file is damaged or of a kind that cannot be evaluated.
        """
        from bench.images import read_image

        image = read_image(self.path)
        if self.crop is None:
            return image
        top, left, height, width = self.crop
        return image[top : top + height, left : left + width]

    def read_lr(self) -> Image8 | None:
        """The pixels of the ready LR image, (h, w, 3); None when there is none.

        Raises:
            UserError: the file is damaged or of a kind that cannot be evaluated.
        """
        from bench.images import read_image

        return None if self.lr is None else read_image(self.lr)


@dataclass(frozen=True)
class Dataset:
    """A dataset that was found; `images` gives its files."""

    descriptor: Descriptor
    place: Place

    @property
    def name(self) -> str:
        """As rows and tables call it."""
        return self.descriptor.name

    @property
    def family(self) -> str:
        """Which of the protocol's rules apply: "benchmark" or "div2k"."""
        return self.descriptor.family

    @property
    def folder(self) -> Path:
        """Where its HR images are (for one of the scales, if they are stored per scale)."""
        return self.place.hr_folder()

    def images(self, scale: float, *, ready_lr: bool = False) -> tuple[ImageRef, ...]:
        """All HR images for a scale, in the set's usual order, checked; with `ready_lr`, their LR files if it has any.

        A damaged file is among them, so that evaluating it can fail by name.

        Raises:
            UserError: an image is missing, doubled, of a wrong size or not the one that was published; or the files
                do not serve this scale.
        """
        if self.place.per_scale and scale not in self.place.scales():
            has = ", ".join(f"{found:g}" for found in self.place.scales())
            raise UserError(
                f"{self.name} under {self.place.root} is cropped for the scales {has} and has no images for scale "
                f"{scale:g}: leave this scale out, or get the uncropped originals (see datasets/README.md)."
            )
        cut = scale if self.place.per_scale else None
        files = self._files(self.place.hr_images(cut))
        refs = tuple(_header(name, path, self.descriptor.crop) for name, path in files.items())
        self._check(refs, cut)
        return self._with_lr(refs, scale) if ready_lr else refs

    def notes(self) -> tuple[str, ...]:
        """Files in the HR folder that are left aside, as sentences."""
        if self.descriptor.package:
            return ()
        images = self.place.hr_images(next(iter(self.place.scales()), None))
        used = {path.name for path in self._files(images).values()}
        extra = [path.name for path in images.paths() if path.name not in used]
        aside = [("not images", images.others), (f"not part of {self.name}", tuple(extra))]
        return tuple(f"{images.folder}: {_some(names)} left aside, {what}." for what, names in aside if names)

    def _files(self, images: Images) -> Mapping[str, Path]:
        wanted = self.descriptor.spellings() or {name: (name,) for name in images.names()}
        found = {name: images.find(*spellings) for name, spellings in wanted.items()}
        missing = [images.stem(name) for name, path in found.items() if path is None]
        if missing:
            raise UserError(
                f"{self.name} is incomplete: {images.folder} lacks {len(missing)} of {len(found)} images "
                f"({_some(missing)}); get the missing files, or give the folder itself as the dataset as it is."
            )
        if self.descriptor.count not in (None, len(found)):
            raise UserError(
                f"{self.name} has {self.descriptor.count} images, but {images.folder} holds {len(found)}: complete "
                "it, or give the folder itself as the dataset as it is."
            )
        return {name: path for name, path in found.items() if path is not None}

    def _check(self, refs: tuple[ImageRef, ...], cut: float | None) -> None:
        for index, ref in enumerate(refs):
            listed = self.descriptor.sizes[index : index + 1] or self.descriptor.any_size
            allowed = [tuple(side - side % int(cut or 1) for side in size) for size in listed]
            if ref.size and allowed and ref.size not in allowed:
                sizes = " or ".join(f"{w}x{h}" for h, w in allowed)
                raise UserError(
                    f"{ref.path} has {ref.size[1]}x{ref.size[0]} pixels, but {ref.name} of {self.name} has {sizes}: "
                    "get the original, or give the folder itself as the dataset as it is."
                )
            expected = self.descriptor.sha256.get(ref.name)
            if expected and file_sha256(ref.path) != expected:
                source = self.descriptor.source
                raise UserError(
                    f"{ref.path} is not the image of {self.name}, its sha256 differs; get it from {source}."
                )

    def _with_lr(self, refs: tuple[ImageRef, ...], scale: float) -> tuple[ImageRef, ...]:
        images = self.place.lr_images(scale)
        if images is None:
            return refs
        spellings = self.descriptor.spellings()
        found = [images.find(*spellings.get(ref.name, (ref.name,))) for ref in refs]
        missing = [images.stem(ref.name) for ref, path in zip(refs, found, strict=True) if path is None]
        if missing:
            raise UserError(
                f"The LR images of {self.name} are incomplete: {images.folder} lacks {_some(missing)}; complete the "
                "folder or remove it, and LR images are made from the HR ones."
            )
        return tuple(replace(ref, lr=path) for ref, path in zip(refs, found, strict=True))


def find_dataset(name_or_folder: str, data_root: Path | None = None) -> Dataset:
    """Find a known set under the data root (by default the environment's `ASRBENCH_DATA`), or take a folder of images.

    Raises:
        UserError: there is no such set or folder, the data root is not set, or no image is where the set's archives
            have them.
    """
    folder = as_folder(name_or_folder)
    if folder is not None:
        known = Descriptor(folder.resolve().name, folder.resolve().name, "benchmark", None, layout=(_FOLDER_LAYOUT,))
        return Dataset(known, _find_place(known, folder, ("",)))
    known = descriptor(name_or_folder)
    root = _package_folder(known, known.package) if known.package else _data_root(known, data_root)
    return Dataset(known, _find_place(known, root, known.folders or (known.name,)))


def as_folder(text: str) -> Path | None:
    """The folder that a dataset argument points to; None when it is meant as a name.

    Raises:
        UserError: it is written as a path, but there is no such folder.
    """
    path = Path(text).expanduser()
    written_as_path = "/" in text or os.sep in text or text.startswith((".", "~"))
    if written_as_path and not path.is_dir():
        raise UserError(f"There is no folder {text!r}: give a folder of images, or a name from `list datasets`.")
    if written_as_path:
        return path
    return path if path.is_dir() and text.casefold() not in _names() else None


def _names() -> set[str]:
    return {alias.casefold() for known in list_datasets().values() for alias in (known.name, *known.folders)}


def _package_folder(known: Descriptor, package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"The images of {known.name} come with a package that is not installed: {known.source}.")
    return Path(spec.submodule_search_locations[0])


def _data_root(known: Descriptor, data_root: Path | None) -> Path:
    root = data_root or (Path(value) if (value := os.environ.get(DATA_ROOT_VARIABLE)) else None)
    if root is None:
        raise UserError(
            f"{known.name} is not part of this suite: put it into a folder and say --data-root FOLDER or set "
            f"{DATA_ROOT_VARIABLE} (where to get it: {known.source})."
        )
    if not root.expanduser().is_dir():
        raise UserError(f"The data root {root} is not a folder: correct --data-root or {DATA_ROOT_VARIABLE}.")
    return root.expanduser()


def _find_place(known: Descriptor, root: Path, sets: Sequence[str]) -> Place:
    empty: list[Path] = []
    for place in places(root, sets, known.all_layouts()):
        for scale in place.scales() if place.per_scale else (None,):
            if place.hr_folder(scale).is_dir():
                if _holds_any(known, place.hr_images(scale)):
                    return place
                empty.append(place.hr_folder(scale))
    if empty:
        raise UserError(f"The folder {empty[0]} holds no image of {known.name}: put PNG, BMP or JPEG files there.")
    looked = [f"{place.hr_folder().relative_to(root.parent)}/" for place in places(root, sets, known.all_layouts())]
    raise UserError(
        f"{known.name} is not under {root}, where {_some(tuple(dict.fromkeys(looked)), 4)} were looked for: "
        "correct --data-root, or get the images (see datasets/README.md)."
    )


def _holds_any(known: Descriptor, images: Images) -> bool:
    spellings = known.spellings()
    return bool(images.names()) and (not spellings or any(images.find(*each) for each in spellings.values()))


def _header(name: str, path: Path, crop: tuple[int, ...]) -> ImageRef:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Whether an image is too large is judged when its pixels are read.
            with Image.open(path) as image:
                width, height = image.size
    except Exception as error:  # Pillow's readers raise nearly anything on damaged headers.
        return ImageRef(name, path, damage=f"{path} is no readable image ({type(error).__name__}): replace it.")
    if not crop or (height <= crop[0] and width <= crop[1]):
        return ImageRef(name, path, (height, width))
    size = min(height, crop[0]), min(width, crop[1])
    return ImageRef(name, path, size, ((height - size[0]) // 2, (width - size[1]) // 2, *size))


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
