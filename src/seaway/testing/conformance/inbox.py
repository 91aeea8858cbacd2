"""The suite that every ``contracts.InboxStore`` passes, a whole store or an inbox over a handle.

Derive from ``InboxConformance`` in a test module and give it the fixtures ``store`` (a fresh store
with its tables) and ``inbox`` (the inbox under test, on the same database). Tests are public: a new
kind of handle is done when they pass.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway.contracts import (
    DeadLetterReason,
    InboxStore,
    Incoming,
    Message,
    OutboxEntry,
    Store,
    StoredMessage,
)
from seaway.errors import ConfigError, TransactionConflict
from seaway.events import RawEvent, new_event_id
from seaway.inbox.letters import letter_row, note_stored, to_letter
from seaway.outbox import Outbox

SUBJECT = "sea.event.case_created.v1"
CONSUMER = "case_mgmt__from_sea"


class Undo(Exception):
    """Raised in a transaction to have it rolled back."""


def undone() -> AbstractContextManager[object, bool]:
    """Expects ``Undo`` to come out of the body."""
    return pytest.raises(Undo)


async def add_in(handle: Any, *events: RawEvent, key: str | None = None, **more: Any) -> list[str]:
    """``Outbox.add``, whether the handle is asynchronous or not."""
    added = Outbox().add(handle, *events, key=key, **more)
    ids: list[str] = await added if inspect.isawaitable(added) else added
    return ids


def ids(entries: Sequence[OutboxEntry]) -> list[str]:
    """Their event ids, in order."""
    return [entry.event_id for entry in entries]


async def whole_wherever_cancelled(
    handle: Callable[[str], Coroutine[Any, Any, None]], *looks: Callable[[str], Awaitable[bool]]
) -> None:
    """Run ``handle(event_id)`` again and again, cancelled at its first wait, its second, and so on.

    Each time all ``looks`` agree whether it took effect; it does once nothing cancels it any more.
    """
    for turn in itertools.count(1):
        event_id = new_event_id()
        task = asyncio.ensure_future(_cancelled_at(turn, handle(event_id)))
        await asyncio.wait([task])
        seen = {await look(event_id) for look in looks}
        assert len(seen) == 1, f"cancelled at wait {turn}, it is half done"
        if not task.cancelled():
            task.result()
            assert seen == {True}
            return


@types.coroutine
def _cancelled_at(turn: int, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    task, waits = asyncio.current_task(), 0
    assert task is not None
    step: Callable[[Any], Any] = work.send
    given: Any = None
    while True:
        try:
            waited_for = step(given)
        except StopIteration:
            return
        waits += 1
        if waits == turn:
            task.cancel()
        try:
            given, step = (yield waited_for), work.send
        except BaseException as error:
            given, step = error, work.throw


def given(event_id: str, stream_seq: int) -> Incoming:
    """A message as it is given to the consumer."""
    message = Message(SUBJECT, b"{}", {"Nats-Msg-Id": event_id})
    stored = StoredMessage(message, "SEA_EVENTS", stream_seq, datetime.now(UTC))
    return Incoming.read(stored, CONSUMER, deliveries=1)


class InboxConformance:
    """Fixtures to give: ``store``, and ``inbox`` on its database."""

    async def test_a_rolled_back_transaction_leaves_nothing(
        self, inbox: InboxStore, store: Store
    ) -> None:
        with undone():
            async with inbox.transaction() as tx:
                assert await tx.claim(CONSUMER, "e1")
                await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
                raise Undo
        assert await store.entries() == []
        assert await inbox.claimed(CONSUMER, ["e1"]) == set()

    async def test_a_consumer_claims_an_event_once(self, inbox: InboxStore, store: Store) -> None:
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")
            assert not await tx.claim(CONSUMER, "e1")
        async with inbox.transaction() as tx:
            assert not await tx.claim(CONSUMER, "e1")
            assert await tx.claim("analytics__from_sea", "e1")
        processed = await store.processed("e1")
        assert set(processed) == {CONSUMER, "analytics__from_sea"}
        assert all(abs(datetime.now(UTC) - at) < timedelta(minutes=1) for at in processed.values())

    async def test_a_rolled_back_claim_can_be_made_again(self, inbox: InboxStore) -> None:
        with undone():
            async with inbox.transaction() as tx:
                assert await tx.claim(CONSUMER, "e1")
                raise Undo
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")

    async def test_the_bodys_own_error_is_not_taken_for_the_databases(
        self, inbox: InboxStore
    ) -> None:
        # What a handler meets where a service that it calls is away, or takes too long.
        for own in (ConnectionRefusedError("the register"), TimeoutError("the register")):
            with pytest.raises(type(own), match="the register"):  # noqa: PT012
                async with inbox.transaction() as tx:
                    await tx.claim(CONSUMER, "e1")
                    raise own
        assert await inbox.claimed(CONSUMER, ["e1"]) == set()

    async def test_of_many_at_once_one_claims(self, inbox: InboxStore) -> None:
        async def claim() -> bool:
            while True:
                # Above READ COMMITTED, who waited for the one that claims has to begin anew.
                with suppress(TransactionConflict):
                    async with inbox.transaction() as tx:
                        return await tx.claim(CONSUMER, "e1")

        outcomes = await asyncio.gather(*[claim() for _ in range(20)])
        assert sorted(outcomes) == [False] * 19 + [True]

    async def test_inbox_rows_are_claimed_together(self, inbox: InboxStore) -> None:
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e2")
            assert await tx.claim_many(CONSUMER, []) == set()
            assert await tx.claim_many(CONSUMER, ["e3", "e1", "e2", "e1"]) == {"e1", "e3"}
            assert await tx.claim_many("another__from_sea", ["e1"]) == {"e1"}
        with undone():
            async with inbox.transaction() as tx:
                assert await tx.claim_many(CONSUMER, ["e1", "e4"]) == {"e4"}
                raise Undo
        for consumer in (CONSUMER, "another__from_sea"):
            assert await inbox.claimed(consumer, ["e1"]) == {"e1"}
        assert await inbox.claimed(CONSUMER, ["e4"]) == set()

    async def test_what_is_unclaimed_can_be_claimed_anew(self, inbox: InboxStore) -> None:
        async with inbox.transaction() as tx:
            await tx.claim_many(CONSUMER, ["e1", "e2"])
            await tx.claim("another__from_sea", "e1")
        with undone():
            async with inbox.transaction() as tx:
                assert await tx.unclaim(CONSUMER, ["e1", "e3", "e2"]) == 2
                assert await tx.claim_many(CONSUMER, ["e1"]) == {"e1"}
                await tx.check()
                raise Undo
        assert await inbox.claimed(CONSUMER, ["e1", "e2"]) == {"e1", "e2"}
        async with inbox.transaction() as tx:
            assert await tx.unclaim(CONSUMER, []) == 0
            assert await tx.unclaim(CONSUMER, ["e1", "e2"]) == 2
            assert await tx.claim(CONSUMER, "e1")
            await tx.check()
        assert await inbox.claimed(CONSUMER, ["e1", "e2"]) == {"e1"}
        assert await inbox.claimed("another__from_sea", ["e1"]) == {"e1"}

    async def test_what_is_tried_again_is_counted(self, inbox: InboxStore) -> None:
        odd = 'it\'s \\ "e1" $1 $2; --'
        async with inbox.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e2", "e1", "e2", odd]) == {"e1": 1, "e2": 1, odd: 1}
            assert await tx.trying(CONSUMER, []) == {}
            assert await tx.trying("another__from_sea", ["e1"]) == {"e1": 1}
        with undone():
            async with inbox.transaction() as tx:
                assert await tx.trying(CONSUMER, ["e1"]) == {"e1": 2}
                raise Undo
        async with inbox.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e1", "e3"]) == {"e1": 2, "e3": 1}

    async def test_what_is_tried_has_no_effect_until_it_is_claimed(self, inbox: InboxStore) -> None:
        async with inbox.transaction() as tx:
            await tx.trying(CONSUMER, ["e1", "e2", "e3"])
        assert await inbox.claimed(CONSUMER, ["e1"]) == set()
        assert await inbox.claimed(CONSUMER, ["e1", "e2"]) == set()
        with undone():
            async with inbox.transaction() as tx:
                assert await tx.claim(CONSUMER, "e1")
                assert await tx.claim_many(CONSUMER, ["e2", "e3"]) == {"e2", "e3"}
                raise Undo
        assert await inbox.claimed(CONSUMER, ["e1", "e2"]) == set()
        async with inbox.transaction() as tx:
            assert await tx.trying(CONSUMER, ["e1"]) == {"e1": 2}
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")
            assert await tx.claim_many(CONSUMER, ["e1", "e2"]) == {"e2"}
        assert await inbox.claimed(CONSUMER, ["e1", "e2", "e3"]) == {"e1", "e2"}

    async def test_several_count_the_same_events(self, inbox: InboxStore) -> None:
        async def count(event_ids: Sequence[str]) -> int:
            while True:
                with suppress(TransactionConflict):
                    async with inbox.transaction() as tx:
                        return sum((await tx.trying(CONSUMER, event_ids)).values())

        wanted = ["e1", "e2", "e3"]
        counted = await asyncio.gather(
            *(count(wanted if turn % 2 else wanted[::-1]) for turn in range(10))
        )
        assert sorted(counted) == [3 * turn for turn in range(1, 11)]

    async def test_a_message_becomes_a_letter_or_takes_effect(self, inbox: InboxStore) -> None:
        refused, handled = given("e1", 1), given("e2", 2)
        assert await to_letter(inbox, refused, "poison", parks=False) == "poison"
        # By whoever comes to it before the letter is stored; the queue takes it once.
        assert await to_letter(inbox, refused, "exhausted", parks=False) == "poison"
        consumer, row = letter_row(CONSUMER, refused.place, "e1")
        async with inbox.transaction() as tx:
            assert await tx.claim_many(consumer, [row]) == set(), "so no effect is committed"
            assert await tx.claim(CONSUMER, "e1"), "its redrive is another message"
        await note_stored(inbox, refused, 7, parks=False)
        again = given("e3", 1)  # In the same place of a stream that was made anew.
        assert await to_letter(inbox, again, "parked", parks=False) == "parked"
        await note_stored(inbox, again, 8, parks=False)
        assert await to_letter(inbox, again, "poison", parks=False) is None
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e2")
        assert await to_letter(inbox, handled, "poison", parks=False) is None

    @pytest.mark.parametrize("ends", ["commit", "rollback"])
    async def test_a_decision_waits_for_the_handler_that_has_the_event_in_hand(
        self, inbox: InboxStore, store: Store, ends: str
    ) -> None:
        message = given("e1", 1)
        deciding: asyncio.Task[DeadLetterReason | None] | None = None
        with nullcontext() if ends == "commit" else undone():
            async with inbox.transaction() as tx:
                assert await tx.claim(CONSUMER, "e1")
                deciding = asyncio.ensure_future(to_letter(inbox, message, "poison", parks=False))
                consumer, row = letter_row(CONSUMER, message.place, "e1")
                while store.capabilities.concurrent_transactions and not await store.claimed(
                    consumer, [row]
                ):
                    assert not deciding.done()
                if ends == "rollback":
                    raise Undo
        assert deciding is not None
        assert await deciding == (None if ends == "commit" else "poison")

    async def test_a_cancelled_transaction_leaves_nothing(
        self, inbox: InboxStore, store: Store
    ) -> None:
        inside = asyncio.Event()

        async def handle() -> None:
            async with inbox.transaction() as tx:
                await tx.claim(CONSUMER, "e1")
                await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(handle())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.entries() == []
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")

    async def test_cancelled_at_any_await_a_transaction_is_whole(
        self, inbox: InboxStore, store: Store
    ) -> None:
        async def handle(event_id: str) -> None:
            async with inbox.transaction() as tx:
                await tx.claim_many(CONSUMER, [event_id])
                await add_in(tx.handle, RawEvent(SUBJECT, b"{}", event_id=event_id))

        async def claimed(event_id: str) -> bool:
            return bool(await inbox.claimed(CONSUMER, [event_id]))

        async def added(event_id: str) -> bool:
            return bool(await store.entries(event_id=event_id))

        await whole_wherever_cancelled(handle, claimed, added)
        await asyncio.wait_for(handle(new_event_id()), 5)

    async def test_many_are_claimed_as_one_is(self, inbox: InboxStore) -> None:
        odd = 'it\'s \\ "e1" $1 $2; --'
        for claimed in (["e1"], [odd], ["e2", "e3", "e2"], []):
            for fresh in (set(claimed), set[str]()):
                async with inbox.transaction() as tx:
                    assert await tx.claim_many(CONSUMER, claimed) == fresh
            assert await inbox.claimed(CONSUMER, claimed) == set(claimed)

    async def test_which_of_many_are_claimed_is_told_at_once(self, inbox: InboxStore) -> None:
        odd = 'it\'s \\ "e1" $1 $2; --'
        async with inbox.transaction() as tx:
            await tx.claim_many(CONSUMER, ["e1", odd])
            await tx.claim("another__from_sea", "e2")
        assert await inbox.claimed(CONSUMER, ["e1", "e2", odd, "e3"]) == {"e1", odd}
        assert await inbox.claimed(CONSUMER, {"e2"}) == set()
        assert await inbox.claimed(CONSUMER, []) == set()

    async def test_a_consumers_rows_are_read_through_in_order(
        self, inbox: InboxStore, store: Store
    ) -> None:
        new = [f"{new_event_id()}:SEA_EVENTS:{number}" for number in range(3)]
        odd = ["A", "a", "b'; --", "e\u00e9:1"]
        async with inbox.transaction() as tx:
            await tx.claim_many(CONSUMER, [*odd, *new])
            await tx.claim("another__from_sea", "aa")
        every = [*new, *odd]
        assert list(await store.inbox_rows(CONSUMER)) == every
        assert list(await store.inbox_rows(CONSUMER, limit=4)) == every[:4]
        assert list(await store.inbox_rows(CONSUMER, after=every[3], limit=2)) == every[4:6]
        first, _, _ = new[0].partition(":")
        assert list(await store.inbox_rows(CONSUMER, after=f"{first}:", before=f"{first};")) == [
            new[0]
        ]
        assert list(await store.inbox_rows("nobody__from_sea")) == []

    async def test_one_transaction_after_another_has_its_own_time_and_end(
        self, inbox: InboxStore, store: Store
    ) -> None:
        """Also where the end of one is the beginning of the next."""
        for number in range(6):
            event_id = f"e{number}"
            with undone() if number % 2 else nullcontext():
                async with inbox.transaction() as tx:
                    assert await tx.claim_many(CONSUMER, [event_id]) == {event_id}
                    await add_in(tx.handle, RawEvent(SUBJECT, b"{}"))
                    if number % 2:
                        raise Undo
        assert len(await store.entries()) == 3
        for number in range(6):
            assert bool(await inbox.claimed(CONSUMER, [f"e{number}"])) is (number % 2 == 0)

    async def test_a_task_cannot_wait_for_itself(self, inbox: InboxStore, store: Store) -> None:
        if store.capabilities.concurrent_transactions:
            async with inbox.transaction() as outer, inbox.transaction() as inner:
                assert outer.handle is not inner.handle
            return
        async with inbox.transaction() as tx:
            with pytest.raises(ConfigError, match="already"):
                async with inbox.transaction():
                    pass
            assert await tx.claim(CONSUMER, "e1")
        assert await inbox.claimed(CONSUMER, ["e1"]) == {"e1"}

    async def test_closing_twice_is_closing(self, inbox: InboxStore) -> None:
        async with inbox.transaction() as tx:
            assert await tx.claim(CONSUMER, "e1")
        await inbox.close()
        await inbox.close()
