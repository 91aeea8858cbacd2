"""What a module of ``seaway.drivers`` gives, so that outbox, inbox and stores work through it.

    HANDLES   a handle's type ──> Writer      what Outbox.add writes through
    SOURCES   a source's type ──> Sessions    what tx= of a consumer takes
    KEPT      a connection's type ──> Sessions over a function that makes such
    MEANS     what its errors mean

Sessions of asynchronous drivers are for ``async`` handlers, ``ThreadSessions`` of the others for
plain ones: the same protocol, by coroutines that never suspend, in the thread that runs them. An
object that is ``ThreadSessions`` itself may be given as ``tx=``.

Types are given as text, module and qualified name (``"asyncpg.pool.Pool"``). Must not import a
driver. What is said of a handle that cannot be used as it is stands at the end, in words that are
the same for every driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard

from seaway.databases import engines
from seaway.databases.engines import Engine
from seaway.databases.queries import Query, Row, Work
from seaway.databases.refusals import Refusal
from seaway.errors import ConfigError, OutsideTransaction, SeawayError

if TYPE_CHECKING:
    from seaway.databases.tasks import Turns

SHOWN = "the consumer's database"
"""How error messages name the database of a user's handle."""


class Errors(NamedTuple):
    """What a driver's errors mean."""

    refusal: Callable[[BaseException], Refusal | None]
    """What the error says, whoever's statement met it; ``None`` where it is not the driver's. The
    network's own errors say nothing here: the body may have met them elsewhere."""
    translated: Callable[[BaseException, str], SeawayError | None]
    """The error of ours for what a statement of ours may meet: the driver's errors, and the
    network's below it. ``None`` for any other."""
    undoing: str
    """What undoes a part of a transaction alone, in the driver's own words."""
    for_frameworks: bool = False
    """Whether a framework over the driver asks here what they mean; else it goes by SQLSTATE."""


class translating:
    """Turns the driver's errors of our own statements into Seaway's."""

    __slots__ = ("_errors", "_where")

    def __init__(self, errors: Errors, where: str) -> None:
        self._errors = errors
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        if (found := self._errors.translated(error, self._where)) is not None:
            raise found from error


class Writer(NamedTuple):
    """How to write through one type of handle, in the transaction that is open on it."""

    errors: Errors
    """What the driver's errors mean that ``run`` throws into its work."""
    require_transaction: Callable[[Any], None]
    """``OutsideTransaction`` unless one is open, ``ConfigError`` for a closed handle."""
    run: Callable[[Any, Work[Any]], Any]
    """Carry work out, awaitable where the handle is asynchronous. The driver's errors are thrown
    into it; nothing is begun, committed or rolled back."""


class Session(Protocol):
    """One connection, given out for one transaction. Raises the driver's own errors."""

    @property
    def handle(self) -> Any:
        """What ``delivery.tx`` is."""
        ...

    @property
    def engine(self) -> Engine:
        """Of the database below."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        ...

    async def begin(self) -> None: ...

    async def touched(self, query: Query) -> int:
        """Run it; how many rows it touched."""
        ...

    async def rows(self, query: Query) -> Sequence[Row]:
        """What it returns."""
        ...

    async def commit(self) -> None:
        """To its end, even when cancelled. Fails, with nothing committed, where the body ended the
        transaction or aborted it."""
        ...

    async def roll_back(self) -> None:
        """To its end, even when cancelled. Fails with ``ENDED`` where the body ended the
        transaction."""
        ...


class Sessions(Protocol):
    """Where sessions come from."""

    @property
    def errors(self) -> Errors:
        """What those of its sessions mean."""
        ...

    @property
    def shown(self) -> str:
        """What errors call the database."""
        ...

    async def take(self) -> Session:
        """A connection of one's own, to be given back.

        Raises Seaway's errors: ``StoreUnavailable``, ``ConfigError`` for what cannot be used.
        """
        ...

    async def give_back(self, session: Any, *, failed: bool) -> None:
        """To its end, even when cancelled. ``failed``: what is open on it has to be ended."""
        ...

    async def close(self) -> None:
        """Close what was opened for them; what is the user's stays open. Idempotent."""
        ...


