"""Rows to values. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from seaway.contracts import Message, OutboxEntry, Sent
from seaway.headers import StoredHeaders
from seaway.stores.postgres.connection import Row


def entry(row: Row | Sequence[Any]) -> OutboxEntry:
    """An outbox row in the order in which our statements select it."""
    position, event_id, subject, payload, headers, added_at, attempts, error, parked_at, lane = row
    return OutboxEntry(
        position,
        event_id,
        Message(subject, payload, StoredHeaders(headers)),
        added_at,
        attempts,
        error,
        parked_at,
        lane,
    )


def sent(row: Row) -> Sent:
    """A row of ``seaway_sent``: an entry, its stream and sequence."""
    values: tuple[Any, ...] = tuple(row)
    return Sent(entry(values[:-2]), values[-2], values[-1])


def uuids(texts: Iterable[str]) -> list[uuid.UUID]:
    """Those of ``texts`` that can be an event's id at all."""
    found = []
    for text in texts:
        try:
            found.append(uuid.UUID(text))
        except ValueError:
            continue
    return found


def numbers(integers: Iterable[int]) -> str:
    """An array as text, for ``$1::text::bigint[]``: the driver's own arrays look at each member
    several times."""
    return "{" + ",".join(map(str, integers)) + "}"
