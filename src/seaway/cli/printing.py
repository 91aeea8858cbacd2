"""What a command prints: data on stdout, everything else on stderr, safe for any terminal.

Owns: the two consoles, JSON, progress, and lists for people. Guarantees: nothing that a terminal
would obey is printed; in a pipe a row of a list is one line with everything in it, `; ` between
what were lines of a cell; on a terminal no cell is cut or folded but where it is made of words, and
the columns that matter least are left out first, which is said.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_ENDLESS = 1_000_000
"""In a pipe a line is as long as it is: what reads it may be looking for an id."""

_GAP = "  "
_LEAST_WORDS = 24
"""Below that many columns, words are not worth folding."""


@cache
def out() -> Console:
    """Stdout with styles; made, and its library loaded, when something is to have one."""
    from rich.console import Console

    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _ENDLESS)


@cache
def err() -> Console:
    """Stderr, likewise."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """One line of data for people, as long as it is: what is to be copied must not be folded."""
    if style is None:
        typer.echo(printable(text))
    else:
        out().print(printable(text), style=style, markup=False, soft_wrap=True)


def _note_on_stderr(text: str) -> None:
    typer.echo(printable(text), err=True)


def _complain_on_stderr(text: str) -> None:
    err().print(f"seaway: {printable(text)}", style="red", markup=False, soft_wrap=True)


note: Callable[[str], None] = _note_on_stderr
"""How a command says what it does; a log that is set up takes it over."""
complain: Callable[[str], None] = _complain_on_stderr
"""How a command says why it ends; a log for machines takes it over."""
also_complain: Callable[[str], None] | None = None
"""Who is told that as well: an application's own log."""


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes longer than two seconds; plain lines where it is no terminal.

    The block is given a call that says how many more are done.
    """
    if sys.stderr.isatty():
        from rich.progress import Progress

        with Progress(console=err(), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, said_at = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said_at
        done += count
        if time.monotonic() - said_at >= 2:
            said_at = time.monotonic()
            note(f"{what}: {done}" + ("" if total is None else f" of {total}"))

    yield advance


@contextmanager
def pace(what: str, doing: Callable[[], str]) -> Iterator[Callable[[int, int], None]]:
    """The same with a rate and the time that is left, and what is waited for (``doing``).

    The block is given a call that says how many are done by now, and of how many.
    """
    begun, first = time.monotonic(), 0

    def said(done: float, total: float | None) -> str:
        """How fast it went, and how long that will last."""
        if waits := doing():
            return waits
        if not first or total is None:
            return ""
        rate = (done - first + 1) / max(time.monotonic() - begun, 0.001)
        left = round((total - done) / rate)
        return f"{rate:.0f}/s, {left // 60}:{left % 60:02d} left"

    if sys.stderr.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.text import Text

        class Said(TextColumn):
            def render(self, task: Any) -> Text:
                return Text(printable(said(task.completed, task.total)))

        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), Said(""))
        with Progress(*columns, console=err(), transient=True) as bar:
            task = bar.add_task(what, total=None)

            def draw(done: int, total: int) -> None:
                nonlocal first
                first = first or done  # Others may have been done before this began.
                bar.update(task, completed=done, total=total)

            yield draw
        return
    said_at = begun

    def show(done: int, total: int) -> None:
        nonlocal first, said_at
        first = first or done
        if time.monotonic() - said_at >= 2:
            said_at = time.monotonic()
            note(f"{what}: {done} of {total}, {said(done, total)}")

    yield show


def print_json(value: Any) -> None:
    """``value`` as indented JSON on stdout; times as RFC 3339."""
    typer.echo(json_text(value, indent=2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """``value`` as JSON in which nothing stands that a terminal would obey."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    # JSON's texts hold no line end of their own.
    return "\n".join(
        line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n")
    )


def _escaped(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]


def json_value(payload: bytes) -> Any:
    """A payload's JSON value; ``ValueError`` where it has none, or one that JSON cannot say again
    (NaN, half a surrogate pair, nested beyond measure)."""
    try:
        value = json.loads(payload.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: payloads and headers are untrusted."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text
    )


