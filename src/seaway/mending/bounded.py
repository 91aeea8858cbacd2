"""A function called again and again, each time for so long at the most.

    caller ──payload──> thread ──> function (an async one in an event loop of that thread)
                          └─ not back in time: named, left behind, and another takes its place

A thread cannot be ended, and a coroutine may block its loop: so neither runs in the caller's.

Owns: that thread. Guarantees: whoever calls waits no longer than ``within`` and a moment; the end
of the process waits for no call; no more than ``_MOST`` that hang are kept, then nothing more is
called, since each may hold what it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

from seaway.errors import SeawayError

_MOST = 8
_CANCEL_SECONDS = 0.5
"""What a coroutine has to end in once it is cancelled."""
_CLOSE_SECONDS = 1.0


class DoesNotEnd(SeawayError):
    """A call did not end in time."""


class Bounded:
    """Calls of ``function``, one after the other. ``close`` it. ``name``: that of its threads."""

    def __init__(self, function: Callable[..., Any], within: timedelta, *, name: str) -> None:
        self._function = function
        self._within = within.total_seconds()
        self._name = name
        self._hand: _Hand | None = None
        self._hanging: list[_Hand] = []
        self._turn = asyncio.Lock()

    async def __call__(self, *given: Any) -> Any:
        """What it returns or raises; ``DoesNotEnd`` with the line that it is at. One that waits for
        its turn does not wait in its own time."""
        async with self._turn:
            return await self._called(given)

    async def _called(self, given: tuple[Any, ...]) -> Any:
        self._hanging = [hand for hand in self._hanging if hand.busy]
        if len(self._hanging) >= _MOST:
            raise DoesNotEnd(f"not called: {_MOST} calls before it have not come back")
        if self._hand is None:
            self._hand = _Hand(self._function, self._name)
        hand, answer = self._hand, self._hand.take_on(given)
        try:
            await asyncio.wait([answer], timeout=self._within)
            if answer.done():
                return answer.result()
            place = hand.place
            if hand.cancel():
                await asyncio.wait([answer], timeout=_CANCEL_SECONDS)
        finally:
            if not answer.done():
                answer.cancel()
                hand.end()
                self._hanging.append(hand)
                self._hand = None
        if answer.done() and not answer.cancelled():
            answer.exception()  # Seen: it came too late.
        raise DoesNotEnd(f"it did not end within {self._within:g} s{place}")

    async def close(self) -> None:
        """End the thread, unless it hangs. Idempotent."""
        hand, self._hand = self._hand, None
        if hand is not None:
            hand.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await hand.gone.wait()


class _Hand:
    """One thread, and its event loop where one is needed."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[tuple[Any, ...], asyncio.Future[Any]] | None] = SimpleQueue()
        self._task: asyncio.Task[Any] | None = None
        self.busy = False
        self.gone = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name=f"{name} transform", daemon=True)
        self._thread.start()

    def take_on(self, given: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The answer to come."""
        answer = self._loop.create_future()
        self.busy = True
        self._jobs.put((given, answer))
        return answer

    def end(self) -> None:
        """After what it is at."""
        self._jobs.put(None)

    def cancel(self) -> bool:
        """Ask a coroutine to end; whether there is one."""
        if (task := self._task) is None:
            return False
        with contextlib.suppress(RuntimeError):
            task.get_loop().call_soon_threadsafe(task.cancel)
        return True

    @property
    def place(self) -> str:
        """Where it is, as it is told; empty where that cannot be seen."""
        frame = None
        if (task := self._task) is not None:
            frame = next(iter(task.get_stack(limit=1)), None)
        if frame is None and self._thread.ident is not None:
            frame = sys._current_frames().get(self._thread.ident)
        return "" if frame is None else f": it is at {frame.f_code.co_filename}:{frame.f_lineno}"

    def _work(self) -> None:
        with contextlib.ExitStack() as stack:
            runner: asyncio.Runner | None = None
            while (job := self._jobs.get()) is not None:
                given, answer = job
                result = failed = None
                try:
                    result = self._function(*given)
                    if inspect.isawaitable(result):
                        runner = runner or stack.enter_context(asyncio.Runner())
                        result = runner.run(self._awaited(result))
                except Exception as error:
                    failed = error
                except BaseException as error:
                    # Meant for a process or a task, it would end neither, but this thread.
                    failed = RuntimeError(f"it raised {type(error).__name__}")
                    failed.__cause__ = error
                self._task, self.busy = None, False
                self._tell(_settle, answer, result, failed)
                del job, given, answer, result, failed
        self._tell(self.gone.set)

    async def _awaited(self, result: Any) -> Any:
        self._task = asyncio.current_task()
        return await result

    def _tell(self, call: Callable[..., object], *given: object) -> None:
        with contextlib.suppress(RuntimeError):  # The caller's loop is closed: nobody listens.
            self._loop.call_soon_threadsafe(call, *given)


def _settle(answer: asyncio.Future[Any], result: Any, failed: Exception | None) -> None:
    if answer.done():
        return
    if failed is None:
        answer.set_result(result)
    elif isinstance(failed, StopIteration):
        wrapped = RuntimeError("it raised StopIteration")
        wrapped.__cause__ = failed
        answer.set_exception(wrapped)
    else:
        answer.set_exception(failed)
