"""Handlers that hold up more than their own event.

**An async handler that blocks the event loop** is found by a thread that looks at it from outside.

    thread: asks the loop for a sign of life ──none for a second──> which handler is on its stack
                                             ──at last──> said: who, where, for how many seconds

While it blocks, no other handler runs, no message is kept alive, and the server is not answered.

**A plain handler that does not come back** after its deadline keeps its thread, and whatever it
holds. It is counted, and told of again and again until it comes back.

Owns: what is said of both, and that one thread for each running consumer of async handlers, which
wakes the loop twice a second. Guarantees: what is said of a handler was seen on the stack; a
process that was stopped meanwhile is not taken for a blocked one.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from types import CodeType
from typing import Any

from seaway import logs
from seaway.consumer.callables import name_of, underlying
from seaway.consumer.handlers import HandlerTable, Registration
from seaway.inbox.threads import Carried, Threads
from seaway.telemetry import LoopBlocked, Telemetry, ThreadsLost

logger = logs.logger("seaway.consumer")

_PAUSE_SECONDS = 0.5
_SLICE_SECONDS = 0.25
_SLICES = 4
"""So many in a row without a sign of life. One at most may have passed while all was stopped."""
_STILL_SECONDS = 10.0
_QUIET_SECONDS = 60.0


def _code_of(table: HandlerTable) -> Mapping[CodeType, str]:
    """The code of each handler, and what it is called."""
    found = {}
    for written in table.written():
        code = getattr(inspect.unwrap(underlying(written)), "__code__", None)
        if code is not None:
            found[code] = name_of(written)
    return found


def lookout(
    table: HandlerTable, durable: str, telemetry: Telemetry
) -> AbstractContextManager[None]:
    """Look out for those of ``table`` that block the loop, and tell of them."""

    def tell(handler: str, place: str, seconds: float) -> None:
        telemetry.emit(LoopBlocked(durable, handler, place, seconds))

    return Lookout(_code_of(table), tell).watching()


class LostThreads:
    """Tells of them."""

    def __init__(self, durable: str, threads: Threads, telemetry: Telemetry) -> None:
        self._durable = durable
        self._threads = threads
        self._telemetry = telemetry
        threads.on_lost = self._note

    def remind(self) -> None:
        """Tell of those that are still lost."""
        for job in self._threads.lost:
            name = _name(job)
            reason = f"handler {name} does not come back from its deadline: it is at {job.place}"
            self._telemetry.waiting(f"consumer {self._durable}", f"handler {name}", reason)

    def _note(self, job: Carried[Any]) -> None:
        name, lost = _name(job), self._threads.lost
        if not any(_name(other) == name for other in lost):
            self._telemetry.going_on(f"consumer {self._durable}", f"handler {name}")
        self._telemetry.emit(ThreadsLost(self._durable, name, len(lost)))
        self.remind()


def _name(job: Carried[Any]) -> str:
    at: Registration | None = job.about
    return "(none yet)" if at is None else name_of(at.code)


class Lookout:
    """``handlers``: their code, and what they are called. ``tell``: called on the event loop with
    the handler, where it was, and for how many seconds; for one at most once a minute."""

    def __init__(
        self, handlers: Mapping[CodeType, str], tell: Callable[[str, str, float], object]
    ) -> None:
        self._handlers = handlers
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._quiet: dict[str, float] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look out meanwhile."""
        thread = threading.Thread(target=self._watch, name="seaway-lookout", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self) -> None:
        # Told after the loop is closed, it has nobody to tell.
        with contextlib.suppress(RuntimeError):
            while not self._over.wait(_PAUSE_SECONDS):
                self._ask()

    def _ask(self) -> None:
        asked, lives = monotonic(), threading.Event()
        self._loop.call_soon_threadsafe(lives.set)
        if any(lives.wait(_SLICE_SECONDS) for _ in range(_SLICES)):
            return
        seen = self._look()
        if seen is None:
            return
        handler, place = seen
        if not lives.wait(_STILL_SECONDS):
            logger.warning(
                "handler %s has blocked the event loop for %.0f s and still does, at %s",
                *(handler, monotonic() - asked, place),
            )
            while not lives.wait(_PAUSE_SECONDS):
                if self._over.is_set():
                    return
        now = monotonic()
        if now >= self._quiet.get(handler, 0.0):
            self._quiet[handler] = now + _QUIET_SECONDS
            self._loop.call_soon_threadsafe(self._tell, handler, place, now - asked)

    def _look(self) -> tuple[str, str] | None:
        """The handler on the loop's stack, and the line that it is at."""
        frame = sys._current_frames().get(self._watched)
        while frame is not None:
            if (handler := self._handlers.get(frame.f_code)) is not None:
                return handler, f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return None
