"""``seaway dlq ls --group``: causes instead of letters."""

from __future__ import annotations

from collections.abc import Sequence

from seaway.cli import printing
from seaway.cli.dlq.reporting import event_name
from seaway.cli.printing import Column, print_json, print_list
from seaway.dead_letters.cause import Cause
from seaway.mending import Group
from seaway.words import counted

COLUMNS: Sequence[Column[Group]] = (
    Column("CAUSE", lambda one: one.cause.id),
    Column("LETTERS", lambda one: f"{one.count:,}", right=True),
    Column("EVENT", lambda one: event_name(one.cause.subject), rank=1),
    Column("SAMPLE", lambda one: one.sample, rank=2),
    Column("LAST", lambda one: f"{one.last:%Y-%m-%d %H:%M:%S}", rank=3),
    Column("CONSUMERS", lambda one: "\n".join(_consumers(one)), rank=4),
    Column("FIRST", lambda one: f"{one.first:%Y-%m-%d %H:%M:%S}", rank=5),
    Column("ERROR", lambda one: what(one.cause), words=True),
)


def show(groups: Sequence[Group], *, limit: int, wide: bool, as_json: bool) -> None:
    """Print the causes, the most letters first; at most ``limit`` of them, where it is not 0."""
    shown = groups[:limit] if limit else groups
    if as_json:
        print_json([one.summary() for one in shown])
        return
    if not groups:
        printing.note("No dead letters.")
        return
    print_list(COLUMNS, shown, wide=wide)
    letters = sum(one.count for one in groups)
    more = f"; {len(shown)} are shown: --limit 0" if len(shown) < len(groups) else ""
    printing.note(f"{counted(letters, 'letter')}, {counted(len(groups), 'cause')}{more}.")


def what(cause: Cause) -> str:
    """The error of a cause, and where it was."""
    if not cause.place:
        return cause.error
    return f"{cause.error.rpartition('.')[2]}\n{cause.where}"


def _consumers(group: Group) -> Sequence[str]:
    if len(group.consumers) == 1:
        return list(group.consumers)
    return [f"{name} {count:,}" for name, count in group.consumers.items()]
