"""Where the dashboard's figures come from.

``Live`` connects in the background and goes on trying: the dashboard is there before the server
is, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol, Self

from seaway import logs
from seaway.app import Seaway
from seaway.config import Settings
from seaway.connections import database_station
from seaway.contracts import Broker
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.errors import BrokerUnavailable, SeawayError
from seaway.history.audit import Audit
from seaway.history.findings import SAID, Report
from seaway.history.following import Follower
from seaway.monitor import Activity, Sample, Sampler, Station, Watch
from seaway.naming import WATCHER, dlq_stream

logger = logs.logger("seaway")

AUDIT_SECONDS = 15.0
"""Between two looks of the audit."""


class Source(Protocol):
    """An async context; everything in it may be called concurrently."""

    @property
    def activity(self) -> Activity: ...

    @property
    def history(self) -> Sequence[Sample]:
        """The latest samples, oldest first."""
        ...

    @property
    def audited(self) -> Report | None:
        """What the last audit found; ``None`` where none was made."""
        ...

    async def sample(self) -> Sample:
        """A fresh sample; never raises for what is away."""
        ...

    async def letters(self, limit: int) -> Sequence[Letter]:
        """The oldest dead letters; ``SeawayError`` where they cannot be read."""
        ...

    async def letter(self, letter_id: str) -> Letter:
        """One letter; ``NotFound``, or another ``SeawayError`` where it cannot be read."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class Live:
    """The figures of a configuration's own server and database. ``audit``: keep comparing them."""

    def __init__(self, settings: Settings, *, audit: bool = False) -> None:
        self.activity = Activity()
        self._settings = settings
        self._app = Seaway(settings, wait=True)
        self._app.telemetry.subscribe(self.activity.listen)
        self._app.log_signals()
        server = Station(settings.nats.redacted_url, self._broker)
        database = database_station(settings)
        self.stations: tuple[Station[Any], ...] = server, database
        self._sampler = Sampler(server, Watch.of(settings), database)
        self._follower: Follower | None = None
        if audit:
            # Stations of its own: a question that takes long must not hold up the others.
            compared = Station(settings.nats.redacted_url, self._broker), database_station(settings)
            self.stations += compared
            self._follower = Follower(Audit(*compared, settings, reader=WATCHER))
        self._auditing: asyncio.Task[None] | None = None
        self._up = False
        self._trouble = f"not connected to {settings.nats.redacted_url}"
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def history(self) -> Sequence[Sample]:
        """See ``Source``."""
        return self._sampler.history

    async def sample(self) -> Sample:
        """Server and database as they are, each by itself."""
        return await self._sampler.sample()

    @property
    def audited(self) -> Report | None:
        """See ``Source``."""
        return None if self._follower is None else self._follower.report

    async def letters(self, limit: int) -> Sequence[Letter]:
        """See ``Source``."""
        self._connected()
        return await self._dead_letters.list(limit=limit, payloads=False)

    async def letter(self, letter_id: str) -> Letter:
        """See ``Source``."""
        self._connected()
        return await self._dead_letters.get(letter_id)

    @property
    def _dead_letters(self) -> DeadLetters:
        queues = [dlq_stream(stream.context) for stream in self._settings.streams]
        return DeadLetters(self._app.broker, reader=WATCHER, queues=queues or None)

    def _connected(self) -> None:
        if not self._up:
            raise BrokerUnavailable(self._trouble)

    async def _broker(self) -> Broker:
        self._connected()
        return self._app.broker

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._hold(), name="seaway-dashboard")
        if self._follower is not None:
            work = self._audit(self._follower)
            self._auditing = asyncio.create_task(work, name="seaway-audit")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        if self._auditing is not None:
            self._auditing.cancel()
            await asyncio.wait({self._auditing})
        if self._task is None:
            return
        if not self._up:
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for station in self.stations:
            await station.close()

    async def _audit(self, follower: Follower) -> None:
        said: set[str] = set()
        while True:
            if self._up:
                try:
                    report = await follower.look()
                except SeawayError as error:
                    trouble = {str(error)}
                else:
                    trouble = {
                        f"{count} {SAID[kind]}: {stream} {consumer}".rstrip()
                        for (kind, stream, consumer), count in report.counts.items()
                        if count
                    }
                    trouble |= set(report.away)
                for line in sorted(trouble - said):
                    logger.warning("audit: %s", line)
                said = trouble
            await asyncio.sleep(AUDIT_SECONDS if self._up else 1)

    async def _hold(self) -> None:
        # One task enters and leaves the application, so that its connections have one owner.
        try:
            async with self._app:
                self._up = True
                await self._stop.wait()
        except SeawayError as error:
            # Wrong credentials and the like: no retry heals it, the page says it.
            self._up, self._trouble = False, str(error)
            logger.error("the dashboard is not connected: %s", error)
