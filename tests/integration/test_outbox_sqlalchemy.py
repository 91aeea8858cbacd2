"""What is special to SQLAlchemy: the unit of work, several databases, and its SQLite drivers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from seaway.errors import ConfigError, OutsideTransaction, SchemaMismatch
from seaway.events import RawEvent
from seaway.outbox import Outbox

EVENT = RawEvent("sea.event.case_created.v1", b"{}")
outbox = Outbox()


class Base(DeclarativeBase):
    pass


class Case(Base):
    __tablename__ = "cases"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(postgres_url: str) -> Engine:
    engine = create_engine(postgres_url.replace("://", "+psycopg://", 1), poolclass=NullPool)
    Base.metadata.create_all(engine)
    return engine


def counts(engine: Engine) -> tuple[int, int]:
    """Cases and events, as somebody else sees them."""
    with engine.connect() as other:
        found = [
            other.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
            for table in ("cases", "seaway_outbox")
        ]
    return found[0], found[1]


def test_pending_objects_and_events_commit_together(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Case(id=1))
        outbox.add(session, EVENT)
        session.add(Case(id=2))
        assert len(session.new) == 2, "adding an event flushes nothing"
        session.commit()
        assert counts(engine) == (2, 1)
        session.add(Case(id=3))
        outbox.add(session, EVENT)
        session.rollback()
    assert counts(engine) == (2, 1)


def test_a_flush_that_failed_must_be_rolled_back_first(engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([Case(id=1)])
        session.commit()
        session.add(Case(id=1))
        with suppress(Exception):
            session.flush()
        with pytest.raises((OutsideTransaction, ConfigError), match=r"aborted|atomic"):
            outbox.add(session, EVENT)
        session.rollback()
        session.execute(select(func.now()))
        outbox.add(session, EVENT)
        session.commit()
    assert counts(engine) == (1, 1)


def test_a_session_of_several_databases_says_which(engine: Engine) -> None:
    with Session(binds={Case: engine}) as session:
        session.add(Case(id=1))
        with pytest.raises(ConfigError, match=r"session\.connection\(bind_arguments"):
            outbox.add(session, EVENT)
        outbox.add(session.connection(bind_arguments={"mapper": Case}), EVENT)
        session.commit()
    assert counts(engine) == (1, 1)


def test_one_transaction_may_be_in_autocommit_mode(engine: Engine) -> None:
    with Session(engine) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(OutsideTransaction, match="autocommit"):
            outbox.add(session, EVENT)
    assert counts(engine) == (0, 0)


def test_sqlalchemy_compiles_its_statement_once(engine: Engine) -> None:
    seen: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    with engine.begin() as connection:
        for _ in range(3):
            outbox.add(connection, EVENT)
            outbox.add(connection, EVENT, EVENT)
    assert len(seen) == 6
    assert len(set(seen)) == 2
    assert len([key for key in engine._compiled_cache or () if "seaway" in str(key)]) <= 2


def test_other_dialects_are_refused_by_name(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        monkeypatch.setattr(connection.dialect, "name", "unheard")
        with pytest.raises(ConfigError, match=r"dialect unheard.*PostgreSQL and SQLite"):
            outbox.add(connection, EVENT)


@pytest.mark.parametrize("events", [1, 2])
def test_sqlite_that_never_begins_is_in_autocommit_mode(events: int) -> None:
    options: Any = {"connect_args": {"isolation_level": None}}
    with create_engine("sqlite://", poolclass=NullPool, **options).begin() as connection:
        with pytest.raises(OutsideTransaction, match="autocommit"):
            outbox.add(connection, *[EVENT] * events)
        connection.exec_driver_sql("BEGIN")
        with pytest.raises(SchemaMismatch):
            outbox.add(connection, *[EVENT] * events)
