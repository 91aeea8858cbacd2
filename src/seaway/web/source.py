"""Where the dashboard's figures come from.

``Live`` connects in the background and goes on trying: the dashboard is there before the server
is, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol, Self

from seaway.app import Seaway
from seaway.config import Settings
from seaway.dead_letters import DeadLetters
from seaway.dead_letters.letter import Letter
from seaway.errors import BrokerUnavailable, SeawayError
from seaway.monitor import Activity, Sample, Sampler, Snapshot, Watch
from seaway.naming import WATCHER, dlq_stream


class Source(Protocol):
    """An async context; everything in it may be called concurrently."""

    @property
    def activity(self) -> Activity: ...

    @property
    def history(self) -> Sequence[Sample]:
        """The latest samples, oldest first."""
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
    """The figures of a configuration's own server and database."""

    def __init__(self, settings: Settings) -> None:
        self.activity = Activity()
        self._settings = settings
        self._app = Seaway(settings, wait=True)
        self._app.telemetry.subscribe(self.activity.listen)
        self._watch = Watch.of(settings)
        self._sampler: Sampler | None = None
        self._trouble = f"not connected to {settings.nats.redacted_url}"
        self._began = datetime.now(UTC)
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def history(self) -> Sequence[Sample]:
        """Empty until connected."""
        return self._sampler.history if self._sampler else []

    async def sample(self) -> Sample:
        """The server as it is; before the first connection: away since the start."""
        if self._sampler is not None:
            return await self._sampler.sample()
        now = datetime.now(UTC)
        return Sample(Snapshot(now, server_error=self._trouble), away_since=self._began)

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
        if self._sampler is None:
            raise BrokerUnavailable(self._trouble)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._hold(), name="seaway-dashboard")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        if self._task is None:
            return
        if self._sampler is None:
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _hold(self) -> None:
        # One task enters and leaves the application, so that its connections have one owner.
        try:
            async with self._app:
                self._sampler = Sampler(self._app.broker.admin, self._watch, self._app.open_store)
                await self._stop.wait()
        except SeawayError as error:
            # Wrong credentials and the like: no retry heals it, the page says it.
            self._sampler, self._trouble = None, str(error)
