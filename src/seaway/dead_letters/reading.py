"""Reading a queue: which letters, in which order, from where on.

Owns: what of a ``Selection`` the server can answer (subjects, a sequence to begin at, a time), and
reading backwards, which it cannot. Guarantees: no more is held than a page of letters, however long
the queue; payloads are read only where they are asked for.

The server reads a stream forwards only. Backwards goes in windows of sequences from the end, each
read forwards and turned round: as wide as the queue is dense there, which the server counts.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta

from seaway.contracts import BrokerAdmin, StoredMessage
from seaway.dead_letters import letter as form
from seaway.dead_letters.letter import Letter
from seaway.dead_letters.selection import Selection
from seaway.errors import ConfigError, NotFound

_LETTER_ID = re.compile(r"([A-Z][A-Z0-9_]*_DLQ):([0-9]{1,19})")
_WINDOW = 500
"""About how many letters a window holds."""
_CLOCKS = timedelta(hours=1)
"""How far the clock of a failing process may be ahead of the server's."""
_TOLD = 100
"""After how many letters looked at somebody is told."""


def unread(count: int) -> None:
    """Nobody wants to know how many were looked at."""


def letter_places(ids: Iterable[str]) -> Sequence[tuple[str, int]]:
    """``(stream, stream_seq)`` of each; empty where one of them is no letter's id."""
    found = [_LETTER_ID.fullmatch(one) for one in dict.fromkeys(ids)]
    places = [(one[1], int(one[2])) for one in found if one is not None]
    return places if len(places) == len(found) else ()


def queues_from(queues: Sequence[str], letter_id: str) -> tuple[Sequence[str], int]:
    """The queues from that of a letter on, and the letter's place in the first of them."""
    [(queue, stream_seq)] = letter_places([letter_id]) or [("", 0)]
    if queue not in queues:
        known = ", ".join(queues) or "there are none"
        raise ConfigError(f"{letter_id!r} is no letter of these queues: {known}")
    return queues[list(queues).index(queue) :], stream_seq


class Reading:
    """Reads those of the letters of a queue that are ``wanted``, under the name of ``reader``.

    ``payload_of`` gives an event's payload, also where its letter only refers to it.
    """

    def __init__(
        self,
        admin: BrokerAdmin,
        reader: str,
        wanted: Selection,
        *,
        payloads: bool,
        payload_of: Callable[[Letter], Awaitable[bytes]],
        advance: Callable[[int], None] = unread,
    ) -> None:
        self._admin = admin
        self._reader = reader
        self._wanted = wanted
        self._payloads = payloads
        self._payload_of = payload_of
        self._advance = advance

    async def of(
        self, queue: str, subjects: Sequence[str] = (), after: int | None = None
    ) -> AsyncGenerator[Letter]:
        """Those with these subjects (none: all) of ``queue``, from behind ``after`` on, the oldest
        first."""
        begin = None if after is None else after + 1
        async with aclosing(self._read(queue, subjects, begin)) as found:
            async for stored in found:
                if (letter := await self.take(stored)) is not None:
                    yield letter

    async def backwards(
        self, queue: str, subjects: Sequence[str] = (), before: int | None = None
    ) -> AsyncGenerator[Letter]:
        """The same from the newest on; only what lies ``before`` a sequence, if that is given."""
        info = await self._admin.stream(queue)
        if info is None or not info.messages:
            return
        first, last = info.first_seq, info.last_seq
        width = max(1, (last - first + 1) * _WINDOW // info.messages)
        if before is not None:
            last = min(last, before - 1)
        behind, since = await self._count(queue, subjects, last + 1), self._from_time()
        while last >= first:
            begin = max(first, last - width + 1)
            held = (here := await self._count(queue, subjects, begin)) - behind
            if held > 2 * _WINDOW and width > 1:
                width = max(1, width * _WINDOW // held)
                continue
            for stored in await self._window(queue, subjects, begin, last) if held else ():
                if since is not None and stored.stored_at < since:
                    return
                if (letter := await self.take(stored)) is not None:
                    yield letter
            last, behind = begin - 1, here
            width *= 4 if held < _WINDOW // 2 else 1

    async def take(self, stored: StoredMessage) -> Letter | None:
        """The letter in a stored message, if it is wanted."""
        if not self._wanted.may_take(stored):
            return None
        bare = not (self._payloads or self._wanted.reads_payloads)
        letter = form.read(stored, bare=bare)
        if not self._wanted.takes(letter):
            return None
        if self._wanted.reads_payloads:
            try:
                if not self._wanted.takes_payload(await self._payload_of(letter)):
                    return None
            except (NotFound, ConfigError):
                return None  # It was left in its stream, and is not there any more.
            if not self._payloads:
                empty = replace(stored, message=replace(stored.message, payload=b""))
                return replace(letter, stored=empty, bare=True)
        return letter

    async def _window(
        self, queue: str, subjects: Sequence[str], begin: int, last: int
    ) -> Sequence[StoredMessage]:
        found: list[StoredMessage] = []
        async with aclosing(self._read(queue, subjects, begin)) as reading:
            async for stored in reading:
                if stored.stream_seq > last:
                    break
                found.append(stored)
        return found[::-1]

    async def _read(
        self, queue: str, subjects: Sequence[str], from_seq: int | None
    ) -> AsyncGenerator[StoredMessage]:
        source = self._admin.read(
            queue,
            filter_subjects=subjects,
            from_seq=from_seq,
            from_time=self._from_time(),
            headers_only=not (self._payloads or self._wanted.reads_payloads),
            reader=self._reader,
        )
        looked_at = 0
        # Left to the garbage collector, a reader abandoned early outlives its connection.
        async with aclosing(source):
            async for stored in source:
                yield stored
                looked_at += 1
                if looked_at == _TOLD:
                    self._advance(looked_at)
                    looked_at = 0
        self._advance(looked_at)

    def _from_time(self) -> datetime | None:
        """A letter is stored after its event failed, by the server's clock."""
        try:
            return None if self._wanted.since is None else self._wanted.since - _CLOCKS
        except OverflowError:
            return None

    async def _count(self, queue: str, subjects: Sequence[str], from_seq: int) -> int:
        return await self._admin.count(
            queue, filter_subjects=subjects, from_seq=from_seq, reader=self._reader
        )
