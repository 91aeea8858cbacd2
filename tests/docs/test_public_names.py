"""What can be imported is used or documented, and the reference has all that users import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import seaway

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "seaway"
REFERENCE = ROOT / "docs" / "reference" / "python.md"
WRITTEN = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("**/*.md"),
    *(ROOT / "examples").glob("**/*.py"),
]
CODE = [one for folder in ("src", "tests", "bench") for one in (ROOT / folder).glob("**/*.py")]
MODULES = [
    str(file.relative_to(SOURCE))
    for file in sorted(SOURCE.glob("**/*.py"))
    if "\n__all__ = [" in file.read_text()
]


def exported(file: Path) -> list[str]:
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(statement.value)]
    raise AssertionError(f"{file} has no __all__")


@cache
def words() -> frozenset[str]:
    """All that the documentation says."""
    return frozenset(re.findall(r"\w+", "\n".join(one.read_text() for one in WRITTEN)))


@cache
def imported(by: Path) -> frozenset[str]:
    """The names that a module takes from others, or asks of them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(by.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return frozenset(found)


def test_the_reference_has_every_name_of_the_package() -> None:
    _, _, table = REFERENCE.read_text().partition("\n## `seaway`\n")
    rows = re.findall(r"^\| (`[^|]+) \|", table.partition("\n## ")[0], flags=re.M)
    named = [name for row in rows for name in re.findall(r"`([A-Za-z]+)", row)]
    assert sorted(named) == sorted(seaway.__all__)


def test_every_module_of_the_reference_has_what_it_says() -> None:
    text = REFERENCE.read_text()
    modules = re.findall(r"^\| `(seaway\.[a-z_.]+)` \| (.*?) \|", text, flags=re.M)
    assert modules
    for module, names in modules:
        found = __import__(module, fromlist=["_"])
        for name in re.findall(r"`([A-Za-z_]+)", names):
            assert hasattr(found, name), f"{module}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_what_a_module_exports_is_used_or_documented(module: str) -> None:
    file = SOURCE / module
    package = file.parent if file.name == "__init__.py" else None
    # What a package takes from its own modules, only to export it, is no use of it.
    used = words().union(
        *(imported(one) for one in CODE if one != file and package not in one.parents)
    )
    assert [name for name in exported(file) if name not in used] == []


def test_names_and_modules_are_there_when_they_are_asked_for() -> None:
    code = (
        "import seaway\n"
        "assert seaway.errors.Poison is seaway.Poison\n"
        "assert not hasattr(seaway, 'nothing')\n"
        "assert set(seaway.__all__) <= set(dir(seaway))\n"
        "from seaway import *\n"
        "from seaway.app import Seaway as original\n"
        "assert Seaway is original\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
