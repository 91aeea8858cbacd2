"""The threads of a consumer's plain handlers: a transaction is carried through in one of them.

    event loop:  turn ──hop──> thread: BEGIN, claims, handlers, COMMIT ──hop──> settled
                    deadline, cancellation ──revoke──> it cannot commit any more; rolled back
                                                  └─ does not come back: cut off, and replaced

The transaction is the same coroutine as an asynchronous one. None of what it awaits suspends, so
one ``send`` runs it from its beginning to its end, in the thread and under the context variables of
the caller.

Owns: the threads, one for each transaction that is open at once, and who of the two decides:
``seal`` is the thread's last step before the commit, ``revoke`` the event loop's, and the first of
them wins. Guarantees: what was revoked is rolled back, never committed; nobody waits for ever for a
thread that does not come back, neither its worker nor the end of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

from seaway import logs
from seaway.contracts import ThreadInbox, ThreadTransaction
from seaway.databases.tasks import to_its_end
from seaway.errors import SeawayError

T = TypeVar("T")

logger = logs.logger("seaway.consumer")

PATIENCE = timedelta(seconds=5)
_CANCELLED = timedelta(seconds=1)
"""Whoever is cancelled is to end at once, as far as that is possible."""
_CLOSING_SECONDS = 5.0


class Revoked(SeawayError):
    """The transaction was given up from outside before it could commit."""


class Abandoned(TimeoutError):
    """The thread did not come back in time after its transaction was revoked."""


class Carried(Generic[T]):
    """One transaction in a thread. ``through``, ``seal`` are the thread's, the rest the loop's."""

    def __init__(
        self,
        work: Callable[[Carried[T]], Coroutine[Any, Any, T]],
        threads: Threads,
    ) -> None:
        self.context = contextvars.copy_context()
        self.work = work
        self.lock = threading.Lock()
        """Held for an instant only: who decides."""
        self.revoked = self.sealed = self.finished = self.abandoned = False
        self._loop = loop = asyncio.get_running_loop()
        self._threads = threads
        self._tx: ThreadTransaction | None = None
        self._open: ThreadTransaction | None = None
        self._ending: threading.Thread | None = None
        self.about: Any = None
        """What it is at, for whoever tells of it."""
        self.thread = 0
        """Its thread's identity, once that has begun."""
        self._waiter: asyncio.Future[T] = loop.create_future()

    # ------------------------------------------------------------------- in the thread

    @contextmanager
    def through(self, tx: ThreadTransaction) -> Iterator[None]:
        """The body of the transaction ``tx``; left well, it is sealed. ``Revoked`` where the event
        loop came first."""
        with self.lock:
            self._tx = self._open = tx
        try:
            self._require()
            yield
            self._require(seal=True)
        finally:
            with self.lock:
                self._open = None
                ending = self._ending
            if ending is not None:
                # It must not meet the statements of whoever has the connection next.
                ending.join()

    def _require(self, *, seal: bool = False) -> None:
        with self.lock:
            if self.revoked:
                raise Revoked("the transaction was given up")
            self.sealed = seal

    # ------------------------------------------------------------------- on the event loop

    def revoke(self) -> bool:
        """It cannot commit any more, and its statement is ended; false where it came too late."""
        with self.lock:
            return self.revoke_locked()

    def revoke_locked(self) -> bool:
        """The same, for whoever has the lock."""
        if not self.sealed and not self.revoked:
            self.revoked = True
            if self._open is not None:
                self._ending = _beside(self._open.interrupt)
        return self.revoked

    def expire(self, most: timedelta = PATIENCE) -> None:
        """After ``revoke``: whoever waits for the thread, waits no longer than its patience, and
        ``most`` at the most."""
        patience = min(most, self._threads.patience)
        self._loop.call_later(patience.total_seconds(), self._abandon)

    async def outcome(self) -> T:
        """What came of it. Cancelled, it is revoked, or its commit has come to its end."""
        try:
            return await self._waiter
        except asyncio.CancelledError:
            if not self._waiter.cancelled():
                self._waiter.exception()  # Seen: it came together with the cancellation.
            elif not self.finished:
                self._waiter = self._loop.create_future()
                await to_its_end(self._given_up())
            raise

    async def _given_up(self) -> None:
        if self.revoke():
            self.expire(_CANCELLED)
        with suppress(Exception):
            await self._waiter

    def finish(self, result: T | None, error: BaseException | None) -> None:
        """The thread is done with it."""
        self.finished = True
        if self._waiter.done():
            return
        if error is None:
            self._waiter.set_result(result)  # type: ignore[arg-type]
        else:
            self._waiter.set_exception(error)

    def _abandon(self) -> None:
        if self.finished or self.abandoned:
            return
        self.abandoned = True
        self._threads.lose(self)
        if self._tx is not None:
            _beside(self._tx.cut)
        if not self._waiter.done():
            self._waiter.set_exception(Abandoned(f"its thread does not come back: {self.place}"))

    @property
    def place(self) -> str:
        """The line that its thread is at."""
        frame = sys._current_frames().get(self.thread)
        return "it is gone" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _beside(work: Callable[[], None]) -> threading.Thread:
    """Neither the event loop nor the thread that is meant can wait for it."""
    started = threading.Thread(target=work, name="seaway-ending", daemon=True)
    started.start()
    return started


