"""The pin of an exclusive durable: which of its pulls the server gives messages to (ADR 0012).

Owns: the pin's id, keeping it, and giving it up. Guarantees: whoever holds it keeps it while the
event loop turns, also with no room for messages; whoever leaves has another one pinned at once.

    no id ──a delivery under a new id──> pinned ──423: another is, or nobody──> no id
                                            └──every second──> a request that takes nothing

The server counts only requests as signs of life. One of a single byte takes no message, whatever
waits. Source: nats-server 2.11 and newer, ADR-42 of NATS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import timedelta

from seaway.brokers.jetstream import wire
from seaway.brokers.jetstream.api import PINNED, Api
from seaway.brokers.jetstream.connection import Connection
from seaway.brokers.jetstream.wire import Frame
from seaway.contracts import JSON
from seaway.errors import ApiError, BrokerUnavailable

WRONG_PIN = "423"
_HEADER = "Nats-Pin-Id"
_EVERY = timedelta(seconds=1)
_TIMEOUT = timedelta(seconds=2)


def pinned_group(config: JSON) -> str | None:
    """The group whose pulls take turns, by the durable's configuration; ``None``: not exclusive."""
    if config.get("priority_policy") != PINNED:
        return None
    return str(config["priority_groups"][0])


class Pin:
    """A pull's part in it. ``inbox``: below it are the subjects that it listens on."""

    def __init__(
        self, connection: Connection, stream: str, durable: str, group: str, inbox: str
    ) -> None:
        self._connection = connection
        self._durable = f"{stream}.{durable}"
        self._group = group
        self._inbox = inbox
        self._keeping: asyncio.Task[None] | None = None
        self.id: str | None = None
        """``None`` while the server does not give messages to this pull."""

    @property
    def terms(self) -> str:
        """What a pull request says of it."""
        group = f',"group":{json.dumps(self._group)}'
        return group if self.id is None else f'{group},"id":{json.dumps(self.id)}'

    @property
    def reply(self) -> str:
        """Where the answers to signs of life go: to each id its own."""
        return f"{self._inbox}.{self.id}"

    def begins(self, frame: Frame) -> bool:
        """Whether this delivery begins a turn. Takes its id out of what are the event's headers."""
        found = frame.headers.get(_HEADER)
        if found is None:
            return False
        frame.headers = {name: value for name, value in frame.headers.items() if name != _HEADER}
        begins, self.id = found != self.id, found
        return begins

    def holds(self, info: JSON) -> bool:
        """Whether it is pinned, by what the server says of the durable."""
        states = info.get("priority_groups") or ()
        return self.id is not None and self.id in (one.get("pinned_client_id") for one in states)

    def open(self) -> None:
        """Show signs of life from now on, while it is held."""
        self._keeping = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Have another pull pinned at once, unless that has happened. Best effort."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self.id is None:
            return
        api = Api(self._connection)
        with contextlib.suppress(BrokerUnavailable, ApiError):
            info = await api.call(f"CONSUMER.INFO.{self._durable}")
            # Another one's pin would be lost to it for nothing.
            if self.holds(info):
                await api.call(f"CONSUMER.UNPIN.{self._durable}", {"group": self._group})

    async def _keep(self) -> None:
        expires = 10**9
        subject = Api(self._connection).subject(f"CONSUMER.MSG.NEXT.{self._durable}")
        while True:
            await asyncio.sleep(_EVERY.total_seconds())
            if self.id is not None:
                body = f'{{"batch":1,"max_bytes":1,"expires":{expires}{self.terms}}}'
                frame = wire.bare(subject, body, self.reply)
                await self._connection.send([frame], timeout=_TIMEOUT)
