"""Tables and docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in one] for one in lines]
    return "".join(f"| {' | '.join(one)} |\n" for one in cells)


def text_of(doc: str | None) -> str:
    """A docstring as Markdown; what is indented in it is code."""
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(doc or ""), flags=re.S)
