"""The inbox suite on every kind of handle, and what handles with statements of their own add."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from drivers.inboxes import KINDS, PLAIN, Kind
from seaway.contracts import InboxStore, InboxTransaction, Store
from seaway.errors import ConfigError, SeawayError, StoreUnavailable
from seaway.events import RawEvent, new_event_id
from seaway.stores import open_store
from seaway.testing.conformance.inbox import (
    CONSUMER,
    SUBJECT,
    InboxConformance,
    Undo,
    add_in,
    ids,
    undone,
    whole_wherever_cancelled,
)
from seaway.testing.conformance.parking import ParkingConformance


class TestInboxes(InboxConformance, ParkingConformance):
    @pytest.fixture(params=[*KINDS, *PLAIN], ids=lambda kind: kind.__name__)
    def kind(self, request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
        found: type[Kind] = request.param
        if found.engine == "sqlite":
            return found(f"sqlite:///{tmp_path}/app.db")
        return found(request.getfixturevalue("postgres_url"))

    @pytest.fixture
    async def store(self, kind: Kind) -> AsyncIterator[Store]:
        store = await open_store(kind.url)
        if kind.engine == "sqlite":
            await store.schema.upgrade()
        async with store.transaction() as tx:
            await tx.handle.execute("CREATE TABLE effects (number INTEGER PRIMARY KEY)")
        yield store
        await store.close()

    @pytest.fixture
    async def given(self, kind: Kind, store: Store) -> AsyncIterator[Any]:
        async with kind.given() as given:
            yield given

    @pytest.fixture
    async def inbox(self, kind: Kind, given: Any, store: Store) -> AsyncIterator[InboxStore]:
        inbox = kind.inbox(given, store)
        yield inbox
        await inbox.close()

    async def test_effects_events_and_inbox_row_commit_together(
        self, kind: Kind, inbox: InboxStore, store: Store
    ) -> None:
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")
            await kind.run(tx.handle, effect(1))
            (added,) = await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
        assert ids(await store.entries()) == [added]
        assert set(await store.processed("e1")) == {CONSUMER}
        assert await effects(store) == [1]
        with undone():
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, "e2")
                await kind.run(tx.handle, effect(2))
                await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
                raise Undo
        assert (await effects(store), ids(await store.entries())) == ([1], [added])

    async def test_a_statement_that_fails_is_the_bodys_own_error(
        self, kind: Kind, inbox: InboxStore, store: Store
    ) -> None:
        async def handle() -> None:
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, "e1")
                await kind.run(tx.handle, effect(1))
                await kind.run(tx.handle, effect(1))

        with pytest.raises(Exception, match=r"(?i)unique|duplicate") as raised:
            await handle()
        assert not isinstance(raised.value, SeawayError)
        assert (await effects(store), await store.processed("e1")) == ([], {})
        await usable(inbox)

    async def test_a_failure_passed_over_is_never_taken_for_a_commit(
        self, kind: Kind, inbox: InboxStore, store: Store
    ) -> None:
        async def handle() -> None:
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, "e1")
                await kind.run(tx.handle, effect(1))
                with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
                    await kind.run(tx.handle, effect(1))

        if kind.engine == "postgres":
            with pytest.raises(SeawayError, match="nothing was committed") as raised:
                await handle()
            assert not isinstance(raised.value, ConfigError | StoreUnavailable)
            assert kind.undoing in str(raised.value)
        else:
            await handle()  # SQLite undoes a failed statement alone.
        assert bool(await effects(store)) == bool(await store.processed("e1"))
        await usable(inbox)

    async def test_a_failure_in_a_savepoint_is_undone_with_it(
        self, kind: Kind, inbox: InboxStore, store: Store
    ) -> None:
        async def fail(tx: InboxTransaction) -> None:
            async with kind.savepoint(tx.handle):
                await kind.run(tx.handle, effect(2))
                await kind.run(tx.handle, effect(1))

        async with inbox.transaction() as tx:
            await kind.run(tx.handle, effect(1))
            with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
                await fail(tx)
            async with kind.savepoint(tx.handle):
                await kind.run(tx.handle, effect(3))
        assert await effects(store) == [1, 3]

    async def test_a_body_that_ends_the_transaction_is_found_out(
        self, kind: Kind, inbox: InboxStore
    ) -> None:
        async def body(handle: Any, number: int, end: Callable[[Any], Any], then: str) -> None:
            await kind.run(handle, effect(number))
            await end(handle)
            if then == "a statement":
                await kind.run(handle, effect(number + 1))
            if then == "an error":
                raise Undo

        async def handle(number: int, within: str, end: Callable[[Any], Any], then: str) -> None:
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, new_event_id())
                if within == "savepoint":
                    await kind.run(tx.handle, "SAVEPOINT part")
                await body(tx.handle, number, end, then)

        ways = itertools.product(
            ("transaction", "savepoint"),
            (kind.commit, kind.roll_back),
            ("nothing", "a statement", "an error"),
        )
        for number, way in enumerate(ways):
            with pytest.raises(ConfigError, match="itself") as raised:
                await handle(2 * number, *way)
            assert kind.undoing in str(raised.value)
            await usable(inbox)

    async def test_cancelled_at_any_await_its_effects_are_whole(
        self, kind: Kind, inbox: InboxStore, store: Store
    ) -> None:
        numbers: dict[str, int] = {}

        async def handle(event_id: str) -> None:
            number = numbers[event_id] = len(numbers)
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, event_id)
                await kind.run(tx.handle, effect(number))
                await add_in(tx.handle, RawEvent(SUBJECT, b"{}", event_id=event_id))

        async def claimed(event_id: str) -> bool:
            return bool(await store.processed(event_id))

        async def took_effect(event_id: str) -> bool:
            return numbers.get(event_id) in await effects(store)

        async def added(event_id: str) -> bool:
            return bool(await store.entries(event_id=event_id))

        await whole_wherever_cancelled(handle, claimed, took_effect, added)
        await usable(inbox)

    async def test_two_transactions_at_once(
        self, kind: Kind, inbox: InboxStore, store: Store
    ) -> None:
        """Both open where the engine can, else one after the other; each with its own handle."""
        opened = asyncio.Barrier(2)

        async def handle(number: int) -> None:
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, f"e{number}")
                await kind.run(tx.handle, effect(number))
                if store.capabilities.concurrent_transactions:
                    await asyncio.wait_for(opened.wait(), 10)

        await asyncio.gather(handle(1), handle(2))
        assert await effects(store) == [1, 2]

    async def test_what_was_given_stays_open(
        self, kind: Kind, given: Any, inbox: InboxStore, store: Store
    ) -> None:
        await usable(inbox)
        await inbox.close()
        other = kind.inbox(given, store)
        await usable(other)
        await other.close()

    async def test_the_relay_is_told_of_commits_alone(
        self, kind: Kind, given: Any, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[int] = []
        monkeypatch.setattr(store, "nudge", lambda: told.append(1))
        inbox = kind.inbox(given, store)
        await usable(inbox)
        told.clear()
        with undone():
            async with inbox.transaction():
                raise Undo
        assert told == []
        await usable(inbox)
        assert told == [1]
        await inbox.close()


async def effects(store: Store) -> list[int]:
    async with store.transaction() as tx:
        if hasattr(tx.handle, "fetch"):
            found = await tx.handle.fetch("SELECT number FROM effects ORDER BY number")
        else:
            found = await tx.handle.execute_fetchall("SELECT number FROM effects ORDER BY number")
    return [row[0] for row in found]


def effect(number: int) -> str:
    return f"INSERT INTO effects VALUES ({number:d})"  # noqa: S608 - a number


async def usable(inbox: InboxStore) -> None:
    async with asyncio.timeout(10), inbox.transaction() as tx:
        assert await tx.claim(CONSUMER, new_event_id())
