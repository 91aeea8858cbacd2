"""An inbox for plain handlers as an ordinary one, so that one suite asks the same of both: each
transaction is carried through in a thread, which does there what the test awaits here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any

from seaway.contracts import ThreadInbox, ThreadTransaction
from seaway.inbox.threads import Carried, Threads, carried_through
from seaway.outbox.encoding import OutboxRow
from seaway.outbox.writing import Destination, adapter_for, register

_Step = Callable[[ThreadTransaction], Any]


class _Left(BaseException):
    """The body has ended by this error, here."""


class _Steps:
    """What a thread is to do, in order; ``None``: the body has ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[_Step, asyncio.Future[Any]] | BaseException | None]
        self._queue = SimpleQueue()
        self.begun: asyncio.Future[None] = self._loop.create_future()

    def do(self, step: _Step) -> Awaitable[Any]:
        done: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((step, done))
        return done

    def end(self, error: BaseException | None = None) -> None:
        self._queue.put(error)

    async def work(self, inbox: ThreadInbox, carried: Carried[None]) -> None:
        async with inbox.transaction() as tx:
            with carried.through(tx):
                self._tell(self.begun, None)
                while (given := self._queue.get()) is not None:
                    if isinstance(given, BaseException):
                        raise given
                    step, done = given
                    try:
                        self._tell(done, step(tx))
                    except Exception as error:
                        self._tell(done, error)

    def _tell(self, done: asyncio.Future[Any], result: Any) -> None:
        def set_result() -> None:
            if done.done():
                return
            if isinstance(result, Exception):
                done.set_exception(result)
            else:
                done.set_result(result)

        self._loop.call_soon_threadsafe(set_result)


class ThreadHandle:
    """A handle of a thread's: ``kind.run`` and ``Outbox.add`` reach it there."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def do(self, step: Callable[[Any], Any]) -> Awaitable[Any]:
        return self._steps.do(lambda tx: step(tx.handle))


class _Adapter:
    def require_transaction(self, handle: ThreadHandle) -> None:
        """Asked there."""

    def insert(
        self, handle: ThreadHandle, rows: Sequence[OutboxRow], destination: Destination
    ) -> Any:
        def insert(real: Any) -> Any:
            adapter = adapter_for(real)
            adapter.require_transaction(real)
            return adapter.insert(real, rows, destination)

        return handle.do(insert)


register(ThreadHandle, _Adapter())


class _Transaction:
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps
        self.handle = ThreadHandle(steps)

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any, **more: Any) -> Awaitable[Any]:
            return self._steps.do(lambda tx: carried_through(getattr(tx, name)(*given, **more)))

        return call


class AcrossThreads:
    """``contracts.InboxStore``."""

    def __init__(self, inbox: ThreadInbox) -> None:
        self._inbox = inbox
        self._threads = Threads("test", inbox)
        self._probed = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        if not self._probed:
            self._probed = True
            await self._threads.carry(self._probe)  # As before a consumer's first: turns are known.
        turns = self._inbox.turns
        own = nullcontext() if turns is None else turns.own()
        async with own, self._transaction() as tx:
            yield tx

    async def _probe(self, carried: object) -> None:
        async with self._inbox.transaction():
            pass

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        steps = _Steps()
        # Not carry(): the turn is this task's.
        running = asyncio.ensure_future(self._threads._carry(partial(steps.work, self._inbox)))
        try:
            await asyncio.wait((running, steps.begun), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            yield _Transaction(steps)
        except asyncio.CancelledError:
            running.cancel()
            steps.end(_Left())
            await asyncio.wait([running])
            raise
        except BaseException as error:
            if not running.done():
                steps.end(error)
            await running
            raise AssertionError("it committed") from error
        steps.end()
        await running

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        async def work(_: object) -> set[str]:
            return await self._inbox.claimed(consumer, event_ids)  # type: ignore[attr-defined,no-any-return]

        return await self._threads.carry(work)

    async def close(self) -> None:
        await self._threads.close()
