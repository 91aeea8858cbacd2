"""The lock files: in step with pyproject.toml, and every file of theirs under a hash."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements/*.lock"))
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)


def pinned(lock: Path) -> dict[str, set[str]]:
    """Versions by name: several where they differ by Python."""
    versions: dict[str, set[str]] = {}
    for name, version in _PINNED.findall(lock.read_text("utf-8")):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def wanted() -> Iterator[Requirement]:
    """What the extra ``test`` comes to, with the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    ahead = [*project["dependencies"], *extras["test"]]
    while ahead:
        requirement = Requirement(ahead.pop())
        if requirement.name == project["name"]:
            ahead += [text for extra in requirement.extras for text in extras[extra]]
        else:
            yield requirement


@pytest.mark.parametrize("lock", [one for one in LOCKS if "test" in one.name], ids=lambda p: p.name)
def test_what_the_project_asks_for_is_locked(lock: Path) -> None:
    versions = pinned(lock)
    for requirement in wanted():
        known = versions.get(canonicalize_name(requirement.name), set())
        assert known, f"{requirement} is not in {lock.name}: make lock"
        for version in known:
            assert requirement.specifier.contains(version), f"{requirement}: {version}: make lock"


def test_the_peers_are_locked_as_they_are_pinned() -> None:
    versions = pinned(ROOT / "requirements" / "peers.lock")
    for name, version in _PINNED.findall((ROOT / "bench" / "peers.txt").read_text("utf-8")):
        assert versions[canonicalize_name(name)] == {version}, "make lock"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_file_has_a_hash(lock: Path) -> None:
    logical = lock.read_text("utf-8").replace("\\\n", " ").splitlines()
    lines = [line for line in logical if line and not line.lstrip().startswith("#")]
    assert lines
    assert not [line for line in lines if "==" not in line or "--hash=sha256:" not in line]


def test_there_is_a_lock_for_each_environment() -> None:
    environments = ("docs", "peers", "test", "test-sqlalchemy20")
    assert {one.name for one in LOCKS} == {f"{name}.lock" for name in environments}
