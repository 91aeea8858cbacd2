"""A trace as lines for people, at 80 columns. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime, timedelta

from seaway.history.trace.tree import DEEP, Row, rows
from seaway.history.trace.values import Trace
from seaway.words import counted

_WIDTH = 80


def span(took: timedelta | None) -> str:
    """``28 ms``, ``1.4 s``, ``3 h``; with ``!`` where it is negative: two clocks differ."""
    if took is None:
        return ""
    seconds = abs(took.total_seconds())
    for least, unit, size in ((86400, "d", 86400), (3600, "h", 3600), (120, "min", 60)):
        if seconds >= least:
            text = f"{seconds / size:.3g} {unit}"
            break
    else:
        text = f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
    return f"-{text} !" if took < timedelta() else f"+{text}"


def clock(at: datetime | None) -> str:
    """The time of day, to the millisecond."""
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}" if at else "-"


def lines(trace: Trace, *, everything: bool = False) -> Iterator[str]:
    """The head, the tree, and what could not be asked."""
    yield f"{trace.correlation_id or trace.wanted}"
    if trace.times is not None:
        first, last = trace.times
        yield (
            f"{counted(len(trace.members), 'event')}, from {first:%Y-%m-%d} {clock(first)} UTC, "
            f"within {span(last - first)[1:]}"
        )
    late = False
    for row in rows(trace, everything=everything):
        yield ""
        indent = "  " * min(row.depth, DEEP)
        for line in _row(row, trace.wanted):
            late = late or line.rstrip().endswith(" !")
            yield f"{indent}{line}"
    if late:
        yield ""
        yield "! earlier than the step before it: the clocks of two stations differ"
    missing = list(unreached(trace))
    if trace.notes or missing:
        yield ""
    yield from trace.notes
    yield from missing


def reached(trace: Trace) -> Iterator[str]:
    """What was searched, how far, and what was not."""
    for name, search in trace.streams.items():
        told = counted(search.headers, "header")
        if search.since is not None and search.until is not None:
            told += (
                f" of {search.since:%Y-%m-%d} {clock(search.since)} to {clock(search.until)} UTC"
            )
        yield f"searched: {name}, {told}"
    if not trace.streams and not trace.unsearched:
        yield "no stream was searched: the configuration names none"
    yield from unreached(trace)


def unreached(trace: Trace) -> Iterator[str]:
    """Stations and streams of which nothing is known."""
    for name, why in trace.away.items():
        yield f"not asked: {name}: {why}"
    reasons: dict[str, list[str]] = {}
    for name, why in trace.unsearched.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        yield f"not searched: {', '.join(names)}: {why}"


def _row(row: Row, wanted: str) -> Iterator[str]:
    one = row.one
    if one is None:
        yield f"{len(row.members)} x {row.members[0].subject or '?'}"
        for state, count in row.states.most_common():
            yield f"  {count} {state}"
        for subject, count in row.below.most_common(5):
            yield f"  and {count} x {subject}, which they led to"
        if row.bad:
            yield f"  {row.bad} of all these need a look: --all shows each"
        return
    yield f"{one.subject or '?'}"
    yield f"  {one.event_id}{'  <- asked for' if one.event_id == wanted else ''}"
    if one.flaw:
        yield f"  {one.flaw}"
    for step in one.steps:
        took = span(step.took)
        yield f"  {clock(step.at):<12}  {step.what:<13} {step.where:<28} {took}".rstrip()
        if step.detail:
            yield from textwrap.wrap(
                step.detail,
                _WIDTH - 18,
                initial_indent=" " * 16,
                subsequent_indent=" " * 16,
                break_long_words=False,
            )
