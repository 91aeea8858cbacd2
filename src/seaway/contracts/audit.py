"""What was committed and what took effect, as whoever compares it with the streams asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from seaway.contracts.outbox import SentPlace
from seaway.databases.tallies import Tally, Window


class Committed(NamedTuple):
    """What the outbox knows of an event: its place, or 0 while it waits and ``GIVEN_UP``."""

    stream: str
    stream_seq: int


class AuditStore(Protocol):
    """Reading only, but for ``moved``. Each call reads what its bounds say, and no more."""

    async def writes(self, stream: str, context: str) -> bool:
        """Whether any event of this database's outbox was sent to ``stream``, or waits for it."""
        ...

    async def last_place(self, stream: str) -> int:
        """The highest place that ``stream`` has acknowledged, as far as retention knows; 0 where it
        knows none."""
        ...

    async def tally_sent(
        self, stream: str, first: int, last: int, window: Window
    ) -> Mapping[int, Tally]:
        """The sent events whose place is in ``first..last``, lost ones by the place they had; by
        ``Window.bucket``. Those given up have none."""
        ...

    async def sent_places(self, stream: str, first: int, last: int) -> Sequence[SentPlace]:
        """The same, singly, by place. What is known to be lost, and is not published again yet,
        has ``-2 - place``."""
        ...

    async def committed(self, event_ids: Sequence[str]) -> Mapping[str, Committed]:
        """Those of ``event_ids`` that the outbox has, or had and retention still keeps."""
        ...

    async def moved(self, event_id: str, stream: str, old: int, new: int) -> bool:
        """Note that a sent event was published again, and lies at ``new``; whether it was known to
        lie at ``old`` (lost: as it is stored)."""
        ...

    async def has_effects(self, consumer: str) -> bool:
        """Whether this inbox has any row of ``consumer``."""
        ...

    async def tally_processed(self, window: Window) -> Mapping[str, Mapping[int, Tally]]:
        """Of each consumer the ids with effects whose time is in the window, by minute; others are
        left out."""
        ...


def place_of(sent: SentPlace) -> int:
    """The place that it has, or had where its stream has lost it."""
    return -2 - sent.stream_seq if sent.stream_seq < 0 else sent.stream_seq
