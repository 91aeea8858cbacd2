"""What the doctor looks at, as plain data: two looks at everything, and what only it asks for.

Owns: the questions. Must not know what is wrong with the answers. Guarantees: nothing is changed
anywhere; whatever is away, hangs or refuses is written down in time, and the rest is asked.

    first look ─> places, clocks, rights, tables, what was given up on ─> second look

In this order, so that what is on the way is never taken for lost: a durable of the first look lies
beyond the end of the second only if the stream has gone back.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

from seaway import naming
from seaway.config import Settings
from seaway.contracts import (
    Broker,
    BrokerAdmin,
    ConsumerInfo,
    Granted,
    SchemaChange,
    Vitals,
)
from seaway.dead_letters import DeadLetters
from seaway.errors import ConfigError, SeawayError, TransientError
from seaway.headers import parse_time
from seaway.monitor import Database, Report, Sampler, Snapshot, Station, Watch, judged

T = TypeVar("T")

MOST_READ = 1000
"""How many messages of a durable are read, to see which of them it gave up on."""
_MARGIN = timedelta(minutes=1)
"""How far clocks may differ before an event counts as sent before its stream was made."""


@dataclass(frozen=True, slots=True)
class Declared:
    """An application, as far as its code says: the subjects of its event classes, and its consumers
    with what they handle."""

    events: Sequence[str]
    consumers: Mapping[str, Callable[[str], bool]]


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a clock is ahead of this machine's, and how exactly that is known."""

    ahead: timedelta
    within: timedelta


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that was seen. ``away``: why a need could not be met, by need."""

    settings: Settings
    first: Snapshot
    last: Snapshot
    report: Report
    apart: float = 0.0
    """Seconds between the two looks."""
    vitals: Vitals | None = None
    changes: Sequence[SchemaChange] | None = None
    clocks: Mapping[str, Clock] = field(default_factory=dict)
    granted: Granted | None = None
    given_up: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    """By stream and durable: the events that it gave up on, with neither effect nor letter."""
    sync: timedelta | None = None
    """The server's ``sync_interval``; zero: always. ``None``: not known."""
    declared: Declared | None = None
    roles: Sequence[str] = ()
    away: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    """By code: why it could not be looked for though what it needs is there."""


async def gather(
    settings: Settings,
    server: Station[Broker],
    database: Station[Database],
    *,
    within: timedelta,
    apart: timedelta = timedelta(seconds=1),
    monitoring: str | None = None,
    declared: Declared | None = None,
    roles: Sequence[str] = (),
) -> Gathered:
    """Look, ``apart`` twice; each station is given ``within`` for each of the three rounds. Raises
    nothing for what is away. ``monitoring``: the server's HTTP address."""
    sampler = Sampler(server, Watch.of(settings), database, every=timedelta(0))
    began = time.monotonic()
    first = await sampler.sample(within=within)
    asked = _Asked(settings, server, database, within, first.snapshot, declared)
    await asyncio.gather(
        asked.of_the_database(),
        asked.of_the_server(bool(roles)),
        asked.of_monitoring(monitoring),
    )
    last = first
    if first.snapshot.server_error is None:
        await asyncio.sleep(max(0.0, apart.total_seconds() - (time.monotonic() - began)))
        last = await sampler.sample(within=within)
    away = dict(asked.away)
    if last.snapshot.server_error is not None:
        away["server"] = last.snapshot.server_error
    if last.snapshot.processes is None:
        away["processes"] = last.snapshot.outbox_error or "the database was not asked"
    if declared is None:
        away["application"] = "which application: --app module:app"
    if not roles:
        away["role"] = "as which role this user works: --role ROLE"
    return Gathered(
        settings,
        first.snapshot,
        last.snapshot,
        judged(last, sampler.history, settings.alerts),
        last.read_at - first.read_at,
        vitals=asked.vitals,
        changes=asked.changes,
        clocks=asked.clocks,
        granted=asked.granted,
        given_up=asked.given_up,
        sync=asked.sync,
        declared=declared,
        roles=roles,
        away=away,
        unread=asked.unread,
    )


