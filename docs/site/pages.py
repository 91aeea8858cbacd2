"""The pages of the site, as Markdown: those that the repository has, and those made from the code.

    python docs/site/pages.py build/pages

Owns: where a file of the repository stands in the site, and the links between. A link that leads to
code leads to a page that shows it, so that the site needs nothing but itself.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import reference

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "README.md"
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FENCED = re.compile(r"(^```.*?^```$)", flags=re.S | re.M)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "sh"}


def written() -> list[Path]:
    """Every page that the repository has."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])


def place(file: Path) -> Path:
    """Where a file or a folder of the repository stands, from the site's root."""
    if file == FRONT:
        return Path("index.md")
    inside = file.relative_to(ROOT)
    if inside.parts[0] == "docs":
        return inside.relative_to("docs")
    if file.suffix == ".md":
        return Path("project") / inside.name.lower()
    return Path("code") / f"{inside}.md"


def linked(page: Path) -> Iterator[Path]:
    """What of the repository a page links to."""
    for part in FENCED.split(page.read_text()):
        if not part.startswith("```"):
            for _, target, _ in LINK.findall(part):
                if (found := (page.parent / target).resolve()).exists():
                    yield found


def moved(page: Path) -> str:
    """The text of a page, its links as the site has them."""
    here = place(page).parent

    def move(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        found = (page.parent / target).resolve()
        if not found.is_relative_to(ROOT) or not found.exists():
            return link.group()
        up = Path(*[".."] * len(here.parts))
        return f"{before}{(up / place(found)).as_posix()}{after}"

    parts = FENCED.split(page.read_text())
    return "".join(part if part.startswith("```") else LINK.sub(move, part) for part in parts)


def shown(file: Path) -> str:
    """A page that shows a file of code, or what is in a folder of it; a picture is itself."""
    if file.suffix == ".svg":
        return file.read_text()
    title = f"# `{file.relative_to(ROOT)}`\n\n"
    if file.is_dir():
        return title + "".join(
            f"- [{one.name}]({file.name}/{one.name}.md)\n" for one in within(file)
        )
    return f"{title}```{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text()}```\n"


def within(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_file())


def pages() -> dict[Path, str]:
    """Every page of the site by its place."""
    made = {Path("reference") / name: text for name, text in reference.pages().items()}
    own = written()
    code = {one for page in own for one in linked(page)} - set(own)
    code |= {one for folder in code if folder.is_dir() for one in within(folder)}
    return (
        {place(page): moved(page) for page in own}
        | {place(file): shown(file) for file in sorted(code)}
        | made
    )


def with_bars(text: str) -> str:
    """GitHub wants the bar escaped in a table's code, Python-Markdown shows the backslash."""
    code = re.compile(r"`[^`]+`")
    return "\n".join(
        code.sub(lambda one: one.group().replace(r"\|", "|"), line) if line[:1] == "|" else line
        for line in text.split("\n")
    )


def main(folder: Path) -> None:
    made = pages()
    shutil.rmtree(folder, ignore_errors=True)
    for where, text in made.items():
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        (folder / where).write_text(with_bars(text))
    shutil.copy(Path(__file__).with_name("style.css"), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
