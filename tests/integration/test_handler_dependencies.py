"""Dependencies and middleware of real deliveries, on a real SQLite file: one transaction with the
handler, whatever opens and closes around it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import pytest

from consuming import until
from seaway import AlreadyProcessed, Backoff, Delivery, Depends, RawEvent, Seaway, event
from seaway.errors import ConfigError
from seaway.stores.sqlite import SqliteStore
from seaway.testing.rehearsal import rehearsal

Next: TypeAlias = Callable[[], Awaitable[None]]


@event(context="wired", version=1)
@dataclass
class Opened:
    case_id: str


@event(context="wired", version=1)
@dataclass
class Noted:
    case_id: str


class Cases:
    """Holds back what is written until it is closed."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.held: list[str] = []

    async def flush(self) -> None:
        for case_id in self.held:
            await self._delivery.tx.execute("INSERT INTO cases VALUES (?)", (case_id,))
            await self._delivery.add(Noted(case_id))


async def cases(delivery: Delivery) -> AsyncIterator[Cases]:
    made = Cases(delivery)
    yield made
    await made.flush()
    if "unfit" in made.held:
        raise ValueError("not to be flushed")


def limit() -> int:
    return 3


def small(event: Opened, limit: Annotated[int, Depends(limit)]) -> bool:
    if event.case_id == "bad":
        raise LookupError("no such tenant")
    return len(event.case_id) < limit


async def handle(
    event: Opened,
    cases: Annotated[Cases, Depends(cases)],
    small: Annotated[bool, Depends(small)],
) -> None:
    cases.held.append(f"{event.case_id} small" if small else event.case_id)
    if event.case_id == "failing":
        raise LookupError("the handler's")


async def nothing(event: RawEvent) -> None: ...


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with await SqliteStore.open(tmp_path / "cases.db") as store:
        await store.schema.upgrade()
        with closing(sqlite3.connect(store.path)) as db:
            db.execute("CREATE TABLE cases (id TEXT)")
        yield store


def application(*, plain: bool = False, **options: Any) -> Seaway:
    durable = {"stream": "WIRED_EVENTS", "durable": "case_mgmt__from_wired", "max_deliver": 2}
    app = Seaway.from_config({"contexts": ["wired"], "consumers": [durable]})
    quick = Backoff(timedelta(milliseconds=1), timedelta(milliseconds=5))
    consumer = app.consumer("case_mgmt", from_context="wired", retry=quick, **options)
    if plain:
        consumer.handler(Opened)(handle_plain)
    else:
        consumer.handler(Opened)(handle)
        consumer.handler(RawEvent)(nothing)
    return app


def rows(store: SqliteStore, query: str = "SELECT id FROM cases ORDER BY id") -> list[str]:
    with closing(sqlite3.connect(store.path)) as db:
        return [one for (one,) in db.execute(query)]


@pytest.mark.parametrize("batch", [1, 10])
async def test_what_closes_before_the_commit_is_in_it_and_what_fails_leaves_nothing(
    store: SqliteStore, batch: int
) -> None:
    app = application(batch=batch)
    async with rehearsal(app, store) as stage:
        for case_id in ("a", "failing", "bad", "unfit", "a long one"):
            await stage.publish(Opened(case_id), key=case_id)
        await stage.settled()
        letters = {letter.error: letter for letter in await stage.letters()}
    assert rows(store) == ["a long one", "a small"]
    # Two of Opened, and the two of Noted that came of them.
    assert stage.outcomes == {"handled": 4, "retried": 3, "dead_lettered": 3}
    assert set(letters) == {"the handler's", "no such tenant", "not to be flushed"}
    opening, closed = letters["no such tenant"], letters["not to be flushed"]
    assert (opening.error_type, closed.error_type) == ("LookupError", "ValueError")
    assert "while dependency small" in str(opening.stack)
    assert "while dependency cases" in str(closed.stack)


async def test_plain_handlers_have_theirs_in_the_thread_of_their_transaction(
    store: SqliteStore,
) -> None:
    app = application(plain=True, workers=2)
    threads: set[tuple[str, int]] = set()

    @app.middleware
    async def tell(delivery: Delivery, call_next: Next) -> None:
        before = threading.get_ident()
        await call_next()
        threads.add((delivery.tx.execute("SELECT max(id) FROM cases").fetchone()[0], before))
        assert threading.get_ident() == before

    async with rehearsal(app, store) as stage:
        for case_id in ("a", "unfit", "b"):
            await stage.publish(Opened(case_id), key=case_id)
        await stage.settled()
        (letter,) = await stage.letters()
    assert rows(store) == ["a", "b"]
    assert {case_id for case_id, _ in threads} <= {"a", "b"}
    assert threading.get_ident() not in {thread for _, thread in threads}
    assert (letter.error, letter.error_type) == ("not to be flushed", "ValueError")
    assert "while dependency plain_cases" in letter.stack


def plain_cases(delivery: Delivery) -> Iterator[list[str]]:
    held: list[str] = []
    thread = threading.get_ident()
    yield held
    delivery.tx.executemany("INSERT INTO cases VALUES (?)", [(one,) for one in held])
    assert threading.get_ident() == thread
    if "unfit" in held:
        raise ValueError("not to be flushed")


def handle_plain(event: Opened, cases: Annotated[list[str], Depends(plain_cases)]) -> None:
    cases.append(event.case_id)


async def test_another_stands_in_for_a_provider_within_a_block(store: SqliteStore) -> None:
    app = application()
    async with rehearsal(app, store) as stage:
        with app.overriding({limit: lambda: 0}):
            await stage.publish(Opened("a"))
            await stage.settled()
        await stage.publish(Opened("b"))
        await stage.settled()
    assert rows(store) == ["a", "b small"]
    with (
        pytest.raises(ConfigError, match=r"no handler here depends on application"),
        app.overriding({application: limit}),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="nobody fills what, which has no annotation"),
        app.overriding({limit: lambda what: what}),
    ):
        pass


async def test_middleware_is_in_the_transaction_and_may_not_end_it(store: SqliteStore) -> None:
    app = application()
    seen: list[tuple[str, str | None]] = []

    @app.middleware
    async def tenants(delivery: Delivery, call_next: Next) -> None:
        if delivery.key == "foreign":
            raise AlreadyProcessed("another tenant's")
        try:
            await call_next()
        except LookupError as error:
            seen.append((str(error), delivery.key))
            raise
        if delivery.key == "commits":
            await delivery.tx.commit()

    async def ended_by_middleware() -> None:
        async with rehearsal(app, store) as stage:
            for case_id in ("ours", "foreign", "failing"):
                await stage.publish(Opened(case_id), key=case_id)
            await stage.settled()
            assert stage.outcomes["already_processed"] == 1
            await stage.publish(Opened("x"), key="commits")
            await until(lambda: "x small" in rows(store))

    with pytest.raises(ConfigError, match="committed it or rolled it back itself"):
        await ended_by_middleware()
    assert rows(store)[0] == "ours"
    assert "foreign" not in rows(store)
    assert seen == [("the handler's", "failing")] * 2
