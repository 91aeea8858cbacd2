"""``app.nudge``: the relay of an application hears of a commit, from whichever thread it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.db import connections
from django.db.transaction import atomic
from django.test.utils import override_settings
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from drivers.framework import database
from seaway.app import Seaway
from seaway.django import application
from seaway.django import outbox as django_outbox
from seaway.embedded.nats_server import NatsServer
from seaway.events import RawEvent
from seaway.stores import open_configured
from seaway.testing.conformance.outbox import claim_all

pytestmark = pytest.mark.server

FOREVER = timedelta(seconds=60)


@pytest.fixture
async def app(tmp_path: Path, nats_server: NatsServer) -> AsyncIterator[Seaway]:
    """Connected, with an outbox that is looked at once in a while only."""
    app = Seaway.from_config(
        {
            "nats": {"url": nats_server.url},
            "database": f"sqlite:///{tmp_path}/app.db",
            "outbox": {"poll": "60s"},
            "contexts": ["sea"],
        }
    )
    async with app:
        store = await open_configured(app.settings)
        await store.schema.upgrade()
        await store.close()
        yield app


def service(app: Seaway, folder: Path) -> sessionmaker[Session]:
    """A SQLAlchemy service that tells of its commits, as the documentation says."""
    sessions = sessionmaker(create_engine(f"sqlite:///{folder}/app.db", poolclass=NullPool))
    event.listen(sessions, "after_commit", lambda session: app.nudge())
    return sessions


async def test_a_commit_in_another_thread_ends_the_wait(app: Seaway, tmp_path: Path) -> None:
    store = await app.open_store()
    sessions = service(app, tmp_path)

    def work() -> None:
        with sessions() as session, session.begin():
            handle: Any = session.connection().connection.driver_connection
            handle.execute("BEGIN")
            app.outbox.add(handle, RawEvent("sea.event.case_moved.v1", b"{}"))

    await claim_all(store)
    waiting = asyncio.create_task(store.wait(FOREVER))
    await asyncio.sleep(0)
    thread = Thread(target=work)
    thread.start()
    await asyncio.wait_for(waiting, 10)
    thread.join()
    assert len(await claim_all(store)) == 1


async def test_before_and_after_there_is_a_relay_it_does_nothing(app: Seaway) -> None:
    app.nudge()
    await app.open_store()
    app.nudge()
    await app.__aexit__()
    app.nudge()


def test_after_its_loop_has_ended_it_does_nothing(tmp_path: Path, nats_server: NatsServer) -> None:
    app = Seaway.from_config(
        {"nats": {"url": nats_server.url}, "database": f"sqlite:///{tmp_path}/app.db"}
    )

    async def connect() -> None:
        await app.__aenter__()
        with pytest.raises(Exception, match="seaway db upgrade"):
            await app.open_store()
        await app.__aexit__()

    asyncio.run(connect())
    app.nudge()


async def test_djangos_outbox_tells_the_relay_of_its_own_process(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    said = {"nats": {"url": nats_server.url}, "outbox": {"poll": "60s"}, "contexts": ["sea"]}

    def work() -> None:
        with atomic():
            django_outbox.add(RawEvent("sea.event.case_moved.v1", b"{}"))
        connections.close_all()

    with database(url), override_settings(SEAWAY=said):
        application.cache_clear()
        async with await open_configured(application().settings) as made:  # type: ignore[attr-defined]
            await made.schema.upgrade()
        async with application() as app:
            store = await app.open_store()
            await claim_all(store)
            waiting = asyncio.create_task(store.wait(FOREVER))
            await asyncio.to_thread(work)
            await asyncio.wait_for(waiting, 10)
            assert len(await claim_all(store)) == 1
        application.cache_clear()
