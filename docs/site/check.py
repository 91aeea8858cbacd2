"""Whether the site that was built holds together: every link and every anchor leads somewhere,
nothing is fetched from another host to show it, and what is written as a list is shown as one.

    python docs/site/check.py site

Exits 1 and says what is wrong, a line each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
# GitHub begins a list within a paragraph, Python-Markdown only after an empty line.
UNLISTED = re.compile(r"\n *(?:[-*]|\d+\.) .{1,30}")


class Page(HTMLParser):
    """What a page has to link to, and what it links to and fetches."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.unlisted: list[str] = []
        self._in: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = [*self._in, tag] if tag in ("p", "code") else self._in
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") != "canonical":
            self.fetched.append(given.get("href", ""))
        if tag in FETCHED and FETCHED[tag] in given:
            self.fetched.append(given[FETCHED[tag]])

    def handle_endtag(self, tag: str) -> None:
        if self._in and tag == self._in[-1]:
            self._in = self._in[:-1]

    def handle_data(self, data: str) -> None:
        if self._in == ["p"]:
            self.unlisted += [one.strip() for one in UNLISTED.findall(data)]


def wrong(site: Path) -> Iterator[str]:
    """What does not hold, a line each."""
    pages = {file.resolve(): Page(file) for file in sorted(site.glob("**/*.html"))}
    if not pages:
        yield f"{site} has no page"
    for file, page in pages.items():
        here = file.relative_to(site.resolve())
        if here.name == "404.html":  # its links are from the root, wherever that will be
            continue
        for link in [*page.links, *page.fetched]:
            if not urlsplit(link).scheme and not link.startswith("//"):
                target, anchor = urldefrag(link)
                found = (file.parent / unquote(target)).resolve() if target else file
                if found.is_dir():
                    found /= "index.html"
                if not found.is_file():
                    yield f"{here}: {link} leads nowhere"
                elif anchor and found in pages and unquote(anchor) not in pages[found].ids:
                    yield f"{here}: {link} has no such place"
        for text in page.unlisted:
            yield f"{here}: an empty line is lacking before the list at «{text}»"
        for link in page.fetched:
            if link.startswith("//") or urlsplit(link).scheme in ("http", "https"):
                yield f"{here}: fetches {link}"
    for file in sorted(site.glob("**/*.css")):
        text = file.read_text()
        if "url(http" in text or "url(//" in text or "@import" in text:
            yield f"{file.relative_to(site)}: fetches from another host"


if __name__ == "__main__":
    found = list(wrong(Path(sys.argv[1])))
    print(*found, sep="\n", file=sys.stderr)
    sys.exit(bool(found))
