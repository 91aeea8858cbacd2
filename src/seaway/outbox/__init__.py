"""The outbox's writing side: events become rows in the caller's own transaction.

    your transaction:  INSERT your change  +  Outbox.add  ->  COMMIT  ->  the relay publishes

Owns: what is written, and through which handle. Must not know the relay, the broker or any
configuration. Guarantees: an event is in the outbox if and only if the caller's transaction
commits; all events of a call are written or none; nothing here begins, commits or rolls back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, overload

from seaway.events import RawEvent
from seaway.outbox.encoding import Limits, Wishes, encode
from seaway.outbox.writing import Destination, adapter_for
from seaway.tables import check_schema

if TYPE_CHECKING:
    from seaway.outbox.table import outbox_table
    from seaway.outbox.writing import AsyncHandle, Handle

__all__ = ["Outbox", "outbox_table"]


def __getattr__(name: str) -> Any:
    if name == "outbox_table":
        # Needs SQLAlchemy, which whoever only writes events may not have.
        from seaway.outbox.table import outbox_table

        return outbox_table
    raise AttributeError(f"module {__name__} has no attribute {name}")


class Outbox:
    """Adds events to ``seaway_outbox``. Stateless: one for the process is enough.

    ``app.outbox`` is one with the application's settings. One made by itself reads none: it does
    not know ``database_schema``, ``outbox.max_message_bytes``, ``outbox.notify`` and the streams'
    ``max_msg_size`` of ``seaway.yaml``, and is for writers that have no such file; they give

    - ``max_message_bytes`` (1 MiB, the server's own default): a message with its headers as the
      server counts it; ``limits``: that of single streams (``{"SEA_EVENTS": 65536}``);
    - ``schema`` (the connection's search path), on PostgreSQL: where Seaway's tables are;
    - ``notify`` (false), on PostgreSQL: wake relays that listen when the transaction commits.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int = 1024 * 1024,
        limits: Mapping[str, int] | None = None,
        schema: str | None = None,
        notify: bool = False,
    ) -> None:
        self._limits = Limits(max_message_bytes, dict(limits or {}))
        self._to = Destination(None if schema is None else check_schema(schema), notify)
        self._to_with_own_ids = self._to._replace(own_ids=True)

    @overload
    def add(
        self,
        tx: AsyncHandle,
        *events: object,
        key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Awaitable[list[str]]: ...

    @overload
    def add(
        self,
        tx: Handle,
        *events: object,
        key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]: ...

    def add(
        self,
        tx: Any,
        *events: object,
        key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str] | Awaitable[list[str]]:
        """Write ``events`` (``@event`` instances or ``RawEvent``) in the transaction of ``tx``.

        Returns their event ids in the order given; an asynchronous handle gives an awaitable of
        them. Never commits. ``key`` orders the events among others of the same key (default: the
        subject). Correlation and causation: the argument, else the ``RawEvent``'s own, else the
        running handler's or request's (``seaway.events``); an event that starts a chain has its
        own id as correlation and no causation. ``headers`` come on top of Seaway's own.

        Raises, with nothing written: ``OutsideTransaction`` (begin one), ``EventTooLarge``,
        ``InvalidName``, ``SchemaMismatch`` (run ``seaway db upgrade``), ``StoreUnavailable``
        (roll back, try again; at once where it is ``TransactionConflict``), ``ConfigError`` for
        everything else that the call has wrong, such as an event id that is in the outbox already,
        or was sent and is still kept. Not idempotent: each call is a new event.
        """
        adapter = adapter_for(tx)
        adapter.require_transaction(tx)
        wishes = Wishes(key, correlation_id, causation_id, headers or {})
        rows = encode(events, wishes, self._limits)
        to = self._to
        for one in events:
            if isinstance(one, RawEvent) and one.event_id is not None:
                to = self._to_with_own_ids
        return adapter.insert(tx, rows, to)
