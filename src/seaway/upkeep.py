"""What a process does for its database besides its work: tells who is here, drops what is old.

Owns: when that is done. What is waited for, ``Telemetry`` knows; how rows are dropped, the store.
Guarantees: best effort and no more: a database that is away, locked or refuses costs this process
nothing and stops nothing, and is said once; at an orderly end nothing is left behind, and what a
killed process leaves is known by its silence.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from seaway import logs
from seaway.contracts import SILENT, Notice, ProcessStore, Store
from seaway.errors import SeawayError, TransientError
from seaway.process import this_process
from seaway.telemetry import Telemetry
from seaway.waiting import done_before, set_within

logger = logs.logger("seaway")
inbox_logger = logs.logger("seaway.inbox")

EVERY = timedelta(minutes=10)
_JITTER = 0.2
LOOK = timedelta(seconds=2)
"""How often to see whether anything waits that did not before, or goes on."""
RENEW = SILENT / 3
PATIENCE = timedelta(seconds=2)
_MOST_WAITS = 50
_MOST_TEXT = 500
_MOST_NAME = 100


class Forgetting:
    """Drops inbox rows older than ``retention`` (``None``: none), and discarded letters whose time
    has passed, at once and then every ten minutes or so.

    Any number of processes may: they do not do so in step, and a store lets one at a time.
    """

    def __init__(
        self, store: Store, retention: timedelta | None, *, every: timedelta = EVERY
    ) -> None:
        self._store = store
        self._retention = retention
        self._every = every.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set; what is under way then is rolled back."""
        await done_before(stop, self._repeat())

    async def _repeat(self) -> None:
        said = False
        while True:
            try:
                if self._retention is not None:
                    await self._store.forget(await self._store.before(self._retention))
                await self._store.forget_discarded()
                said = False
            except SeawayError as error:
                log = inbox_logger.debug if said else inbox_logger.warning
                log("old rows stay for now: %s", error)
                said = True
            await asyncio.sleep(self._every * random.uniform(1 - _JITTER, 1 + _JITTER))


def process_name() -> str:
    """``host:pid:token``; the last part tells two applications of one process apart."""
    return f"{this_process()}:{secrets.token_hex(4)}"


Figures: TypeAlias = Callable[[], Mapping[str, float]]
"""What a part says of its work in numbers: ``workers``, ``batch``, the ``slowest`` transaction and
``seconds`` a delivery of a consumer; ``connections``, how many to the database its process has at
the most, and how many it ``needs`` of those. Told along, never for their own sake."""


class Presence:
    """Says of ``parts`` (``relay``, ``consumer case_mgmt__from_sea``) that they are at work.

    ``figures``: of those that have some, by part.
    """

    def __init__(
        self,
        store: ProcessStore,
        telemetry: Telemetry,
        parts: Sequence[str],
        figures: Mapping[str, Figures] | None = None,
        *,
        look: timedelta = LOOK,
        renew: timedelta = RENEW,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._parts = parts
        self._figures = figures or {}
        self._look = look
        self._renew = renew.total_seconds()
        self._process = process_name()
        self._began = time.monotonic()
        self._saying: asyncio.Task[None] | None = None
        self._refused = False

    async def run(self, stop: asyncio.Event) -> None:
        """Tell what changes, and every ten seconds that we are still here, until ``stop``."""
        said: Sequence[Notice] = ()
        due = 0.0
        while not stop.is_set():
            now = self._notices()
            if _content(now) != _content(said) or time.monotonic() >= due:
                if await self._say(now):
                    said = now
                due = time.monotonic() + self._renew
            await set_within(self._look, stop)
        await self._say(())

    def _notices(self) -> list[Notice]:
        lasts = timedelta(seconds=time.monotonic() - self._began)
        now = datetime.now(UTC)
        waits = {
            (_line(wait.part, _MOST_NAME), _line(wait.about, _MOST_NAME) or "?"): wait
            for wait in self._telemetry.waits[:_MOST_WAITS]
        }
        at_work = [
            Notice(part, reason=self._numbers(part), lasts=lasts)
            for part in dict.fromkeys(self._parts)
        ]
        return at_work + [
            Notice(part, about, _line(wait.reason, _MOST_TEXT), now - wait.since)
            for (part, about), wait in waits.items()
        ]

    def _numbers(self, part: str) -> str:
        figures = self._figures.get(part)
        return "" if figures is None else json.dumps(dict(figures()), separators=(",", ":"))

    async def _say(self, notices: Sequence[Notice]) -> bool:
        """Whether it was said. In a task of its own, since a driver may hang in what it began."""
        if self._saying is not None and not self._saying.done():
            return False
        saying = self._saying = asyncio.create_task(self._store.tell(self._process, notices))
        try:
            await asyncio.wait({saying}, timeout=PATIENCE.total_seconds())
        finally:
            if not saying.done():
                saying.cancel()
                saying.add_done_callback(_passed_over)
        if not saying.done():
            return False
        try:
            await saying
        except TransientError:
            return False
        except Exception as error:
            # Whatever it is: to tell of the work must never end it.
            if not self._refused:
                self._refused = True
                logger.warning("seaway check will not know what this process waits for: %s", error)
            return False
        self._refused = False
        return True


def _content(notices: Sequence[Notice]) -> list[Notice]:
    return [
        replace(one, lasts=timedelta(), reason=one.reason if one.waits else "") for one in notices
    ]


def _line(text: str, most: int) -> str:
    """One printable line: what a server or a database said of a failure is others' text."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def _passed_over(saying: asyncio.Task[None]) -> None:
    if not saying.cancelled():
        saying.exception()
