"""Comparisons for people (rich tables) and for programs (JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.catalogue import Figure
from bench.results import Comparison, Entry


def show(console: Console, comparisons: Sequence[Comparison], rounds: int) -> None:
    """One table for each group."""
    for comparison in comparisons:
        console.print(_table(comparison, rounds))
        console.print()


def _table(comparison: Comparison, rounds: int) -> Table:
    group = comparison.group
    first = group.figures[0]
    table = Table(title=group.title, title_justify="left", title_style="bold", box=None)
    table.add_column("", no_wrap=True)
    table.add_column("events", justify="right")
    for figure in group.figures:
        table.add_column(figure.title, justify="right")
    if rounds > 1:
        table.add_column(f"of {rounds} rounds", justify="right", no_wrap=True)
    if group.subject is not None:
        table.add_column(f"{group.subject} is", justify="right")
    for entry in comparison.entries:
        if entry.error is not None and not entry.values(first.key):
            table.add_row(entry.contender.name, f"{entry.events:,}", Text("failed", style="red"))
            continue
        cells = [entry.contender.name, f"{entry.events:,}"]
        cells += [_written(entry.median(figure.key), figure) for figure in group.figures]
        if rounds > 1:
            cells.append(_spread(entry, first))
        if group.subject is not None:
            ratio = comparison.ratio(entry)
            cells.append("" if ratio is None else f"{ratio:.2f} x")
        table.add_row(*cells)
    return table


def _written(value: float | None, figure: Figure) -> str:
    return "" if value is None else format(value, figure.form)


def _spread(entry: Entry, figure: Figure) -> str:
    values = entry.values(figure.key)
    return f"{_written(min(values), figure)}…{_written(max(values), figure)}"


def as_json(comparisons: Sequence[Comparison]) -> Mapping[str, Any]:
    """Medians, ratios and every round's figures, by group and contender."""
    return {
        comparison.group.name: {
            entry.contender.name: {
                "events": entry.events,
                "median": _medians(entry),
                "subject_is_times": comparison.ratio(entry),
                "rounds": entry.rounds,
                "error": entry.error,
            }
            for entry in comparison.entries
        }
        for comparison in comparisons
    }


def _medians(entry: Entry) -> Mapping[str, float | None]:
    keys = dict.fromkeys(key for figures in entry.rounds if figures for key in figures)
    return {key: entry.median(key) for key in keys}