class _Hand:
    """One thread, for one transaction at a time."""

    def __init__(self, threads: Threads, name: str) -> None:
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Carried[Any] | None] = SimpleQueue()
        self._gone = asyncio.Event()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def take_on(self, job: Carried[Any]) -> None:
        """To be done next."""
        self._jobs.put(job)

    async def end(self) -> None:
        """Have it close its connection and end. Not while it is at work."""
        self._jobs.put(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._gone.wait()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result = failed = None
            job.thread = threading.get_ident()
            try:
                result = job.context.run(carried_through, job.work(job))
            except BaseException as error:
                failed = error
            if not self._tell(self._threads._done, self, job, result, failed):
                break
            # While it waits for the next, nothing of this one is kept alive.
            del job, result, failed
        try:
            self._threads._leave()
        except Exception:
            logger.debug("a thread's connection could not be closed", exc_info=True)
        self._tell(self._gone.set)

    def _tell(self, call: Callable[..., object], *given: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(call, *given)
        except RuntimeError:
            return False  # The loop is closed: nobody is there to hear.
        return True


class Threads:
    """The threads of one consumer. ``async with`` them: they end, and close what is theirs.

    ``inbox``: where transactions come from, ``None`` for a consumer without a database.
    """

    def __init__(self, name: str, inbox: ThreadInbox | None) -> None:
        self._name = name
        self.inbox = inbox
        self.patience = PATIENCE
        """How long a thread has to come back once its transaction is revoked."""
        self.lost: list[Carried[Any]] = []
        """Those whose threads do not come back."""
        self.on_lost: Callable[[Carried[Any]], object] = _nobody
        """Called when one of those is lost, or comes back."""
        self._count = 0
        self._idle: list[_Hand] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End those that have nothing to do. Idempotent."""
        idle, self._idle = self._idle, []
        if idle:
            await to_its_end(_all_ended(idle))

    async def carry(self, work: Callable[[Carried[T]], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` gives or raises, carried through in a thread of its own.

        ``work`` must not suspend. ``Abandoned`` where it was revoked and the thread did not come
        back. Cancelled, it is revoked, unless it is sealed; then it comes to its end first.
        """
        turns = None if self.inbox is None else self.inbox.turns
        if turns is None:
            return await self._carry(work)
        async with turns.own():
            return await self._carry(work)

    async def _carry(self, work: Callable[[Carried[T]], Coroutine[Any, Any, T]]) -> T:
        job = Carried(work, self)
        hand = self._idle.pop() if self._idle else self._hired()
        hand.take_on(job)
        return await job.outcome()

    def _hired(self) -> _Hand:
        self._count += 1
        return _Hand(self, f"{self._name} {self._count}")

    def _done(
        self, hand: _Hand, job: Carried[Any], result: Any, error: BaseException | None
    ) -> None:
        if job.abandoned:
            hand._jobs.put(None)  # Another has taken its place.
            self.lost.remove(job)
            self.on_lost(job)
        else:
            self._idle.append(hand)
        job.finish(result, error)

    def lose(self, job: Carried[Any]) -> None:
        """Its thread is not waited for any more."""
        self.lost.append(job)
        self.on_lost(job)

    def _leave(self) -> None:
        """Of the calling thread."""
        if self.inbox is not None:
            carried_through(self.inbox.close())


def _nobody(job: object) -> None:
    """Hears of it."""


async def _all_ended(hands: list[_Hand]) -> None:
    await asyncio.gather(*(hand.end() for hand in hands))


def carried_through(work: Coroutine[Any, Any, T], waits: str = "what runs there") -> T:
    """What ``work`` gives, which never waits: carried through here and now, in this thread.
    ``SeawayError`` where it waits after all; ``waits``: who that is."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise SeawayError(f"{waits} waited for something: in the thread of a plain handler it cannot")
