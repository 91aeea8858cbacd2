"""The site: its navigation has every page, its lists have all that the code has, its check finds
what is wrong. ``make docs`` builds it; these need no builder."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import seaway
from seaway.cli import app

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "pages"
    subprocess.run([sys.executable, SITE / "pages.py", folder], check=True, timeout=60)
    return folder


def navigation() -> list[str]:
    def below(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for one in entry.values() if isinstance(entry, dict) else entry:
            if entry is not one and not isinstance(entry, str):
                yield from below(one)

    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    return [page for entry in nav for page in below(entry)]


def test_the_navigation_has_every_page_once_and_no_other(pages: Path) -> None:
    there = {str(file.relative_to(pages)) for file in pages.glob("**/*.md")}
    # What shows code is come to from the page that speaks of it.
    written = {page for page in there if not page.startswith("code/")}
    assert sorted(navigation()) == sorted(written)


def test_a_bar_in_the_code_of_a_table_is_shown_without_its_escape(pages: Path) -> None:
    assert "`--log-format text|json`" in (pages / "reference" / "command-line.md").read_text()
    assert "| `deadline` | `timedelta | None` |" in (pages / "reference" / "api.md").read_text()


def anchors(page: Path) -> set[str]:
    """The places in a page that a link may name, as GitHub and the site have them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", text, flags=re.M):
        words = re.sub(r"[^\w\- ]", "", title.lower().strip())
        found.add(words.replace(" ", "-"))
    return found


def test_every_anchor_that_a_link_names_is_there() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]:
        for target, anchor in re.findall(
            r"\]\((?!https?://)([^)#\s]*)#([^)\s]+)\)", page.read_text()
        ):
            meant = (page.parent / target).resolve() if target else page
            assert anchor in anchors(meant), f"{page.relative_to(ROOT)} -> {target}#{anchor}"


def test_the_list_of_options_has_every_command(pages: Path) -> None:
    text = (pages / "reference" / "commands.md").read_text()
    command: Any = get_command(app)
    for name, one in command.commands.items():
        for below in getattr(one, "commands", {"": None}):
            assert f"## `seaway {f'{name} {below}'.strip()}`\n" in text
    assert "`--payload FILE` | A corrected payload, for one letter." in text


def test_the_list_of_keys_has_their_defaults(pages: Path) -> None:
    text = (pages / "reference" / "keys.md").read_text()
    for row in (
        "| `max_age` | duration | `7d` |",
        "| `max_bytes` | size | `10GB` |",
        "| `storage` | `file`, `memory` | `file` |",
        "| `consumer_redelivery_count` | rate | `50/min` |",
        "| `subjects` | a list of texts | required |",
    ):
        assert row in text, row


def test_the_list_of_metrics_has_those_of_the_page_about_watching(pages: Path) -> None:
    listed = set(re.findall(r"^\| `(\w+)`", (pages / "reference" / "metrics.md").read_text(), re.M))
    told = (ROOT / "docs" / "how-to" / "monitor.md").read_text()
    named = set(re.findall(r"^\| `(\w+)", told[told.index("| metric | type") :], re.M))
    assert named <= listed | {"stream_messages_pending"}
    assert {"consumer_redelivery_count", "seaway_deliveries_total"} <= listed


def test_the_list_of_python_names_has_all_and_says_what_each_is(pages: Path) -> None:
    text = (pages / "reference" / "api.md").read_text()
    for name in seaway.__all__:
        assert f"\n### `{name}`\n" in text, name
    assert "\n    from_context: str | None = None,\n" in text
    assert "| `workers` | `int` | " in text


def test_a_link_out_of_the_documentation_leads_to_a_page_that_shows_it(pages: Path) -> None:
    front = (pages / "index.md").read_text()
    assert "](code/examples/shop.py.md)" in front
    shown = (pages / "code" / "examples" / "shop.py.md").read_text()
    assert (ROOT / "examples" / "shop.py").read_text() in shown


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="other.html#there">', ""),
        ('<a href="https://example.com/">', ""),
        ('<a href="gone.html">', "index.html: gone.html leads nowhere"),
        ('<a href="other.html#gone">', "index.html: other.html#gone has no such place"),
        ('<script src="https://unpkg.com/x"></script>', "index.html: fetches https://unpkg.com/x"),
        ("<p>These:\n- one", "index.html: an empty line is lacking before the list at «- one»"),
        ("<p>These:</p><ul><li>one</li></ul><pre><code>\n- one</code></pre>", ""),
        ('<link rel="stylesheet" href="//fonts.example/css">', "fetches //fonts.example/css"),
    ],
)
def test_the_check_of_the_built_site_says_what_is_wrong(
    tmp_path: Path, body: str, said: str
) -> None:
    (tmp_path / "index.html").write_text(body)
    (tmp_path / "other.html").write_text('<h2 id="there">')
    done = subprocess.run(
        [sys.executable, SITE / "check.py", tmp_path], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == bool(said), done.stderr
    assert said in done.stderr
