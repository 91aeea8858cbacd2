"""Lists for people: readable at 80 columns, whole in a pipe.

Owns: which columns a terminal has room for. Guarantees: no cell of a column is cut or folded but
where it is made of words; on a terminal the columns that matter least are left out first, and said;
in a pipe a row is one line, with everything in it, `; ` between what were lines of a cell.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from seaway.cli import session

_GAP = "  "
_LEAST_WORDS = 24
"""Below that many columns, words are not worth folding."""


@dataclass(frozen=True, slots=True)
class Column:
    """``rank``: 0 always stays, the highest goes first. ``words``: text that may be folded at its
    blanks; the last column that is left, at best."""

    title: str
    rank: int = 0
    right: bool = False
    words: bool = False


def show(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], styles: Sequence[str] = ()
) -> None:
    """Print ``rows``, a cell for each column; ``styles``: one a row, or none. Cells are text."""
    cells = [list(row) for row in rows]
    if not session.out.is_terminal:
        cells = [["; ".join(cell.split("\n")) for cell in row] for row in cells]
        _print(columns, cells, range(len(columns)), _widths(columns, cells), None, ())
        return
    shown, widths, room = _fitting(columns, cells, session.out.width)
    _print(columns, cells, shown, widths, room, styles)
    if left := [one.title for place, one in enumerate(columns) if place not in shown]:
        session.err.print(
            f"No room for {', '.join(left)}: a wider terminal, a pipe or --json has all.",
            style="dim",
            markup=False,
        )


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(
            [cell_len(column.title)]
            + [cell_len(line) for row in cells for line in row[place].split("\n")]
        )
        for place, column in enumerate(columns)
    ]


def _fitting(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int
) -> tuple[list[int], list[int], int | None]:
    """The places of the columns that are shown, their widths, and that of words; ``None``: as
    wide as they are."""
    widths, shown = _widths(columns, cells), list(range(len(columns)))
    while True:
        gaps = len(_GAP) * (len(shown) - 1)
        stiff = gaps + sum(widths[place] for place in shown if not columns[place].words)
        words = [place for place in shown if columns[place].words]
        if stiff + sum(widths[place] for place in words) <= width:
            return shown, widths, None
        room = (width - stiff) // len(words) if words else 0
        if words and room >= _LEAST_WORDS:
            return shown, widths, room
        least = max(shown, key=lambda place: (columns[place].rank, place))
        if columns[least].rank == 0:
            return shown, widths, max(room, _LEAST_WORDS) if words else None
        shown.remove(least)


def _print(
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    shown: Sequence[int],
    widths: Sequence[int],
    room: int | None,
    styles: Sequence[str],
) -> None:
    def line(texts: Sequence[str], style: str) -> None:
        parts = []
        for place, text in zip(shown, texts, strict=True):
            wide = widths[place] if room is None or not columns[place].words else room
            pad = " " * (wide - cell_len(text))
            parts.append(pad + text if columns[place].right else text + pad)
        session.out.print(
            Text(_GAP.join(parts).rstrip(), style=style),
            soft_wrap=True,
        )

    line([columns[place].title for place in shown], "bold")
    for number, row in enumerate(cells):
        folded = [_folded(row[place], room if columns[place].words else None) for place in shown]
        for index in range(max(map(len, folded))):
            texts = [lines[index] if index < len(lines) else "" for lines in folded]
            line(texts, styles[number] if styles else "")


def _folded(text: str, room: int | None) -> list[str]:
    lines = text.split("\n")
    if room is None:
        return lines
    # A word that is longer than the room may be an id: it stands whole, and sticks out.
    return [
        part
        for one in lines
        for part in textwrap.wrap(one, room, break_long_words=False, break_on_hyphens=False) or [""]
    ]
