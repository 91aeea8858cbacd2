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
from seaway.databases.savepoints import NOTHING_COMMITTED, ended_by_body, undoing
from seaway.errors import SeawayError, StoreUnavailable
from seaway.inbox.driver import SHOWN, Driver, Refusal, Session
from seaway.inbox.queries import Query
from seaway.parked import Standing


class Transaction:
    """``contracts.InboxTransaction``."""

    def __init__(self, driver: Driver, session: Session) -> None:
        self._driver = driver
        self._session = session

    @property
    def handle(self) -> Any:
        """The user's kind of handle, in an open transaction. Not to be committed or rolled back."""
        return self._session.handle

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too."""
        with translating(self._driver):
            query = self._session.queries.claim(consumer, event_id)
            return await self._session.touched(query) == 1

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows in one statement; those that were new."""
        if len(event_ids) == 1:
            return {event_ids[0]} if await self.claim(consumer, event_ids[0]) else set()
        with translating(self._driver):
            found = await self._session.rows(self._session.queries.claim_many(consumer, event_ids))
        return {event_id for (event_id,) in found}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now."""
        with translating(self._driver):
            found = await self._session.rows(self._session.queries.trying(consumer, event_ids))
        return dict(found)

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        with translating(self._driver):
            found = await self._session.rows(self._session.queries.parked_keys(consumer, keys))
        return {key for (key,) in found}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        queries = self._session.queries
        with translating(self._driver):
            found = await self._session.rows(queries.standing(consumer, event_id, key))
        return Standing.of(consumer, event_id, queries.parked(found))

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, or make it one without a letter again."""
        await self._touch(self._session.queries.park(consumer, event_id, key, place, failed))

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored."""
        await self._touch(self._session.queries.set_letter(consumer, event_id, letter))

    async def release(self, consumer: str, event_id: str) -> None:
        """Remove its row. Idempotent."""
        await self._touch(self._session.queries.release(consumer, event_id))

    async def _touch(self, query: Query) -> None:
        with translating(self._driver):
            await self._session.touched(query)


class Inbox:
    """``contracts.InboxStore``. ``committed`` is called after each commit."""

    def __init__(self, driver: Driver, committed: Callable[[], None] | None = None) -> None:
        self._driver = driver
        self._committed = committed

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commit on leaving, roll back on an exception."""
        driver = self._driver
        async with driver.session() as session:
            with translating(driver):
                await session.begin()
            try:
                yield Transaction(driver, session)
            except BaseException as error:
                # Asked before as well: what was given back says nothing any more.
                lost = session.lost
                intact = await to_its_end(_undo(driver, session))
                refused = _refused(driver, error, lost=lost or session.lost)
                if refused is not None:
                    raise refused from error
                if not intact and _may_hide(error):
                    raise ended_by_body(session.handle) from error
                raise
            try:
                await to_its_end(session.commit())
            except Exception as error:
                if driver.refusal(error) is Refusal.OTHER:
                    # A deferred constraint: the body's own doing, and its own error.
                    raise
                raise _explained(driver, session.handle, error) from error
        if self._committed is not None:
            self._committed()

    async def processed(self, event_id: str) -> Mapping[str, datetime]:
        """Which consumers have this event's effects, and since when."""
        async with self._own() as session:
            return session.queries.moments(await session.rows(session.queries.processed(event_id)))

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        async with self._own() as session:
            found = await session.rows(session.queries.claimed(consumer, event_ids))
        return {event_id for (event_id,) in found}

    async def close(self) -> None:
        """Close what was opened for the inbox; what is the user's stays open. Idempotent."""
        await self._driver.close()

    @asynccontextmanager
    async def _own(self) -> AsyncIterator[Session]:
        with translating(self._driver):
            async with self._driver.session() as session:
                await session.begin()
                yield session
                await to_its_end(session.commit())


@contextmanager
def translating(driver: Driver) -> Iterator[None]:
    """Turns the driver's errors of our own statements into Seaway's."""
    try:
        yield
    except Exception as error:
        if not driver.caused(error):
            raise
        raise driver.translated(error) from error


def _refused(driver: Driver, error: BaseException, *, lost: bool) -> SeawayError | None:
    """What the database has to do with it, whatever the body made of that."""
    if not isinstance(error, Exception):
        return None
    if lost:
        return session_lost(SHOWN, error, driver.caused)
    for found in causes(error):
        if driver.refusal(found) is Refusal.AWAY:
            return _unavailable(driver, found)
    return None


def _unavailable(driver: Driver, error: BaseException) -> StoreUnavailable:
    found = driver.translated(error)
    return found if isinstance(found, StoreUnavailable) else StoreUnavailable(str(found))


async def _undo(driver: Driver, session: Session) -> bool:
    """Whether the transaction was still the one that was begun."""
    try:
        await session.roll_back()
    except Exception as error:
        return driver.refusal(error) is not Refusal.ENDED
    return True


def _may_hide(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, StoreUnavailable)


def _explained(driver: Driver, handle: object, error: Exception) -> BaseException:
    match driver.refusal(error):
        case Refusal.ENDED:
            return ended_by_body(handle)
        case Refusal.ABORTED:
            return SeawayError(f"{NOTHING_COMMITTED}: put such a one into {undoing(handle)}")
        case _:
            return driver.translated(error) if driver.caused(error) else error
