"""docs/how-to/new-driver.md: its module is a driver as it stands there."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from seaway.errors import ConfigError, OutsideTransaction, SchemaMismatch
from seaway.events import RawEvent
from seaway.outbox import Outbox

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "new-driver.md"
EVENT = RawEvent("sea.event.case_created.v1", b"{}")


class Connection:
    """Of a package that Seaway has never seen: psycopg's, with another face."""

    def __init__(self, url: str) -> None:
        self._below = psycopg.connect(url, cursor_factory=psycopg.RawCursor)

    @property
    def closed(self) -> bool:
        return self._below.closed

    @property
    def in_transaction(self) -> bool:
        return self._below.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def execute(self, statement: str, parameters: Any = ()) -> psycopg.Cursor[Any]:
        return self._below.execute(statement.encode(), parameters)

    def commit(self) -> None:
        self._below.commit()

    def close(self) -> None:
        self._below.close()


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, and the page's module where a driver's is."""
    package = types.ModuleType("somedb")
    vars(package).update(Connection=Connection, Error=psycopg.Error)
    monkeypatch.setattr(Connection, "__module__", "somedb")
    monkeypatch.setitem(sys.modules, "somedb", package)
    _, _, rest = PAGE.read_text("utf-8").partition("```python\n")
    name = "seaway.drivers.somedb"
    spec = importlib.machinery.ModuleSpec(name, None)
    module = importlib.util.module_from_spec(spec)
    exec(compile(rest.partition("```")[0], str(PAGE), "exec"), vars(module))
    monkeypatch.setitem(sys.modules, name, module)


def test_events_are_written_through_its_handles(postgres_url: str) -> None:
    outbox = Outbox()
    with closing(Connection(postgres_url)) as db:
        with pytest.raises(OutsideTransaction):
            outbox.add(db, EVENT)
        db.execute("SELECT 1")
        outbox.add(db, EVENT)
        added = outbox.add(db, EVENT, EVENT)
        known = RawEvent(EVENT.subject, b"{}", event_id=added[0])
        with pytest.raises(ConfigError, match="already"):
            outbox.add(db, EVENT, known)
        db.commit()
        found = db.execute("SELECT count(*) FROM seaway_outbox").fetchone()
    assert found == (3,)
    with pytest.raises(ConfigError, match="cannot be used"):
        outbox.add(db, EVENT)


def test_its_errors_are_told(empty_postgres_url: str) -> None:
    with closing(Connection(empty_postgres_url)) as db:
        db.execute("SELECT 1")
        with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
            Outbox().add(db, EVENT)
        with pytest.raises(ConfigError, match="aborted"):
            Outbox().add(db, EVENT)
