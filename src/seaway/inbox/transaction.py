"""One transaction of the consuming service from BEGIN to its end, whichever its handle.

    BEGIN; SAVEPOINT ── claim, body ──> RELEASE; COMMIT
                                  └───> ROLLBACK TO; ROLLBACK   (any exception, cancellation)

Owns: the order of things, whichever the driver. Guarantees: committed whole or not at all,
whatever the body does; a body that ends the transaction itself, or passes over a statement that
aborted it, is found out before anything is taken for committed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from types import TracebackType
from typing import Generic, Self, TypeVar

from seaway.databases.causes import causes, session_lost
from seaway.databases.refusals import Refusal
from seaway.databases.steps import Engine, Query
from seaway.drivers.seam import Session, Sessions, translating
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.inbox.queries import Queries, queries_of
from seaway.parked import Standing

H = TypeVar("H")
"""The type of the handle."""


class Transaction(Generic[H]):
    """``contracts.InboxTransaction``. Its context is its time: ``async with`` it once."""

    _session: Session
    _queries: Queries

    def __init__(
        self,
        sessions: Sessions,
        queries_of: Callable[[Session], Queries],
        committed: Callable[[], None] | None,
    ) -> None:
        self._sessions = sessions
        self._errors = sessions.errors
        self._shown = sessions.shown
        self._queries_of = queries_of
        self._committed = committed

    async def __aenter__(self) -> Self:
        session = await self._sessions.take()
        try:
            with translating(self._errors, self._shown):
                await session.begin()
            self._queries = self._queries_of(session)
        except BaseException:
            # Cancelled while BEGIN was under way: it may have begun all the same.
            await self._sessions.give_back(session, failed=True)
            raise
        self._session = session
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        failed = True
        try:
            if error is not None:
                await self._undo(error)
                return
            await self._commit()
            failed = False
        finally:
            await self._sessions.give_back(self._session, failed=failed)
        if self._committed is not None:
            self._committed()

    async def _commit(self) -> None:
        try:
            await self._session.commit()
        except Exception as error:
            own = self._errors.refusal(error) is Refusal.OTHER
            if own and not isinstance(self._translated(error), StoreUnavailable):
                # A deferred constraint: the body's own doing, and its own error.
                raise
            raise self._explained(error) from error

    async def _undo(self, error: BaseException) -> None:
        session = self._session
        # Asked before as well: what was given back says nothing any more.
        lost = session.lost
        intact = await self._rolled_back()
        if not isinstance(error, Exception):
            return
        if lost or session.lost:
            said = session_lost(self._shown, error, lambda one: self._translated(one) is not None)
            raise said from error
        for found in causes(error):
            # Whatever the body made of it.
            if self._errors.refusal(found) is Refusal.AWAY:
                raise self._unavailable(found) from error
        if not intact and not isinstance(error, StoreUnavailable):
            raise _ended_by_body() from error

    async def _rolled_back(self) -> bool:
        """Whether the transaction was still the one that was begun."""
        try:
            await self._session.roll_back()
        except Exception as error:
            return self._errors.refusal(error) is not Refusal.ENDED
        return True

    @property
    def handle(self) -> H:
        """The connection or session, in an open transaction. Not to be committed or rolled back."""
        handle: H = self._session.handle
        return handle

    @property
    def asked(self) -> tuple[Session, Queries]:
        """For what ``InboxStore`` asks."""
        return self._session, self._queries

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too."""
        with translating(self._errors, self._shown):
            query = self._queries.claim(consumer, event_id)
            return await self._session.touched(query) == 1

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows in one statement; those that were new."""
        if len(event_ids) == 1:
            return {event_ids[0]} if await self.claim(consumer, event_ids[0]) else set()
        with translating(self._errors, self._shown):
            found = await self._session.rows(self._queries.claim_many(consumer, event_ids))
        return {event_id for (event_id,) in found}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now."""
        with translating(self._errors, self._shown):
            found = await self._session.rows(self._queries.trying(consumer, event_ids))
        return dict(found)

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        with translating(self._errors, self._shown):
            found = await self._session.rows(self._queries.parked_keys(consumer, keys))
        return {key for (key,) in found}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        query = self._queries.standing(consumer, event_id, key)
        with translating(self._errors, self._shown):
            found = await self._session.rows(query)
        return Standing.of(consumer, event_id, self._queries.parked(found))

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, or make it one without a letter again."""
        await self._touch(self._queries.park(consumer, event_id, key, place, failed))

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored."""
        await self._touch(self._queries.set_letter(consumer, event_id, letter))

    async def release(self, consumer: str, event_id: str) -> None:
        """Remove its row. Idempotent."""
        await self._touch(self._queries.release(consumer, event_id))

    async def _touch(self, query: Query) -> None:
        with translating(self._errors, self._shown):
            await self._session.touched(query)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Part of the transaction that an exception undoes alone. May be nested."""
        failure: BaseException | None = None
        try:
            async with self._session.savepoint():
                try:
                    yield
                except BaseException as error:
                    failure = error
                    raise
        except Exception as error:
            if error is failure:
                raise
            # The savepoint's own: it is part of a transaction that is not as it should be.
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> BaseException:
        match self._errors.refusal(error):
            case Refusal.ENDED:
                return _ended_by_body()
            case Refusal.ABORTED:
                return SeawayError(
                    "nothing was committed, since a statement had failed before: undo such a part "
                    "with a savepoint"
                )
            case _:
                return self._translated(error) or error

    def _unavailable(self, error: BaseException) -> StoreUnavailable:
        said = self._translated(error)
        return said if isinstance(said, StoreUnavailable) else StoreUnavailable(str(said))

    def _translated(self, error: BaseException) -> SeawayError | None:
        return self._errors.translated(error, self._shown)


class Inbox(Generic[H]):
    """``contracts.InboxStore``. ``schema``: where Seaway's tables are, default where the connection
    looks. ``committed`` is called after each commit."""

    def __init__(
        self,
        sessions: Sessions,
        schema: str | None = None,
        committed: Callable[[], None] | None = None,
    ) -> None:
        self._sessions = sessions
        self._schema = schema
        self._committed = committed
        self._queries: dict[Engine, Queries] = {}

    def transaction(self) -> Transaction[H]:
        """Commit on leaving, roll back on an exception."""
        return Transaction(self._sessions, self._queries_of, self._committed)

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        async with self._own() as (session, queries):
            return queries.moments(await session.rows(queries.processed(event_id)))

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        async with self._own() as (session, queries):
            found = await session.rows(queries.claimed(consumer, event_ids))
        return {event_id for (event_id,) in found}

    async def close(self) -> None:
        """Close what was opened for the inbox; what is the user's stays open. Idempotent."""
        await self._sessions.close()

    @asynccontextmanager
    async def _own(self) -> AsyncIterator[tuple[Session, Queries]]:
        """A transaction of which nobody is told."""
        opened: Transaction[H] = Transaction(self._sessions, self._queries_of, None)
        async with opened:
            with translating(self._sessions.errors, self._sessions.shown):
                yield opened.asked

    def _queries_of(self, session: Session) -> Queries:
        found = self._queries.get(session.engine)
        if found is None:
            found = self._queries[session.engine] = queries_of(session.engine, self._schema)
        return found


def _ended_by_body() -> ConfigError:
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint="leave commit and rollback to Seaway; use savepoint() to undo a part",
    )
