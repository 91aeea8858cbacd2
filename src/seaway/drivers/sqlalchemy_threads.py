"""SQLAlchemy's synchronous sessions for plain handlers. As those of ``sqlalchemy``, in the thread
of the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from sqlalchemy import Connection, CursorResult
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session

from seaway.databases.engines import SQLITE, Engine
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row
from seaway.databases.refusals import Refusal
from seaway.databases.tasks import Turns
from seaway.drivers import ending
from seaway.drivers.protocols import SHOWN
from seaway.drivers.sqlalchemy import MEANS, as_text, autocommit, compiled, engine_of, refusal


class AlchemyThreadSession:
    """See ``protocols.ThreadSession``."""

    def __init__(self, handle: Session, engine: Engine) -> None:
        self.handle = handle
        self.engine = engine
        self._connection: Connection | None = None
        self._below: Any = None
        self._interrupted = self._cut = False

    @property
    def lost(self) -> bool:
        return self._cut or (self._connection is not None and self._connection.invalidated)

    async def begin(self) -> None:
        self._connection = self.handle.connection()
        self._below = self._connection.connection.dbapi_connection
        if self.engine is SQLITE and not self._below.in_transaction:
            # The driver begins with the first change, if ever: our savepoint would be the whole
            # transaction then, and its release the commit.
            self.handle.execute(compiled("BEGIN IMMEDIATE"))
        try:
            self.handle.execute(compiled(SAVE))
        except DBAPIError as error:
            if self.engine is SQLITE or refusal(error) is not Refusal.ENDED:
                raise
            raise autocommit() from error

    async def touched(self, query: Query) -> int:
        return self._execute(query).rowcount

    async def rows(self, query: Query) -> Sequence[Row]:
        return self._execute(query).all()

    async def commit(self) -> None:
        """See ``protocols.Session``. Savepoints that the body left open are released."""
        while (nested := self.handle.get_nested_transaction()) is not None:
            nested.commit()
        self.handle.execute(compiled(RELEASE))
        self.handle.commit()

    async def flush(self) -> None:
        """Write what is pending."""
        self.handle.flush()

    async def roll_back(self) -> None:
        try:
            self.handle.execute(compiled(UNDO))
        except DBAPIError as error:
            if not (self._interrupted and refusal(error) is Refusal.ENDED):
                raise
        finally:
            self.handle.rollback()

    def interrupt(self) -> None:
        """See ``protocols.ThreadSession``; on the driver's connection below."""
        self._interrupted = ending.interrupt(self._below)

    def cut(self) -> None:
        """See ``protocols.ThreadSession``; on the driver's connection below."""
        self._cut = True
        ending.cut(self._below)

    def _execute(self, query: Query) -> CursorResult[Any]:
        return cast("CursorResult[Any]", self.handle.execute(*as_text(query)))


class AlchemyThreadSessions:
    """See ``protocols.ThreadSessions``. Of sessions that ``make`` makes; a scoped one is that of
    its thread, also for the application's own code."""

    plain, errors, shown = True, MEANS, SHOWN

    def __init__(self, make: Callable[[], Session] | scoped_session[Session]) -> None:
        self._make = make
        self._turns = Turns()
        self._takes_turns = False

    @property
    def turns(self) -> Turns | None:
        """See ``protocols.ThreadSessions``."""
        return self._turns if self._takes_turns else None

    async def take(self) -> AlchemyThreadSession:
        handle = self._make()
        session = AlchemyThreadSession(handle, engine_of(handle))
        self._takes_turns = session.engine is SQLITE
        return session

    async def give_back(self, session: AlchemyThreadSession, *, failed: bool) -> None:
        handle = session.handle
        try:
            if session.lost:
                handle.invalidate()
            handle.close()
        except (SQLAlchemyError, OSError):
            handle.invalidate()
        if isinstance(self._make, scoped_session):
            self._make.remove()

    async def close(self) -> None:
        """The engine is the user's."""
