"""Where the suite's own data lies: in a checkout beside the packages, in a wheel inside `bench`."""

from __future__ import annotations

from pathlib import Path

from methods.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """The folder called `name` ("datasets", "results") that travels with the suite.

    The wheel's copy is looked for first: beside an installed `bench` there may be a foreign package of the same name.

    Raises:
        UserError: the installation lacks it.
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir() and (_PACKAGE in folder.parents or not (folder / "__init__.py").exists()):
            return folder
    raise UserError(f"The folder {name!r} that belongs to asrbench is missing beside {_PACKAGE}: reinstall asrbench.")
