"""PostgreSQL behind PgBouncer in transaction mode: a session is anybody's between transactions."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Store
from seaway.embedded.process import ServerProcess, free_port, reachable
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.relay import Relay
from seaway.stores import open_store
from seaway.stores.postgres import PostgresStore
from seaway.telemetry import Telemetry
from seaway.testing.conformance.inbox import ids
from seaway.testing.conformance.outbox import add, claim_all
from seaway.testing.conformance.store import Reopen, StoreConformance

pytestmark = pytest.mark.pgbouncer

SESSIONS = 5
CONFIG = """
[databases]
* = host={server.hostname} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
"""


class PgBouncer(ServerProcess):
    """One PgBouncer in transaction mode before ``server``, with a few sessions for everybody."""

    _name: ClassVar[str] = "pgbouncer"

    def __init__(self, server: SplitResult) -> None:
        super().__init__()
        self._server = server

    def url(self, database: str) -> str:
        user = self._server.username
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?pgbouncer=true"

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None  # It refuses root, as PostgreSQL does.
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _command(self) -> Sequence[str]:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "install PgBouncer (Debian: apt-get install pgbouncer)"
        self._port = self._port or free_port()
        config, users = self.directory / "pgbouncer.ini", self.directory / "users.txt"
        port = self._server.port or 5432
        config.write_text(
            CONFIG.format(
                server=self._server,
                port=port,
                own_port=self._port,
                folder=self.directory,
                sessions=SESSIONS,
            )
        )
        users.write_text(f'"{self._server.username}" "{self._server.password or ""}"\n')
        if owner := self._owner():
            os.chown(self.directory, *owner)
        return [program, str(config)]

    def _answering(self) -> bool:
        return reachable(self.port)


@pytest.fixture
def pooled_url(postgres_url: str) -> Iterator[str]:
    """A fresh database with Seaway's tables, through PgBouncer."""
    server = urlsplit(postgres_url)
    bouncer = PgBouncer(server)
    try:
        bouncer.launch()
        yield bouncer.url(server.path.lstrip("/"))
    finally:
        bouncer.terminate()
        bouncer.remove()


@pytest.fixture
async def store(pooled_url: str) -> AsyncIterator[Store]:
    opened = await open_store(pooled_url)
    yield opened
    await opened.close()


class TestPostgresStoreBehindPgBouncer(StoreConformance):
    @pytest.fixture
    def reopen(self, store: Store, pooled_url: str) -> Reopen:
        async def opened() -> Store:
            return await open_store(pooled_url)

        return opened


async def test_every_session_has_served_several_clients(pooled_url: str, postgres_url: str) -> None:
    """What the suite above is worth: sessions are shared, and fewer than the clients."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(await _opened(pooled_url)) for _ in range(12)]
        for _ in range(3):
            await asyncio.gather(*(one.backlog() for one in stores))
        direct = await stack.enter_async_context(await _opened(postgres_url))
        async with direct.transaction() as tx:
            sessions = await tx.handle.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
    assert 1 <= sessions <= SESSIONS + 1


async def _opened(url: str) -> PostgresStore:
    return await PostgresStore.open(url)


async def test_several_shards_are_held_by_several_relays(pooled_url: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(await _opened(pooled_url)) for _ in range(2)]
        await one.reshard(4)
        async with other.lease() as queued:
            assert queued is not None
            async with one.lease() as rest:
                held = [*queued.shards, *(rest.shards if rest else ())]
                assert len(held) == len(set(held)) == 4
        async with one.lease() as again:
            assert again is not None
            assert len(again.shards) == 4


async def test_notifications_do_not_come_through_and_polling_finds_events(
    pooled_url: str,
) -> None:
    async with AsyncExitStack() as stack:
        listening = await stack.enter_async_context(
            await PostgresStore.open(pooled_url, listen=True)
        )
        writing = await stack.enter_async_context(await _opened(pooled_url))
        await claim_all(listening)
        waiting = asyncio.create_task(listening.wait(timedelta(seconds=30)))
        await asyncio.sleep(0)
        async with writing.transaction() as tx:
            handle: Any = tx.handle
            (event_id,) = await Outbox(notify=True).add(
                handle, RawEvent("sea.event.case_moved.v1", b"{}")
            )
        await asyncio.wait_for(waiting, 5)
        assert ids(await claim_all(listening)) == [event_id]


@pytest.mark.server
async def test_two_relays_drain_a_backlog_in_order(
    pooled_url: str, broker: JetStreamBroker, context_name: str
) -> None:
    stream, subject = f"{context_name.upper()}_EVENTS", f"{context_name}.event.case_moved.v1"
    await broker.admin.create_stream(
        {"name": stream, "subjects": [f"{context_name}.event.>"], "allow_atomic": True}
    )
    keys, each = 30, 100
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(await _opened(pooled_url)) for _ in range(2)]
        await stores[0].reshard(8)
        for number in range(each):
            events = [RawEvent(subject, b"%d" % number, key=f"k{key}") for key in range(keys)]
            await add(stores[0], *events)
        relays = [Relay(one, broker, telemetry=Telemetry(), batch=100) for one in stores]
        took = await asyncio.gather(*(relay.drain() for relay in relays))
        assert sum(took) == keys * each
        assert (await stores[0].backlog()).count == 0
    seen: dict[str, list[int]] = defaultdict(list)
    async for stored in broker.admin.read(stream):
        seen[stored.message.key].append(int(stored.message.payload))
    assert len(seen) == keys
    assert all(numbers == list(range(each)) for numbers in seen.values())
