"""The documentation says what is there: code, commands, options, keys and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from seaway.cli import app
from seaway.config import load_settings
from seaway.config.models import (
    AlertSettings,
    ConsumerSettings,
    DeadLetterSettings,
    NatsSettings,
    OutboxSettings,
    ProfileSettings,
    Section,
    Settings,
    StreamSettings,
)

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference"
EXAMPLE = ROOT / "examples"
PAGES = [
    str(page.relative_to(ROOT))
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


def commands() -> dict[str, Any]:
    """Every command of ``seaway`` by its words, as the command line itself knows them."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found[" ".join(words)] = command
        for name, one in (below or {}).items():
            walk(one, (*words, name))

    walk(get_command(app), ())
    return found


def said(page: Path) -> Iterator[list[str]]:
    """The words after ``seaway`` of each command line in shell blocks and in inline code."""
    text = page.read_text()
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(seaway [a-z][^`\n]*)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["seaway"]:
            yield words[1:]


def options(command: Any) -> set[str]:
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {
        "--help",
        "-h",
    }


def keys(section: type[Section]) -> set[str]:
    return set(section.model_fields) - {"source", "implied"}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_in_the_docs_exists_with_its_options(page: str) -> None:
    known = commands()
    names = {one.rpartition(" ")[0] for one in known} - {""}
    top_level = options(get_command(app))
    for words in said(ROOT / page):
        line = "seaway " + " ".join(words)
        words = [word for word in words if word not in top_level or word in ("--help", "-h")]
        name = words[0] if words else ""
        if name in names and len(words) > 1:
            for one in words[1].split("/"):
                assert f"{name} {one}" in known, f"{page}: {line}"
            name = f"{name} {words[1].split('/')[0]}"
        if name in names or not name:
            continue
        assert name in known, f"{page}: {line}"
        given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert given <= options(known[name]), f"{page}: {line}"


def test_the_readmes_python_is_the_example() -> None:
    example = (EXAMPLE / "shop.py").read_text()
    found = blocks(README, "python")
    assert found
    for block in found:
        assert block in example


@pytest.mark.parametrize(
    "example", sorted(str(file.relative_to(EXAMPLE)) for file in EXAMPLE.glob("**/*.py"))
)
def test_no_example_writes_past_its_settings(example: str) -> None:
    assert "Outbox" not in (EXAMPLE / example).read_text()


def test_the_readmes_targets_are_in_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    wanted = re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:LOG|ARGS|#|`|\n))", README.read_text())
    assert {"demo", "test", "install"} <= set(wanted) <= set(targets)


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_repository_lead_somewhere(page: str) -> None:
    for target in re.findall(
        r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()
    ):
        assert ((ROOT / page).parent / target).exists(), f"{page} -> {target}"


def test_every_page_is_reachable_from_the_readme() -> None:
    linked = README.read_text()
    for page in PAGES:
        assert page == "README.md" or f"({page})" in linked, f"link {page} in the README"


def test_the_reference_has_every_command() -> None:
    text = (REFERENCE / "command-line.md").read_text()
    for name in commands():
        assert f"| `seaway {name}" in text, name


def test_the_reference_has_every_key_and_no_other() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    sections = dict(re.findall(r"^## `([a-z_]+)`.*?\n(.*?)(?=^## |\Z)", text, flags=re.S | re.M))
    expected: dict[str, type[Section]] = {
        "nats": NatsSettings,
        "streams": StreamSettings,
        "consumers": ConsumerSettings,
        "profiles": ProfileSettings,
        "alerts": AlertSettings,
        "outbox": OutboxSettings,
        "dead_letters": DeadLetterSettings,
    }
    for name, section in expected.items():
        assert set(re.findall(r"^\| `([a-z_]+)` \|", sections[name], re.M)) == keys(section), name
    top = text.partition("## `nats`")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", top, re.M)) == keys(Settings)


@pytest.mark.parametrize("folder", [ROOT, EXAMPLE])
def test_the_configurations_that_ship_are_valid(folder: Path) -> None:
    settings = load_settings(folder / "seaway.yaml", environ={})
    assert settings.streams[0].replicas == 1
    assert "case_mgmt__from_sea" in {consumer.durable for consumer in settings.consumers}
