"""What a handler is given besides its event."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from seaway.chain import Chain, continued
from seaway.contracts import OutboxWriter
from seaway.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One attempt to handle one event. Valid only while its handler runs."""

    event_id: str
    subject: str
    """The event's own subject, also where it came by a redrive."""
    stream: str
    stream_seq: int
    consumer: str
    deliveries: int
    """1 at the first attempt. Not counted: attempts that an outage or a conflict between
    transactions undid, and those of a batch that failed for another event's sake."""
    correlation_id: str
    causation_id: str | None
    key: str | None
    occurred_at: datetime | None
    stored_at: datetime
    headers: Mapping[str, str]
    redriven: bool
    """Whether it comes from the dead letter queue."""
    _tx: Any = field(default=None, repr=False)
    _outbox: OutboxWriter | None = field(default=None, repr=False)
    _chain: Chain | None = field(default=None, repr=False)
    """For a delivery among several: whose chain ``add`` continues."""

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