@dataclass(slots=True)
class _Asked:
    """Between the two looks."""

    settings: Settings
    server: Station[Broker]
    database: Station[Database]
    within: timedelta
    seen: Snapshot
    declared: Declared | None
    vitals: Vitals | None = None
    changes: Sequence[SchemaChange] | None = None
    clocks: dict[str, Clock] = field(default_factory=dict)
    granted: Granted | None = None
    given_up: dict[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    sync: timedelta | None = None
    away: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    async def of_the_database(self) -> None:
        """Its tables, its clock, and what it says of itself."""

        async def plan(opened: Database) -> Sequence[SchemaChange]:
            return await opened.store.schema.plan()

        async def look(opened: Database) -> Vitals:
            store = await opened.verified()
            self.clocks["the database"] = await clock(store.now)
            return await store.vitals(_made(self.seen))

        try:
            self.changes = await self._ask_database(plan)
            self.vitals = await self._ask_database(look)
        except SeawayError as error:
            self.away["database"] = str(error)

    async def of_the_server(self, rights: bool) -> None:
        """This user's rights, its clock, and what durables gave up on."""
        if rights:
            # A role's own user may not look at much else.
            await self._try("SW-802", self._rights)
        if self.seen.server_error is not None:
            return
        if self.seen.streams:
            name = self.seen.streams[0].name
            await self._try("SW-104", lambda admin: self._clock(admin, name))
        await self._given_up()

    async def _clock(self, admin: BrokerAdmin, stream: str) -> None:
        async def now() -> datetime:
            info = await admin.stream(stream)
            said = None if info is None else info.document.get("ts")
            if not isinstance(said, str):
                raise TransientError("the server does not say what the time is there")
            return parse_time(said)

        self.clocks["the server"] = await clock(now)

    async def _rights(self, admin: BrokerAdmin) -> None:
        self.granted = await admin.granted()

    async def _given_up(self) -> None:
        for one in self.seen.consumers:
            if not gave_up(one):
                continue

            async def look(broker: Broker, consumer: ConsumerInfo = one) -> list[str]:
                return await self._without_effect(broker, consumer)

            try:
                if found := await self.server.ask(look, within=self.within):
                    self.given_up[one.key] = found
            except SeawayError as error:
                self.unread["SW-310"] = str(error)

    async def _without_effect(self, broker: Broker, one: ConsumerInfo) -> list[str]:
        """What the durable was given and does not wait for, and that has neither inbox row nor
        letter."""
        found: list[str] = []
        handles = self.declared and self.declared.consumers.get(one.durable)
        messages = broker.admin.read(
            one.stream,
            filter_subjects=one.filters,
            from_seq=one.ack_floor + 1,
            headers_only=True,
            reader=naming.WATCHER,
        )
        async with aclosing(messages) as read:
            async for stored in read:
                if stored.stream_seq > one.stream_seq or len(found) >= MOST_READ:
                    break
                if not handles or handles(stored.event_subject):
                    found.append(stored.event_id)
        if not found:
            return []

        async def claimed(opened: Database) -> set[str]:
            return await (await opened.verified()).claimed(one.durable, found)

        known = set(await self._ask_database(claimed))
        queue = DeadLetters(broker, reader=naming.WATCHER)
        context = naming.stream_context(one.stream)
        known |= {one.event_id for one in await queue.of_consumer(context, one.durable)}
        again = await broker.admin.consumer(one.stream, one.durable)
        if again is None or not gave_up(again):
            return []
        return [event_id for event_id in found if event_id not in known]

    async def of_monitoring(self, url: str | None) -> None:
        """What the server tells at its HTTP address alone."""
        if url is None:
            self.away["monitoring"] = "a client is not told sync_interval: --monitoring URL"
            return
        try:
            self.sync = await asyncio.wait_for(
                asyncio.to_thread(sync_interval, url, self.within.total_seconds()),
                2 * self.within.total_seconds(),
            )
        except (OSError, ValueError, http.client.HTTPException, TimeoutError) as error:
            self.away["monitoring"] = f"{url}/varz: {error or type(error).__name__}"

    async def _ask_database(self, question: Callable[[Database], Awaitable[T]]) -> T:
        return await self.database.ask(question, within=self.within)

    async def _try(self, code: str, question: Callable[[BrokerAdmin], Awaitable[None]]) -> None:
        try:
            await self.server.ask(lambda broker: question(broker.admin), within=self.within)
        except SeawayError as error:
            self.unread[code] = str(error)


def gave_up(one: ConsumerInfo) -> bool:
    """Whether the durable was given what it neither settled nor waits for."""
    return (
        naming.kind_of(one.stream) == "events"
        and one.max_deliver is not None
        and one.ack_floor < one.stream_seq
        and not one.num_ack_pending
    )


async def clock(now: Callable[[], Awaitable[datetime]]) -> Clock:
    """How far what ``now`` says is ahead of this machine's clock."""
    before = datetime.now(UTC)
    said = await now()
    after = datetime.now(UTC)
    half = (after - before) / 2
    return Clock(said - (before + half), abs(half))


def sync_interval(url: str, seconds: float) -> timedelta:
    """That of the server whose monitoring is at ``url`` (``http://127.0.0.1:8222``); zero: always.
    ``ValueError`` where that is not a nats-server with JetStream."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an address, like http://127.0.0.1:8222")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port or 8222, timeout=seconds)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/varz")
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"answers with status {answer.status}")
        found = json.loads(answer.read())
    finally:
        connection.close()
    try:
        config = found["jetstream"]["config"]
        if config.get("sync_always"):
            return timedelta(0)
        return timedelta(microseconds=int(config["sync_interval"]) // 1000)
    except (KeyError, TypeError, AttributeError):
        raise ValueError("says nothing of JetStream's sync_interval") from None


def check_monitoring(url: str) -> None:
    """``ConfigError`` for what is no address."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(
            f"--monitoring {url!r} is not an address", hint="like http://127.0.0.1:8222"
        )


def _made(seen: Snapshot) -> Mapping[str, datetime]:
    """The event streams, and before which time an event was sent to one that was there before."""
    return {
        one.name: parse_time(one.created) - _MARGIN
        for one in seen.streams
        if naming.kind_of(one.name) == "events"
    }


__all__ = ["Declared", "Gathered", "check_monitoring", "gather"]