class ThreadSession(Session, Protocol):
    """A session of a synchronous driver. Its coroutines never suspend: they block.

    All of a session is called in one thread, from ``take`` to ``give_back``, but for the two below,
    which another thread calls while that one may be inside any of the others. So a connection that
    knows its thread (sqlite3's, Django's) is kept for the thread that made it.
    """

    def interrupt(self) -> None:
        """Have the statement that runs now fail (PostgreSQL: a cancel request; SQLite: its
        interrupt). May block for seconds; raises nothing. What is interrupted may be the whole
        transaction: ``roll_back`` after it does not fail with ``ENDED``."""
        ...

    def cut(self) -> None:
        """Take the connection away from a thread that does not come back: nothing commits on it any
        more, and the database drops its locks. As far as the driver lets that be done; raises
        nothing. ``lost`` afterwards."""
        ...


class ThreadSessions(Protocol):
    """``Sessions`` of a synchronous driver: ``take`` and ``give_back`` in the thread of the
    transaction, ``close`` once in each thread at its end."""

    plain: bool
    """True: they are for plain handlers."""

    @property
    def turns(self) -> Turns | None:
        """Of a database with one writer: taken on the event loop before the thread begins.
        ``None`` for others, and before the first session tells."""
        ...

    @property
    def errors(self) -> Errors: ...

    @property
    def shown(self) -> str: ...

    async def take(self) -> ThreadSession: ...

    async def give_back(self, session: Any, *, failed: bool) -> None: ...

    async def close(self) -> None:
        """Close what was opened for the calling thread; what is the user's stays open.
        Idempotent."""
        ...


class Source(Protocol):
    """Connections that are taken and given back, and whose they are."""

    async def take(self) -> Any:
        """One that nobody else has."""
        ...

    async def give_back(self, connection: Any, *, lost: bool = False) -> None:
        """Nothing is open on it any more. ``lost``: it is of no more use."""
        ...

    async def close(self) -> None: ...


def serves_threads(found: object) -> TypeGuard[ThreadSessions]:
    """Whether these are ``ThreadSessions``."""
    return getattr(type(found), "plain", None) is True


class Keeper(Protocol):
    """``Source`` for threads: each connection stays with the thread that made it."""

    def take(self) -> Any:
        """The calling thread's own."""
        ...

    def give_back(self, connection: Any, *, lost: bool = False) -> None:
        """Nothing is open on it any more. ``lost``: it is of no more use."""
        ...

    def close(self) -> None:
        """Close the calling thread's."""
        ...


Handles: TypeAlias = Mapping[str, Writer]
Sources: TypeAlias = Mapping[str, Callable[[Any], "Sessions | ThreadSessions"]]
Kept: TypeAlias = Mapping[str, Callable[[Any], "Sessions | ThreadSessions"]]
"""Over a ``Source``, or for ``ThreadSessions`` over a ``Keeper``."""

# ------------------------------------------------------------------- what is said of a handle

_ALONE = "so the event would not be atomic with your change"


def outside(
    *,
    what: str = "no transaction is open on this connection",
    hint: str = "begin one, and make your change and add the event inside it",
) -> OutsideTransaction:
    """An event that would be atomic with nothing."""
    return OutsideTransaction(f"{what}, {_ALONE}", hint=hint)


def autocommit() -> OutsideTransaction:
    """The same where a transaction seems open, but every statement commits by itself."""
    return OutsideTransaction(
        f"this connection is in autocommit mode, {_ALONE}",
        hint="use one whose isolation level is not AUTOCOMMIT",
    )


def aborted(undoing: str) -> ConfigError:
    """A transaction that can only be rolled back. ``undoing``: see ``Errors``."""
    return ConfigError(
        "the transaction is aborted: a statement before this one failed",
        hint=f"roll back, or put such a statement into {undoing}",
    )


def closed(error: object) -> ConfigError:
    """A handle that cannot write any more."""
    return ConfigError(f"the connection cannot be used: {error}")


def unsupported(what: str) -> ConfigError:
    """A framework's handle on a database that has no outbox here."""
    return ConfigError(f"the outbox cannot write through {what}", hint=f"it takes {engines.SHOWN}")


def nothing_committed(undoing: str) -> str:
    """What is said where a body passed over the failure of a statement."""
    return (
        f"nothing was committed, since a statement had failed before: put such a one into {undoing}"
    )


def ended_by_body(undoing: str) -> ConfigError:
    """What is said to code that ended the transaction that it was given."""
    return ConfigError(
        "the code inside the transaction committed it or rolled it back itself, so its effects "
        "and its inbox row may not agree",
        hint=f"leave commit and rollback to Seaway; a part is undone by {undoing}",
    )
