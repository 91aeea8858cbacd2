"""Lists for people: what a terminal has room for, and a pipe that has it all."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter

import pytest
from rich.console import Console

from seaway.cli import printing
from seaway.cli.printing import Column

COLUMNS: Sequence[Column[Sequence[str]]] = (
    Column("ID", itemgetter(0)),
    Column("WHEN", itemgetter(1), rank=3),
    Column("SUBJECT", itemgetter(2), rank=1),
    Column("KEY", itemgetter(3), rank=2),
    Column("TRIES", itemgetter(4), rank=4, right=True),
    Column("ERROR", itemgetter(5), words=True),
)
EVENT = "0198c6a4-5b7e-7c3d-9f00-000000000001"
ERROR = "ValueError: the amount of case 0198c6a4-5b7e-7c3d-9f00-000000000002 is less than nothing"
ROWS = [
    ("SEA_DLQ:1", "2026-11-28 10:00:00", "sea.event.case_created.v1", EVENT, "1", ERROR),
    ("SEA_DLQ:22", "2026-11-28 10:00:01", "sea.event.x.v1", "kürzer", "20", "two\nlines"),
]
Print = Callable[..., tuple[list[str], str]]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Print:
    def run(
        width: int | None,
        columns: Sequence[Column[Sequence[str]]] = COLUMNS,
        wide: bool | None = None,
    ) -> tuple[list[str], str]:
        out, err = io.StringIO(), io.StringIO()
        terminal = width is not None
        for name, file in (("out", out), ("err", err)):
            console = Console(
                file=file, force_terminal=terminal, width=width or 1_000_000, no_color=True
            )
            monkeypatch.setattr(printing, name, lambda console=console: console)
        printing.print_list(columns, ROWS, wide=wide)
        plain = out.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
        return plain.splitlines(), err.getvalue()

    return run


def test_in_a_pipe_a_row_is_one_line_with_everything(printed: Print) -> None:
    lines, said = printed(None)
    assert len(lines) == 1 + len(ROWS)
    for line, row in zip(lines[1:], ROWS, strict=True):
        for cell in row:
            assert cell.replace("\n", "; ") in line
    assert said == ""


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 300])
def test_ids_are_whole_at_any_width(printed: Print, width: int) -> None:
    lines, said = printed(width)
    assert lines[0].startswith("ID")
    assert "ERROR" in lines[0]
    text = "\n".join(lines)
    assert "SEA_DLQ:22" in text
    assert "0198c6a4-5b7e-7c3d-9f00-000000000002" in text
    assert all(len(line) <= max(width, 10 + 2 + 36) for line in lines)
    for title in ("WHEN", "SUBJECT", "KEY", "TRIES"):
        assert (title in lines[0]) != (title in said)
    if "KEY" in lines[0]:
        assert EVENT in text


def test_all_columns_of_a_list_can_be_had(printed: Print) -> None:
    _, said = printed(60, wide=False)
    assert "--wide" in said
    lines, said = printed(60, wide=True)
    assert said == ""
    for row in ROWS[:1]:
        assert all(cell in lines[1] for cell in row)


def test_words_may_be_cut_to_some_lines(printed: Print) -> None:
    few = [*COLUMNS[:-1], replace(COLUMNS[-1], lines=2)]
    lines, _ = printed(60, few)
    assert [line.endswith("…") for line in lines] == [False, False, True, False, False]
    assert printed(300, few) == printed(300)


def test_what_matters_least_goes_first(printed: Print) -> None:
    shown = [printed(width)[0][0].split() for width in (50, 80, 100, 130, 200)]
    assert shown[0] == ["ID", "ERROR"]
    assert shown[-1] == ["ID", "WHEN", "SUBJECT", "KEY", "TRIES", "ERROR"]
    assert [len(one) for one in shown] == sorted(len(one) for one in shown)


def test_figures_stand_on_the_right(printed: Print) -> None:
    lines, _ = printed(300)
    end = lines[0].index("TRIES") + len("TRIES")
    assert lines[1][:end].endswith(" 1")
    assert lines[2].startswith("SEA_DLQ:22")
    assert " 20" in lines[2][: end + 1]
