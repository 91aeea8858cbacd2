"""How our own transactions begin: each names its isolation level and its settings. Pure.

A role or a database may have defaults that suit the application: another isolation level, read
only, timeouts of a few milliseconds. Under some of them a lease sees an old snapshot and overlooks
events, under others a settlement never comes to its end. ``SET LOCAL`` ends with the transaction,
so nothing of it reaches the next one behind PgBouncer either, and all of it is one round trip.

A handler's transaction is the application's: it keeps the level and the timeouts that the role
has, and names only that it writes (``WRITES``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

WRITES = "BEGIN READ WRITE, NOT DEFERRABLE"
_HAS_TRANSACTION_TIMEOUT = 17


@dataclass(frozen=True, slots=True)
class Begin:
    """``statement`` and ``lock``: how long one statement, and one wait for a lock, may take; zero:
    as long as it takes. ``idle``: the server itself ends a transaction whose process says nothing
    for that long (it was stopped), and with it its locks. ``settings``: any other."""

    statement: timedelta = timedelta(minutes=1)
    lock: timedelta = timedelta(seconds=2)
    idle: timedelta = timedelta(seconds=30)
    writes: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)

    def script(self, server: int, schema: str | None) -> str:
        """For a server of the major version ``server``. Seaway's tables are in ``schema``, which
        our statements name; so nothing else can be found in place of the server's functions."""
        settings = {
            "statement_timeout": _milliseconds(self.statement),
            "lock_timeout": _milliseconds(self.lock),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle),
            **self.settings,
        }
        if server >= _HAS_TRANSACTION_TIMEOUT:
            settings["transaction_timeout"] = "0"
        if schema is not None:
            settings["search_path"] = "pg_catalog"
        mode = "READ WRITE" if self.writes else "READ ONLY"
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED, {mode}, NOT DEFERRABLE"
        return "; ".join([begin, *(f"SET LOCAL {name} = {to}" for name, to in settings.items())])


def _milliseconds(limit: timedelta) -> str:
    return str(limit // timedelta(milliseconds=1))


READING = Begin(writes=False)
WRITING = Begin()
COUNTING = Begin(writes=False, statement=timedelta(minutes=10))
"""May read whole partitions."""
DESCRIBING = Begin(writes=False, settings={"quote_all_identifiers": "off"})
"""What the server says of its tables is compared as text."""

LEASE = Begin(
    settings={
        # The plans of a queue's table must not depend on what ANALYZE last saw of it.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_sort": "off",
        "enable_indexscan": "on",
        "jit": "off",
    }
)
SETTLING = Begin(
    # Less than the patience of whoever waits behind whoever waits for the whole table.
    lock=timedelta(seconds=1),
    # By the primary key: a join over the whole backlog would take seconds.
    settings={
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_indexscan": "on",
        "enable_nestloop": "on",
    },
)
RESHARDING = Begin(statement=timedelta(seconds=90), lock=timedelta(seconds=60))

TAKING_A_TABLE = Begin(statement=timedelta(seconds=2), lock=timedelta(seconds=2))
"""Whoever writes there waits no longer than that."""
DELETING = Begin(
    # Each old row is fetched by its place.
    settings={"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_nestloop": "on"}
)

WAITING_FOR_UPGRADES = Begin(statement=timedelta(), lock=timedelta())
"""Until another process has upgraded the tables."""
