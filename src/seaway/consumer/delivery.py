"""What a handler is given besides its event."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from seaway.contracts import Incoming, OutboxWriter
from seaway.errors import ConfigError
from seaway.events import Chain, continued
from seaway.headers import Metadata


class Delivery:
    """One attempt to handle one event. Valid only while its handler runs."""

    __slots__ = ("_chain", "_incoming", "_metadata", "_outbox", "_tx")

    def __init__(
        self,
        incoming: Incoming,
        metadata: Metadata,
        tx: Any = None,
        outbox: OutboxWriter | None = None,
        chain: Chain | None = None,
    ) -> None:
        """``chain``: for a delivery among several, whose chain ``add`` continues."""
        self._incoming = incoming
        self._metadata = metadata
        self._tx = tx
        self._outbox = outbox
        self._chain = chain

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.deliveries} of {self.event_id} to {self.consumer}: "
            f"{self.subject}, {self.stream} {self.stream_seq}>"
        )

    @property
    def event_id(self) -> str:
        return self._metadata.event_id

    @property
    def subject(self) -> str:
        """The event's own subject, also where it came by a redrive."""
        return self._incoming.event_subject

    @property
    def stream(self) -> str:
        return self._incoming.stream

    @property
    def stream_seq(self) -> int:
        return self._incoming.stream_seq

    @property
    def consumer(self) -> str:
        return self._incoming.consumer

    @property
    def deliveries(self) -> int:
        """1 at the first attempt. Not counted: attempts that an outage or a conflict between
        transactions undid, and those of a batch that failed for another event's sake.

        It goes on where a process or its connection ends, as far as is known: of attempts that
        ended their process without being noted before, one is counted.
        """
        return self._incoming.deliveries

    @property
    def correlation_id(self) -> str:
        return self._metadata.correlation_id

    @property
    def causation_id(self) -> str | None:
        return self._metadata.causation_id

    @property
    def key(self) -> str | None:
        return self._metadata.key

    @property
    def occurred_at(self) -> datetime | None:
        return self._metadata.occurred_at

    @property
    def stored_at(self) -> datetime:
        return self._incoming.stored_at

    @property
    def headers(self) -> Mapping[str, str]:
        return self._incoming.message.headers

    @property
    def redriven(self) -> bool:
        """Whether it comes from the dead letter queue."""
        return self._incoming.redriven

    @property
    def tx(self) -> Any:
        """The transaction that also holds the inbox row; never commit or roll it back yourself.

        ``ConfigError`` in a consumer without a database.
        """
        if self._tx is None:
            raise ConfigError(f"{self.consumer} has no database: its deliveries have no tx")
        return self._tx

    async def add(
        self,
        *events: object,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Write events to the outbox in this delivery's transaction; their ids in order.

        They carry this event's correlation, and its id as their causation.
        """
        if self._outbox is None:
            raise ConfigError(f"{self.consumer} has no outbox")
        with continued(self._chain):
            added = self._outbox.add(self.tx, *events, key=key, headers=headers)
            return await added if inspect.isawaitable(added) else added
