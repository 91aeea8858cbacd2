"""An inbox over a user's own kind of handle: one transaction from BEGIN to its end.

    BEGIN; SAVEPOINT ── claim, body ──> RELEASE; COMMIT
                                  └───> ROLLBACK TO; ROLLBACK   (any exception, cancellation)

Owns: the order of things, whichever the driver. Guarantees: committed whole or not at all,
whatever the body does; a body that ends the transaction itself, or passes over a statement that
aborted it, is found out before anything is taken for committed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

from seaway.databases.causes import causes, session_lost
from seaway.databases.ending import to_its_end
from seaway.databases.refusals import Refusal
from seaway.databases.steps import Engine, Query
from seaway.drivers.seam import SHOWN, Errors, Session, Sessions
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.inbox.queries import Queries, queries_of
from seaway.parked import Standing


class Transaction:
    """``contracts.InboxTransaction``."""

    def __init__(self, errors: Errors, session: Session, queries: Queries) -> None:
        self._errors = errors
        self._session = session
        self._queries = queries

    @property
    def handle(self) -> Any:
        """The user's kind of handle, in an open transaction. Not to be committed or rolled back."""
        return self._session.handle

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too."""
        with translating(self._errors):
            query = self._queries.claim(consumer, event_id)
            return await self._session.touched(query) == 1

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows in one statement; those that were new."""
        if len(event_ids) == 1:
            return {event_ids[0]} if await self.claim(consumer, event_ids[0]) else set()
        with translating(self._errors):
            found = await self._session.rows(self._queries.claim_many(consumer, event_ids))
        return {event_id for (event_id,) in found}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now."""
        with translating(self._errors):
            found = await self._session.rows(self._queries.trying(consumer, event_ids))
        return dict(found)

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        with translating(self._errors):
            found = await self._session.rows(self._queries.parked_keys(consumer, keys))
        return {key for (key,) in found}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        query = self._queries.standing(consumer, event_id, key)
        with translating(self._errors):
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
        with translating(self._errors):
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
            raise _explained(self._errors, error) from error


class Inbox:
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

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commit on leaving, roll back on an exception."""
        errors = self._sessions.errors
        async with self._sessions.session() as session:
            with translating(errors):
                await session.begin()
            try:
                yield Transaction(errors, session, self._queries_of(session))
            except BaseException as error:
                # Asked before as well: what was given back says nothing any more.
                lost = session.lost
                intact = await to_its_end(_undo(errors, session))
                refused = _refused(errors, error, lost=lost or session.lost)
                if refused is not None:
                    raise refused from error
                if not intact and _may_hide(error):
                    raise _ended_by_body() from error
                raise
            try:
                await to_its_end(session.commit())
            except Exception as error:
                if errors.refusal(error) is Refusal.OTHER:
                    # A deferred constraint: the body's own doing, and its own error.
                    raise
                raise _explained(errors, error) from error
        if self._committed is not None:
            self._committed()

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
        with translating(self._sessions.errors):
            async with self._sessions.session() as session:
                await session.begin()
                yield session, self._queries_of(session)
                await to_its_end(session.commit())

    def _queries_of(self, session: Session) -> Queries:
        found = self._queries.get(session.engine)
        if found is None:
            found = self._queries[session.engine] = queries_of(session.engine, self._schema)
        return found


@contextmanager
def translating(errors: Errors) -> Iterator[None]:
    """Turns the driver's errors of our own statements into Seaway's."""
    try:
        yield
    except Exception as error:
        if (found := errors.translated(error, SHOWN)) is None:
            raise
        raise found from error


def _refused(errors: Errors, error: BaseException, *, lost: bool) -> SeawayError | None:
    """What the database has to do with it, whatever the body made of that."""
    if not isinstance(error, Exception):
        return None
    if lost:
        return session_lost(SHOWN, error, lambda one: errors.translated(one, SHOWN) is not None)
    for found in causes(error):
        if errors.refusal(found) is Refusal.AWAY:
            said = errors.translated(found, SHOWN)
            return said if isinstance(said, StoreUnavailable) else StoreUnavailable(str(said))
    return None


async def _undo(errors: Errors, session: Session) -> bool:
    """Whether the transaction was still the one that was begun."""
    try:
        await session.roll_back()
    except Exception as error:
        return errors.refusal(error) is not Refusal.ENDED
    return True


def _may_hide(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, StoreUnavailable)


def _explained(errors: Errors, error: Exception) -> BaseException:
    match errors.refusal(error):
        case Refusal.ENDED:
            return _ended_by_body()
        case Refusal.ABORTED:
            return SeawayError(
                "nothing was committed, since a statement had failed before: undo such a part "
                "with a savepoint"
            )
        case _:
            return errors.translated(error, SHOWN) or error


def _ended_by_body() -> ConfigError:
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint="leave commit and rollback to Seaway; use savepoint() to undo a part",
    )
