"""What the doctor is shown: a server, a database and their settings, which tests make ill."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import Settings, settings_from_mapping
from seaway.contracts import Broker, ConsumerInfo, Message, Store
from seaway.doctor import Declared, Diagnosis, Limits, diagnose, gather
from seaway.monitor import Database, Station

TIMEOUT = timedelta(seconds=30)
PROMPT = Limits(open_transaction=timedelta(0), dead_rows=0, dead_rows_each=0.5)
"""Thresholds that a test reaches at once."""
CALM = Limits(open_transaction=timedelta(days=1), connections=0.99)
"""On a database server that other tests have at the same time."""


async def until(there: Callable[[], Awaitable[bool]]) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + 60
    while not await there():
        assert time.monotonic() < deadline, "it never came to be"


@dataclass
class Patient:
    """``broker`` and ``store`` are open; ``context`` is nobody else's."""

    broker: JetStreamBroker
    store: Store
    context: str
    monitoring: str | None = None
    limits: Limits | None = None
    mapping: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stream = f"{self.context.upper()}_EVENTS"
        self.durable = f"case_mgmt__from_{self.context}"
        self.subject = f"{self.context}.event.case_opened.v1"
        self.mapping = {
            "nats": {"url": "nats://127.0.0.1:1"},
            "streams": [{"name": self.stream, "replicas": 1}],
            "consumers": [{"stream": self.stream, "durable": self.durable}],
            **self.mapping,
        }

    @property
    def settings(self) -> Settings:
        return settings_from_mapping(self.mapping, environ={})

    async def apply(self) -> None:
        """Make the server as the settings say."""
        wanted, admin = topology.desired(self.settings), self.broker.admin
        plan = topology.plan(wanted, await topology.actual(admin, wanted))
        await topology.apply(plan, admin, allow_data_loss=True)

    async def publish(self, count: int, *, subject: str = "", **headers: str) -> None:
        messages = [Message(subject or self.subject, b"{}", headers) for _ in range(count)]
        await self.broker.publish(self.stream, messages, timeout=TIMEOUT)

    async def take(self, count: int, *, settle: bool = True) -> None:
        """Be given that many; acknowledge them, or give them back."""
        async with self.broker.subscribe(self.stream, self.durable) as source:
            for incoming in await source.next(count, timeout=TIMEOUT):
                if settle:
                    await source.ack(incoming)
                else:
                    await source.nak(incoming, delay=timedelta(0))

    async def change_stream(self, **config: Any) -> None:
        info = await self.broker.admin.stream(self.stream)
        assert info is not None
        await self.broker.admin.update_stream({**info.config, **config})

    async def change_consumer(self, **config: Any) -> None:
        info = await self.info()
        await self.broker.admin.update_consumer(self.stream, {**info.config, **config})

    async def make_consumer(self, **config: Any) -> None:
        """The same durable anew, with these fields besides."""
        given = dict((await self.info()).config)
        given.pop("pause_until", None)
        await self.broker.admin.delete_consumer(self.stream, self.durable)
        await self.broker.admin.create_consumer(self.stream, {**given, **config})

    async def info(self) -> ConsumerInfo:
        found = await self.broker.admin.consumer(self.stream, self.durable)
        assert found is not None
        return found

    async def look(
        self,
        *,
        apart: timedelta = timedelta(0),
        declared: Declared | None = None,
        roles: tuple[str, ...] = (),
        limits: Limits | None = None,
        server: Station[Broker] | None = None,
        database: Station[Database] | None = None,
    ) -> Diagnosis:
        """What the doctor finds."""

        async def connected() -> Broker:
            return self.broker

        async def opened() -> Database:
            return Database(self.store)

        found = await gather(
            self.settings,
            server or Station("nats", connected),
            database or Station("database", opened),
            within=TIMEOUT,
            apart=apart,
            monitoring=self.monitoring,
            declared=declared,
            roles=roles,
        )
        return diagnose(found, limits=limits or self.limits)

    async def ill(self, **given: Any) -> Mapping[str, str]:
        """What was seen, by code; of several, the last."""
        found = await self.look(**given)
        return {one.entry.code: one.seen for one in found.ailments}
