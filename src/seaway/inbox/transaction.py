"""One transaction of the consuming service from BEGIN to its end, whichever its handle.

    BEGIN ── body, which claims first ──> COMMIT
                                   └────> ROLLBACK   (any exception, cancellation)

A driver that cannot tell whether its transaction was ended adds a savepoint around the body.

Owns: the order of things, whichever the driver. Guarantees: committed whole or not at all,
whatever the body does; a body that ends the transaction itself, or passes over a statement that
aborted it, is found out before anything is taken for committed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from seaway.databases import times
from seaway.databases.engines import Engine
from seaway.databases.queries import Row, Statements
from seaway.databases.refusals import Refusal, causes, session_lost
from seaway.databases.tasks import Turns
from seaway.drivers.protocols import (
    Session,
    Sessions,
    ThreadSession,
    ThreadSessions,
    ended_by_body,
    nothing_committed,
    translating,
)
from seaway.errors import SeawayError, StoreUnavailable
from seaway.waiting_events import Standing

H = TypeVar("H")
"""The type of the handle."""


class Transaction(Generic[H]):
    """``contracts.InboxTransaction``. Its context is its time: ``async with`` it once."""

    _session: Session
    _sql: Statements

    def __init__(
        self,
        sessions: Sessions | ThreadSessions,
        sql_of: Callable[[Engine], Statements],
        committed: Callable[[], object] | None,
    ) -> None:
        self._sessions = sessions
        self._shown = sessions.shown
        self._sql_of = sql_of
        self._committed = committed

    async def __aenter__(self) -> Self:
        session = self._session = await self._sessions.take()
        self._errors = self._sessions.errors
        try:
            await session.begin()
            self._sql = self._sql_of(session.engine)
        except BaseException as error:
            # Cancelled while BEGIN was under way: it may have begun all the same.
            await self._sessions.give_back(session, failed=True)
            if (found := self._translated(error)) is not None:
                raise found from error
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session, failed = self._session, True
        try:
            if error is not None:
                await self._undo(error)
                return
            try:
                await session.commit()
            except Exception as refused:
                own = self._errors.refusal(refused) is Refusal.OTHER
                if own and not isinstance(self._translated(refused), StoreUnavailable):
                    # A deferred constraint: the body's own doing, and its own error.
                    raise
                raise self._explained(refused) from refused
            failed = False
        finally:
            await self._sessions.give_back(session, failed=failed)
        if self._committed is not None:
            self._committed()

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
            raise ended_by_body(self._errors.undoing) from error

    async def _rolled_back(self) -> bool:
        """Whether the transaction was still the one that was begun."""
        try:
            await self._session.roll_back()
        except Exception as error:
            return self._errors.refusal(error) is not Refusal.ENDED
        return True

    def interrupt(self) -> None:
        """See ``contracts.ThreadTransaction``."""
        cast(ThreadSession, self._session).interrupt()

    def cut(self) -> None:
        """See ``contracts.ThreadTransaction``."""
        cast(ThreadSession, self._session).cut()

    @property
    def handle(self) -> H:
        """The connection or session, in an open transaction. Not to be committed or rolled back."""
        handle: H = self._session.handle
        return handle

    async def claim(self, consumer: str, event_id: str) -> bool:
        """Write the inbox row. False: it was there, so the effects are too.

        Waits for another transaction that has the same row in hand, and for its verdict.
        """
        return await self._touched("claim", consumer=consumer, event_id=event_id) == 1

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        """Write the inbox rows, in one statement where it can give those that were new; these."""
        if len(event_ids) == 1:
            # What most transactions ask: the plain statement costs the server half as much.
            new = await self._touched("claim", consumer=consumer, event_id=event_ids[0])
            return set(event_ids) if new else set()
        # Sorted: two transactions with the same rows in hand wait for each other in one direction.
        ordered = sorted(set(event_ids))
        if "claim_many" not in self._sql:  # Where an INSERT gives no rows.
            return {each for each in ordered if await self.claim(consumer, each)}
        found = await self.rows("claim_many", consumer=consumer, event_ids=ordered)
        return {event_id for (event_id,) in found}

    async def trying(self, consumer: str, event_ids: Sequence[str]) -> Mapping[str, int]:
        """Note that each of these is tried once more; how often by now. Waits like ``claim``."""
        given = {"consumer": consumer, "event_ids": sorted(set(event_ids))}
        if "tried" in self._sql:  # Where an INSERT gives no rows.
            await self._touched("trying", **given)
            return dict(await self.rows("tried", **given))
        return dict(await self.rows("trying", **given))

    async def parked_keys(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Those of ``keys`` of which anything is parked."""
        found = await self.rows("parked_keys", consumer=consumer, keys=list(keys))
        return {key for (key,) in found}

    async def standing(self, consumer: str, event_id: str, key: str) -> Standing:
        """Where an event stands among the parked ones of its key."""
        found = await self.rows("standing", consumer=consumer, event_id=event_id, key=key)
        return Standing.of(consumer, event_id, map(parked, found))

    async def park(
        self, consumer: str, event_id: str, key: str, *, place: int, failed: bool
    ) -> None:
        """Write its row, or make it one without a letter again."""
        own = {"consumer": consumer, "event_id": event_id, "key": key}
        await self._touched("park", **own, place=place, failed=failed)

    async def set_letter(self, consumer: str, event_id: str, letter: int) -> None:
        """Its letter is stored."""
        await self._touched("set_letter", consumer=consumer, event_id=event_id, letter=letter)

    async def release(self, consumer: str, event_ids: Sequence[str]) -> None:
        """Remove their rows. Idempotent."""
        await self._touched("release", consumer=consumer, event_ids=list(event_ids))

    async def unclaim(self, consumer: str, event_ids: Sequence[str]) -> int:
        """Remove their inbox rows; how many there were. Idempotent."""
        return await self._touched("unclaim", consumer=consumer, event_ids=list(event_ids))

    async def check(self) -> None:
        """Raise what a commit would be refused for, as far as that can be told before."""
        if (flush := getattr(self._session, "flush", None)) is not None:  # It keeps things back.
            await flush()
        if "check_deferred" in self._sql:
            try:
                await self._session.touched(self._sql.of("check_deferred", {}))
            except Exception as refused:
                own = self._errors.refusal(refused) is Refusal.OTHER
                if own and not isinstance(self._translated(refused), StoreUnavailable):
                    raise  # As at the commit.
                raise self._explained(refused) from refused

    async def _touched(self, name: str, **given: Any) -> int:
        try:
            return await self._session.touched(self._sql.of(name, given))
        except Exception as error:
            if (found := self._translated(error)) is not None:
                raise found from error
            raise

    async def rows(self, name: str, **given: Any) -> Sequence[Row]:
        """What the inbox's statement ``name`` gives."""
        with translating(self._errors, self._shown):
            return await self._session.rows(self._sql.of(name, given))

    def _explained(self, error: Exception) -> BaseException:
        match self._errors.refusal(error):
            case Refusal.ENDED:
                return ended_by_body(self._errors.undoing)
            case Refusal.ABORTED:
                return SeawayError(nothing_committed(self._errors.undoing))
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
        sessions: Sessions | ThreadSessions,
        schema: str | None = None,
        committed: Callable[[], object] | None = None,
    ) -> None:
        self._sessions = sessions
        self._schema = schema
        self._committed = committed
        self._sql: dict[str, Statements] = {}

    def transaction(self) -> Transaction[H]:
        """Commit on leaving, roll back on an exception."""
        return Transaction(self._sessions, self._sql_of, self._committed)

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        """Those of them that have the consumer's inbox row."""
        async with self._unheard() as opened:
            found = await opened.rows("claimed", consumer=consumer, event_ids=list(event_ids))
        return {event_id for (event_id,) in found}

    async def close(self) -> None:
        """Close what was opened for the inbox; what is the user's stays open. Idempotent."""
        await self._sessions.close()

    def _unheard(self) -> Transaction[H]:
        """A transaction that changes nothing, so nobody is told of it."""
        return Transaction(self._sessions, self._sql_of, None)

    def _sql_of(self, engine: Engine) -> Statements:
        found = self._sql.get(engine.name)
        if found is None:
            found = self._sql[engine.name] = Statements(engine, self._schema)
        return found


class ThreadInbox(Inbox[H]):
    """``contracts.ThreadInbox``, over sessions of a synchronous driver."""

    _sessions: ThreadSessions

    @property
    def turns(self) -> Turns | None:
        """See ``contracts.ThreadInbox``."""
        return self._sessions.turns


def parked(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row of an event that waits, and whether its event is in the inbox, as values."""
    event_id, key, place, failed, letter, parked_at, processed = row
    return event_id, key, place, bool(failed), letter, times.moment(parked_at), bool(processed)
