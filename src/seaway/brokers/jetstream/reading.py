"""Reading what a stream holds, page by page, under a name that a right can be granted to.

Owns: the reader, a consumer that lives for one page (ADR 0013). Guarantees: in order and complete,
whoever else reads under the same name, and whoever dies while reading; nothing is left at the
server while the caller thinks.

    create ──> the server pushes a page to a reply subject of its own ──> delete
       │ the name is taken: another one's page; wait for it
       │    └──> for longer than a page can take: its process is gone, delete it
       └ a page that is not whole (a connection lost, deleted by another) is read again

A pull would need no reply subject, but whoever pulls under a name is given what another one asked
for under it, and cannot tell. What is pushed goes to him alone who created the reader.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime

from seaway import headers as h
from seaway import logs
from seaway.brokers.jetstream.api import (
    CONSUMER_CREATE_FAILED,
    CONSUMER_EXISTS,
    CONSUMER_NAME_IN_USE,
    STREAM_NOT_FOUND,
    Api,
)
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.wire import Frame, incoming_of
from seaway.contracts import JSON, StoredMessage
from seaway.errors import ApiError, BrokerUnavailable, NotFound, NotPermitted
from seaway.naming import reader_name

logger = logs.logger("seaway.nats")

_FIRST_PAGE, _LARGEST_PAGE = 50, 1000
_PAGE_BYTES = 8 * 1024 * 1024
"""About how much a page holds, whatever its messages weigh: the server gives a client that does not
keep up 64 MiB, and then cuts it off."""
_SILENCE_SECONDS = 5.0
"""How long a page may bring nothing until it is given up."""
_TAKEN_SECONDS = 15.0
"""How long a name may be taken until its reader is deleted: longer than a page takes."""
_INACTIVE_NANOSECONDS = 5 * 10**9
"""After which the server itself drops a reader whose process is gone."""
_NEVER_NANOSECONDS = 3600 * 10**9
_TAKEN = frozenset({CONSUMER_EXISTS, CONSUMER_NAME_IN_USE, CONSUMER_CREATE_FAILED})
"""The last is what nats-server 2.9 says, which takes every creation for an update; all say it of
other failures too."""
_PATIENCE_SECONDS = 15.0
"""How long no page may bring anything until the caller is told."""
_POLL_SECONDS = 0.02
_AWAY_SECONDS = 0.2


class Reader:
    """Reads ``stream`` under the name of ``reader``: ``relay``, a durable, ``operator``..."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        reader: str,
        filter_subjects: Sequence[str],
        *,
        headers_only: bool = True,
    ) -> None:
        self._connection = connection
        self._api = Api(connection)
        self._stream = stream
        self._name = reader_name(reader)
        self._size = _FIRST_PAGE
        self._wanted: JSON = {"headers_only": headers_only}
        if len(filter_subjects) == 1:
            self._wanted["filter_subject"] = filter_subjects[0]
        elif filter_subjects:
            self._wanted["filter_subjects"] = list(filter_subjects)

    async def pages(
        self, from_seq: int | None, from_time: datetime | None, last_seq: int
    ) -> AsyncGenerator[Sequence[StoredMessage]]:
        """From a sequence on, else from a time, else from the first message, up to ``last_seq``; no
        page is empty.

        ``NotPermitted`` at once; ``BrokerUnavailable`` where nothing has come for a while.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        while from_seq is None or from_seq <= last_seq:
            page = _Page(self._size)
            try:
                await self._bring(page, from_seq, from_time)
            except NotPermitted:
                raise
            except BrokerUnavailable as error:
                # A server's restart, or its leader's: what came by now is whole.
                if loop.time() - since > _PATIENCE_SECONDS:
                    raise
                logger.debug("reading %s: %s", self._stream, error)
                await asyncio.sleep(_AWAY_SECONDS)
            found = [one for one in page.messages if one.stream_seq <= last_seq]
            if found:
                since, from_seq = loop.time(), found[-1].stream_seq + 1
                fitting = _PAGE_BYTES * len(found) // max(1, page.bytes)
                self._size = max(1, min(_LARGEST_PAGE, fitting))
                yield found
                since = loop.time()
            if page.ended or len(found) < len(page.messages):
                return
            if loop.time() - since > _PATIENCE_SECONDS:
                raise BrokerUnavailable(f"reading {self._stream}: nothing comes")

    async def count(self, from_seq: int) -> int:
        """How many messages there are from ``from_seq`` on, at no more cost than a reader."""
        created = await self._create(from_seq, None, self._connection.new_inbox())
        await self._delete()
        return int(created["num_pending"])

    async def _bring(self, page: _Page, from_seq: int | None, from_time: datetime | None) -> None:
        inbox = self._connection.new_inbox()
        unsubscribe = await self._connection.subscribe(inbox, page.on_frame, lost=page.end)
        try:
            created = await self._create(from_seq, from_time, inbox)
            if created["num_pending"] == 0 and created["delivered"]["consumer_seq"] == 0:
                page.ended = True
            else:
                await page.whole()
        finally:
            # Also where we are cancelled: otherwise nobody could read until the server drops it.
            await asyncio.shield(self._leave(unsubscribe))

    async def _leave(self, unsubscribe: Callable[[], Awaitable[None]]) -> None:
        left = await asyncio.gather(self._delete(), unsubscribe(), return_exceptions=True)
        for error in left:
            if isinstance(error, NotPermitted):
                raise error  # Else it would only be found that the name is taken, again and again.

    async def _create(self, from_seq: int | None, from_time: datetime | None, inbox: str) -> JSON:
        config: JSON = self._wanted | {
            "name": self._name,
            "deliver_subject": inbox,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "max_ack_pending": self._size,  # Nothing is acknowledged: so many come, and no more.
            "ack_wait": _NEVER_NANOSECONDS,
            "mem_storage": True,
            "inactive_threshold": _INACTIVE_NANOSECONDS,
        }
        if from_seq is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, from_seq)}
        elif from_time is not None:
            start = h.format_time(from_time)
            config |= {"deliver_policy": "by_start_time", "opt_start_time": start}
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        loop = asyncio.get_running_loop()
        since, deleted = loop.time(), False
        while True:
            try:
                return await self._api.call(f"CONSUMER.CREATE.{self._stream}.{self._name}", body)
            except ApiError as error:
                if error.err_code == STREAM_NOT_FOUND:
                    raise NotFound(f"there is no stream {self._stream}") from error
                if error.err_code not in _TAKEN:
                    raise
                refusal = error
            if loop.time() - since > _TAKEN_SECONDS:
                if refusal.err_code == CONSUMER_CREATE_FAILED and deleted:
                    raise refusal
                deleted = True
                logger.warning("%s on %s was left behind", self._name, self._stream)
                await self._delete()
                since = loop.time()
            await asyncio.sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))

    async def _delete(self) -> None:
        await self._api.find("CONSUMER.DELETE", self._stream, self._name)


class _Page:
    """What one reader has brought, ``size`` at the most. ``ended``: nothing lay behind it."""

    def __init__(self, size: int) -> None:
        self.messages: list[StoredMessage] = []
        self.bytes = 0
        self._size = size
        self.ended = self._over = False
        self._news = asyncio.Event()

    def on_frame(self, frame: Frame) -> None:
        if self._over or frame.status is not None:
            return
        incoming = incoming_of(frame)
        if incoming.consumer_seq != len(self.messages) + 1:
            self.end()  # Something is lacking: what came by now is whole.
            return
        self.messages.append(incoming)
        self.bytes += len(frame.data) + sum(map(len, frame.headers.values()))
        self.ended = incoming.pending == 0
        if self.ended or len(self.messages) == self._size:
            self.end()
        self._news.set()

    def end(self) -> None:
        """Take nothing more."""
        self._over = True
        self._news.set()

    async def whole(self) -> None:
        """Return when it is over, or nothing comes any more."""
        while not self._over:
            self._news.clear()
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self.end()