def print_fields(title: str, fields: Iterable[tuple[str, str]]) -> None:
    """A titled list of names and values."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        pad_edge=False,
    )
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields:
        table.add_row(name, Text(value))
    out().print(table)


# ------------------------------------------------------------------------------- lists


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """What a list shows of each item. ``rank``: 0 always stays, the highest goes first. ``words``:
    text that may be folded at its blanks, where ``lines`` is not 0 to at most so many lines; the
    last column that is left, at best."""

    title: str
    cell: Callable[[T], str]
    rank: int = 0
    right: bool = False
    words: bool = False
    lines: int = 0


def print_list(
    columns: Sequence[Column[T]],
    items: Sequence[T],
    style: Callable[[T], str] = lambda _: "",
    wide: bool | None = None,
) -> None:
    """Print a line for each of ``items``, under the titles of ``columns``. ``wide``: all columns,
    whatever the terminal has room for; ``None``: the command has no ``--wide``."""
    from rich.cells import cell_len
    from rich.text import Text

    terminal = out().is_terminal
    cells = [[printable(column.cell(item)) for column in columns] for item in items]
    shown, room = list(range(len(columns))), None
    if terminal:
        widths = _widths(columns, cells)
    if terminal and not wide:
        shown, room = _fitting(columns, widths, out().width)
    elif not terminal:
        cells = [["; ".join(cell.split("\n")) for cell in row] for row in cells]
        widths = _widths(columns, cells)

    def line(texts: Sequence[str], style: str) -> None:
        parts = []
        for place, text in zip(shown, texts, strict=True):
            wide = widths[place] if room is None or not columns[place].words else room
            pad = " " * (wide - cell_len(text))
            parts.append(pad + text if columns[place].right else text + pad)
        out().print(Text(_GAP.join(parts).rstrip(), style=style), soft_wrap=True)

    line([columns[place].title for place in shown], "bold")
    for item, row in zip(items, cells, strict=True):
        folded = [_folded(row[place], columns[place], room) for place in shown]
        for index in range(max(map(len, folded))):
            texts = [lines[index] if index < len(lines) else "" for lines in folded]
            line(texts, style(item) if terminal else "")
    if left := [one.title for place, one in enumerate(columns) if place not in shown]:
        option = "" if wide is None else "--wide, "
        err().print(
            f"No room for {', '.join(left)}: {option}a wider terminal, a pipe or --json has all.",
            style="dim",
            markup=False,
        )


def _widths(columns: Sequence[Column[T]], cells: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [
        max(
            [cell_len(column.title)]
            + [cell_len(line) for row in cells for line in row[place].split("\n")]
        )
        for place, column in enumerate(columns)
    ]


def _fitting(
    columns: Sequence[Column[T]], widths: Sequence[int], width: int
) -> tuple[list[int], int | None]:
    """The places of the columns that are shown, and the width of words; ``None``: as they are."""
    shown = list(range(len(columns)))
    while True:
        gaps = len(_GAP) * (len(shown) - 1)
        stiff = gaps + sum(widths[place] for place in shown if not columns[place].words)
        words = [place for place in shown if columns[place].words]
        if stiff + sum(widths[place] for place in words) <= width:
            return shown, None
        room = (width - stiff) // len(words) if words else 0
        if words and room >= _LEAST_WORDS:
            return shown, room
        least = max(shown, key=lambda place: (columns[place].rank, place))
        if columns[least].rank == 0:
            return shown, max(room, _LEAST_WORDS) if words else None
        shown.remove(least)


def _folded(text: str, column: Column[T], room: int | None) -> list[str]:
    lines = text.split("\n")
    if room is None or not column.words:
        return lines
    # A word that is longer than the room may be an id: it stands whole, and sticks out.
    folded = [
        part
        for one in lines
        for part in textwrap.wrap(one, room, break_long_words=False, break_on_hyphens=False) or [""]
    ]
    if not column.lines or len(folded) <= column.lines:
        return folded
    *kept, last = folded[: column.lines]
    whole = last if len(last) < room else last.rpartition(" ")[0]
    return [*kept, f"{whole or last}…"]
