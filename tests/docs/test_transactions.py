"""The examples of handling events run on real servers, and the page about them shows what runs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from seaway.brokers.jetstream import JetStreamBroker, connect
from seaway.config import NatsSettings, load_settings
from seaway.contracts import Message
from seaway.embedded.nats_server import NatsServer
from seaway.stores import schema_script
from seaway.topology import actual, apply, desired, plan

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "transactions"
TABLE = "CREATE TABLE cases (id TEXT PRIMARY KEY, title TEXT NOT NULL)"
EVENT = Message("sea.event.case_opened.v1", b'{"case_id":"case-1","title":"Broken window"}', {})
CONFIG = """
nats: {{url: "{nats}"}}
database: "{database}"
streams: [{{name: SEA_EVENTS, replicas: 1}}]
consumers:
  - {{stream: SEA_EVENTS, durable: case_mgmt__from_sea, filter_subject: sea.event.case_opened.v1}}
"""


class Example:
    """One example, at work beside a real server."""

    def __init__(self, broker: JetStreamBroker, config: Path) -> None:
        self.broker = broker
        self.config = config

    async def run(self, name: str, *, tasks: int) -> str:
        """Until the event is handled and ``tasks`` are published; its log."""
        await self.broker.publish("SEA_EVENTS", [EVENT], timeout=timedelta(seconds=5))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(EXAMPLES / name),
            env={**os.environ, "SEAWAY_CONFIG": str(self.config), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(60):
                while not await self._done(tasks):
                    assert process.returncode is None, (await process.communicate())[0].decode()
                    await asyncio.sleep(0.05)  # polling until the server has the ack and the task
                process.send_signal(signal.SIGTERM)
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, said.decode()
        return said.decode()

    async def _done(self, tasks: int) -> bool:
        found = [one async for one in self.broker.admin.read("SEA_EVENTS")]
        info = await self.broker.admin.consumer("SEA_EVENTS", "case_mgmt__from_sea")
        assert info is not None
        handled = info.ack_floor >= 1
        return (
            handled
            and [one.message.subject for one in found[1:]] == ["sea.event.task_opened.v1"] * tasks
        )


async def example(nats: NatsServer, database: str, folder: Path) -> Example:
    config = folder / "seaway.yaml"
    config.write_text(CONFIG.format(nats=nats.url, database=database))
    settings = load_settings(config)
    broker = await connect(NatsSettings(url=nats.url))
    wanted = desired(settings)
    await apply(plan(wanted, await actual(broker.admin, wanted)), broker.admin)
    return Example(broker, config)


@pytest.mark.parametrize(
    "name", ["with_asyncpg.py", "with_psycopg.py", "with_sqlalchemy.py", "plain_sqlalchemy.py"]
)
async def test_an_example_handles_on_postgresql(
    name: str, postgres_url: str, nats_server_own: NatsServer, tmp_path: Path
) -> None:
    with psycopg.connect(postgres_url) as db:
        db.execute(TABLE)
    shown = await example(nats_server_own, postgres_url, tmp_path)
    await shown.run(name, tasks=1)
    await shown.broker.close()
    with psycopg.connect(postgres_url) as db:
        assert db.execute("SELECT * FROM cases").fetchall() == [("case-1", "Broken window")]


@pytest.mark.parametrize("name", ["with_store.py", "with_aiosqlite.py", "plain_store.py"])
async def test_an_example_handles_on_sqlite(
    name: str, nats_server_own: NatsServer, tmp_path: Path
) -> None:
    path = tmp_path / "cases.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema_script(f"sqlite:///{path}"))
        db.execute(TABLE)
    shown = await example(nats_server_own, f"sqlite:///{path}", tmp_path)
    await shown.run(name, tasks=1)
    await shown.broker.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM cases").fetchall() == [("case-1", "Broken window")]


async def test_an_example_without_a_database_says_what_it_means(
    nats_server_own: NatsServer, tmp_path: Path
) -> None:
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema_script(f"sqlite:///{path}"))
    shown = await example(nats_server_own, f"sqlite:///{path}", tmp_path)
    said = await shown.run("without_database.py", tasks=0)
    await shown.broker.close()
    assert said.count("case_mgmt__from_sea has no database") == 1
    assert said.count("SEA_EVENTS:1 Broken window") == 1


def test_the_page_shows_what_runs() -> None:
    written = "\n".join(file.read_text() for file in EXAMPLES.glob("*.py"))
    page = (ROOT / "docs" / "how-to" / "transactions.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.S | re.M)
    assert len(blocks) == 8
    for block in blocks:
        assert block in written
