"""What a driver family has to give, so that an inbox works over its handles.

Owns: the seam, and the savepoint that spans a transaction. Must not import a driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from typing import Any, Protocol

from seaway.databases import sqlstates
from seaway.errors import SeawayError, StoreUnavailable
from seaway.inbox.queries import Queries, Query

GUARD = "seaway_transaction"
"""Dies with any COMMIT or ROLLBACK inside the transaction that it spans."""
SAVE = f"SAVEPOINT {GUARD}"
RELEASE = f"RELEASE SAVEPOINT {GUARD}"
UNDO = f"ROLLBACK TO SAVEPOINT {GUARD}"
SHOWN = "the consumer's database"


class Refusal(Enum):
    """What a driver's error says of the transaction."""

    AWAY = auto()
    """The database is away, or ended the transaction for another's sake: the same may succeed."""
    ENDED = auto()
    """The transaction is not the one that was begun."""
    ABORTED = auto()
    """A statement had failed before, so nothing can be committed."""
    OTHER = auto()
    """The statement's own fault."""


def sqlstate(error: BaseException) -> str:
    """The error's SQLSTATE, whichever driver brings it; empty where it has none."""
    return str(getattr(error, "sqlstate", None) or "")


def refusal(sqlstate: str) -> Refusal:
    """What PostgreSQL's refusals say."""
    if sqlstates.is_transient(sqlstate):
        return Refusal.AWAY
    if sqlstate in sqlstates.GONE:
        return Refusal.ENDED
    return Refusal.ABORTED if sqlstate == sqlstates.ABORTED else Refusal.OTHER


def translated(error: BaseException, *, away: bool) -> SeawayError:
    """Of PostgreSQL's refusals; ``away``: what is meant where there is no SQLSTATE."""
    code, said = sqlstate(error), str(error) or type(error).__name__
    if away and not code:
        return StoreUnavailable(f"{SHOWN}: {said}")
    return sqlstates.translated(code, said, SHOWN)


class Session(Protocol):
    """One connection, given out for one transaction. Raises the driver's own errors."""

    @property
    def handle(self) -> Any:
        """What ``delivery.tx`` is."""
        ...

    @property
    def queries(self) -> Queries:
        """Of the engine below."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        ...

    async def begin(self) -> None: ...

    async def touched(self, query: Query) -> int:
        """Run it; how many rows it touched."""
        ...

    async def rows(self, query: Query) -> Sequence[tuple[Any, ...]]:
        """What it returns."""
        ...

    async def commit(self) -> None:
        """Fails, with nothing committed, where the body ended the transaction or aborted it."""
        ...

    async def roll_back(self) -> None:
        """Fails with ``ENDED`` where the body ended the transaction."""
        ...


class Driver(Protocol):
    """One kind of handle, and where it comes from."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """A connection of one's own; nothing that was open on it stays open afterwards."""
        ...

    def caused(self, error: BaseException) -> bool:
        """Whether a statement of ours may raise this: the driver's, or the network's below it."""
        ...

    def refusal(self, error: BaseException) -> Refusal | None:
        """What the error says, whoever's statement met it; ``None`` where it is not the driver's.

        The network's own errors say nothing here: the body may have met them elsewhere.
        """
        ...

    def translated(self, error: BaseException) -> SeawayError:
        """The error of ours for one that was ``caused`` by a statement of ours."""
        ...

    async def close(self) -> None:
        """Close what was opened for the inbox; what is the user's stays open. Idempotent."""
        ...
