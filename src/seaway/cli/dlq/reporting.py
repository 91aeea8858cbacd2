"""Letters as ``seaway dlq`` prints them: with the number of those that wait behind each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import typer

from seaway.cli import printing
from seaway.cli.printing import print_json, printable
from seaway.dead_letters import Letter

Behind: TypeAlias = tuple[Letter, int]
"""A letter, and how many wait behind it."""


def with_behind(letters: Sequence[Letter], waiting: Sequence[Letter]) -> list[Behind]:
    """Each of ``letters`` with how many of the ``waiting`` are behind it."""
    counts = Counter((one.consumer, one.key) for one in waiting)
    return [(one, 0 if one.waits else counts[one.consumer, one.key]) for one in letters]


def print_summaries(found: Sequence[Behind]) -> None:
    """The letters as JSON, without payload and stack."""
    print_json([letter.summary() | {"waiting": behind} for letter, behind in found])


def event_name(subject: str) -> str:
    """An event's subject without its context: ``case_created.v1``; any other as it is."""
    context, separator, name = subject.partition(".event.")
    return name if separator and name and "." not in context else subject


def report(found: Sequence[Behind], what: str, as_json: bool) -> None:
    """Say which letters ``what`` was done to."""
    if as_json:
        print_summaries(found)
        return
    for letter, count in found:
        verb = "follows" if count == 1 else "follow"
        follow = f"  {count} behind it {verb} in order" if count else ""
        typer.echo(printable(f"{letter.id}  {letter.event_id}  {letter.consumer}{follow}"))
    printing.note(f"{len(found)} {what}.")
