"""Django's connections for plain handlers: ``tx=Django(using="default")``.

A delivery's transaction is an ``atomic()`` block on the connection that Django keeps for the
thread, so whatever the ORM does on that alias belongs to it, ``on_commit`` too. The savepoint
inside tells whether the block is still what it was: Django itself rolls back without a word a block
that must be.

Guarantees: connections come and go as around a request, but that ``CONN_MAX_AGE = 0`` keeps a
consumer's; an ``on_commit`` hook that raises is logged, and its delivery is handled all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from django.db import DEFAULT_DB_ALIAS, Error, close_old_connections, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic, TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist

from seaway.databases.engines import SQLITE, Engine
from seaway.databases.queries import RELEASE, SAVE, UNDO, Query, Row, by_name, named
from seaway.databases.tasks import Turns
from seaway.drivers import django as driver
from seaway.drivers import ending, protocols, sqlite_handles
from seaway.drivers.protocols import Errors, translating
from seaway.errors import ConfigError


class DjangoSession:
    """See ``protocols.ThreadSession``. ``handle`` is Django's connection."""

    def __init__(self, handle: BaseDatabaseWrapper, engine: Engine) -> None:
        self.handle = handle
        self.engine = engine
        self._block: Atomic | None = None
        self._cut = self._interrupted = False

    @property
    def lost(self) -> bool:
        below = self.handle.connection
        if self._cut or below is None or self.handle.closed_in_transaction:
            return True
        return bool(getattr(below, "closed", False))

    async def begin(self) -> None:
        """See ``protocols.Session``. On SQLite at once for writing: a reader could not become a
        writer later."""
        block = Atomic(self.handle.alias, savepoint=True, durable=False)
        wrapper: Any = self.handle
        mode = getattr(wrapper, "transaction_mode", None)
        if self.engine is SQLITE:
            wrapper.transaction_mode = "IMMEDIATE"
        try:
            block.__enter__()
        finally:
            if self.engine is SQLITE:
                wrapper.transaction_mode = mode
        self._block = block
        self._run(SAVE)

    async def touched(self, query: Query) -> int:
        if self.engine is SQLITE:
            found: int = self.handle.connection.execute(query.statement, query.parameters).rowcount
            return found
        with self.handle.cursor() as cursor:
            cursor.execute(named(query.statement, "%({})s"), by_name(*query.parameters))
            return int(cursor.rowcount)

    async def rows(self, query: Query) -> Sequence[Row]:
        if self.engine is SQLITE:
            return sqlite_handles.rows(self.handle.connection, query)
        return driver.rows_of_cursor(self.handle, query)

    async def commit(self) -> None:
        if self.handle.needs_rollback:
            raise TransactionManagementError("a part of the block failed that no savepoint undid")
        self._run(RELEASE)
        # After the commit nothing may look as if there had been none: a hook that raises is logged.
        wrapper: Any = self.handle
        wrapper.run_on_commit = [(sids, hook, True) for sids, hook, _ in wrapper.run_on_commit]
        self._leave()

    async def roll_back(self) -> None:
        try:
            if not self._interrupted or self.handle.connection.in_transaction:
                self._run(UNDO)
        finally:
            self._leave(undone=True)

    def interrupt(self) -> None:
        """See ``protocols.ThreadSession``. SQLite ends the whole transaction of a write that it
        interrupts, and the next one would commit by itself: Django is told first that the block
        must be rolled back, and then refuses statements."""
        if self.engine is not SQLITE:
            ending.interrupt(self.handle.connection)
            return
        self._interrupted = self.handle.needs_rollback = True
        with suppress(Exception):
            self.handle.connection.interrupt()

    def cut(self) -> None:
        """See ``protocols.ThreadSession``."""
        self._cut = True
        ending.cut(self.handle.connection)

    def end(self) -> None:
        """Leave the block where that has not been done."""
        if self._block is not None:
            with suppress(Error):
                self._leave(undone=True)

    def _leave(self, *, undone: bool = False) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        if undone:
            block.__exit__(Error, Error(), None)
        else:
            block.__exit__(None, None, None)

    def _run(self, statement: str) -> None:
        """Below Django, which would refuse it in a block that must be rolled back."""
        with self.handle.wrap_database_errors:
            cursor = self.handle.connection.cursor()
            try:
                cursor.execute(statement)
            finally:
                cursor.close()


class Django:
    """Django's database ``using``, for ``tx=`` of a consumer with plain handlers.

    The ORM on that alias is inside the delivery's transaction; ``delivery.tx`` is its connection.
    It must be the database that ``settings.SEAWAY`` (or ``database:``) names. What a handler writes
    through another alias commits by itself.
    """

    plain: ClassVar[bool] = True

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        self.using = using
        self.shown = f"Django's database {using}"
        self._turns: Turns | None = None

    def __repr__(self) -> str:
        return f"Django(using={self.using!r})"

    @property
    def errors(self) -> Errors:
        """See ``protocols.Sessions``."""
        return driver.MEANS

    @property
    def turns(self) -> Turns | None:
        """See ``protocols.ThreadSessions``."""
        if self._turns is None and self._connection().vendor == SQLITE.dialect:
            self._turns = Turns()
        return self._turns

    async def take(self) -> DjangoSession:
        """The thread's own connection, made anew where Django would do so for a request."""
        close_old_connections()
        connection = self._connection()
        engine = driver.known_engine(connection)
        if engine is None:
            raise protocols.unsupported(f"Django's {connection.vendor}")
        with translating(driver.MEANS, self.shown):
            connection.ensure_connection()
        if connection.settings_dict["CONN_MAX_AGE"] == 0:
            connection.close_at = None  # Else each delivery would connect anew.
        return DjangoSession(connection, engine)

    async def give_back(self, session: DjangoSession, *, failed: bool) -> None:
        """See ``protocols.Sessions``."""
        session.end()
        if failed and session.lost:
            session.handle.close()
        close_old_connections()

    async def close(self) -> None:
        """All of the calling thread's, which ends."""
        connections.close_all()

    def _connection(self) -> BaseDatabaseWrapper:
        try:
            return connections[self.using]
        except ConnectionDoesNotExist as error:
            raise ConfigError(
                f"DATABASES has no {self.using!r}", hint=f"it has {', '.join(connections)}"
            ) from error
