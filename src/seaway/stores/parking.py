"""Rows of ``seaway_parked`` as values. Pure; the engines' statements select the same columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from seaway.contracts import ParkedEvent, Standing


def parked(consumer: str, row: Sequence[Any]) -> ParkedEvent:
    """``(event_id, ordering_key, place, failed, letter, parked_at, processed)``."""
    return ParkedEvent(consumer, *row)


def standing(consumer: str, event_id: str, rows: Iterable[Sequence[Any]]) -> Standing:
    """What ``standing`` selects: an event's own row and its key's first, in order of their places,
    each with whether the event (not the row's) is in the inbox."""
    found = list(rows)
    if not found:
        return Standing()
    *_, processed = found[0]
    own = first = None
    for *columns, _ in found:
        if columns[0] == event_id:
            own = parked(consumer, [*columns, processed])
        if first is None and (columns[0] != event_id or not processed):
            first = parked(consumer, [*columns, False])
    return Standing(processed, own, first)
