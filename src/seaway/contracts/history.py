"""What a database still knows of single events, for whoever asks what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """An event as the outbox has it, or what was sent; without its payload.

    In the outbox: ``stream`` is ``None``. ``behind``: the parked event of its key before it. Sent:
    ``stream`` and ``stream_seq`` as in ``Sent``; ``healed_at``: when it was published again because
    its stream had lost it.
    """

    position: int
    event_id: str
    subject: str
    key: str
    headers: Mapping[str, str]
    added_at: datetime
    attempts: int
    last_error: str | None
    parked_at: datetime | None
    behind: str | None
    stream: str | None
    stream_seq: int
    sent_at: datetime | None
    healed_at: datetime | None


class InboxRow(NamedTuple):
    """A row of the inbox as it stands there; those of letters have names and ids of their own
    (``seaway.inbox.letters``)."""

    consumer: str
    event_id: str
    at: datetime


class Unhandled(NamedTuple):
    """An event without effect that a consumer has tried, or that waits in its queue.

    ``behind``: the event of its key that the consumer has to be done with first; ``None`` where
    that is itself. ``letter``: its number in the queue.
    """

    consumer: str
    event_id: str
    waiting: bool
    tries: int
    letter: int | None
    at: datetime
    behind: str | None


class HistoryStore(Protocol):
    """The looking side of outbox and inbox, by event."""

    async def history(self, event_ids: Sequence[str]) -> Sequence[Kept]:
        """Those of them that the outbox has, or had within retention. Ids that are no UUID are
        none of an outbox's."""
        ...

    async def history_of(
        self, correlation_id: str, *, after: int = 0, limit: int = 10_000
    ) -> Sequence[Kept]:
        """The events of one chain, with the one that started it, by position, from behind
        ``after`` on."""
        ...

    async def rows_of(self, event_ids: Sequence[str]) -> Sequence[InboxRow]:
        """Every row of these events, of whichever consumer."""
        ...

    async def unhandled(self, event_ids: Sequence[str]) -> Sequence[Unhandled]:
        """What is noted of these events besides the inbox."""
        ...
