"""The dependency arrows: kernels <- methods <- bench; reports reads results and imports none of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "kernels": {"kernels"},
    "methods": {"methods", "kernels"},
    "bench": {"bench", "methods", "kernels"},
    "reports": {"reports"},
}
OURS = set(ALLOWED)
COMMAND_LINE = {ROOT / "bench" / "cli.py", ROOT / "bench" / "commands.py"}


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            found.add(file.relative_to(ROOT).parts[0])
    return found & OURS


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_arrows_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        allowed = ALLOWED[package] | ({"reports"} if file in COMMAND_LINE else set())
        wrong = imported_packages(file) - allowed
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("folder", ["datasets", "results"])
def test_data_folders_are_not_packages(folder):
    assert (ROOT / folder).is_dir()
    assert not list((ROOT / folder).rglob("*.py"))
