"""Letters are discarded, kept for a time and brought back, on a real server and a real database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.contracts import Broker, Message, Store, Stored
from seaway.dead_letters import Letter
from seaway.errors import BrokerUnavailable, NotFound, StoreUnavailable
from seaway.inbox.letters import letter_row
from seaway.mending import Mending
from seaway.mending.changes import MOST_IDS, note_changes
from seaway.stores import open_store

pytestmark = pytest.mark.server
TIMEOUT = timedelta(seconds=5)
ODD = b"\x00\xff not json"


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Steps:
    """Every call that goes to a server or a database counts; the process ends before, or after,
    the one that is told."""

    ends_at: int = 0
    after: bool = False
    taken: int = 0
    names: list[str] = field(default_factory=list)

    def over(self, thing: Any) -> Any:
        """``thing``, whose calls count."""
        return _Counted(self, thing)

    async def step(self, name: str, call: Callable[[], Any]) -> Any:
        self.taken += 1
        self.names.append(name)
        if self.taken == self.ends_at and not self.after:
            raise Killed
        result = await call()
        if self.taken == self.ends_at:
            raise Killed
        return result


_STEPS = {
    *("get", "delete_message", "publish", "keep_discarded", "take_discarded", "unclaim"),
    *("note", "discarded_letters", "unhandled"),
}


class _Counted:
    def __init__(self, steps: Steps, thing: Any) -> None:
        self._steps, self._thing = steps, thing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if name == "admin":
            return _Counted(self._steps, found)
        if name not in _STEPS:
            return found
        return lambda *given, **more: self._steps.step(name, lambda: found(*given, **more))


class Desk:
    """A context with one durable, its letters, and a database."""

    def __init__(self, broker: JetStreamBroker, store: Store, context: str) -> None:
        self.broker, self.store, self.context = broker, store, context
        self.stream, self.queue = f"{context.upper()}_EVENTS", f"{context.upper()}_DLQ"
        self.durable = f"case_mgmt__from_{context}"
        self.letters = self.mending()

    def mending(self, steps: Steps | None = None, **options: Any) -> Mending:
        broker: Broker = self.broker
        store = self.store
        if steps is not None:
            broker, store = steps.over(broker), steps.over(store)

        async def opened() -> Store:
            return store

        return Mending(broker, queues=[self.queue], opening=opened, **options)

    async def open(self) -> None:
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [{"stream": self.stream, "durable": self.durable}],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def bury(self, *payloads: bytes, key: str = "case-1") -> list[Letter]:
        subject = f"{self.context}.event.moved.v1"
        for payload in payloads:
            headers = {"Nats-Msg-Id": uuid.uuid4().hex, "X-Ordering-Key": key, "X-Tenant": "süd"}
            [outcome] = await self.broker.publish(
                self.stream, [Message(subject, payload, headers)], timeout=TIMEOUT
            )
            assert isinstance(outcome, Stored)
        async with self.broker.subscribe(self.stream, self.durable) as source:
            taken = 0
            while taken < len(payloads):
                for incoming in await source.next(len(payloads), timeout=TIMEOUT):
                    await self.letters.store(incoming, reason="poison", error=ValueError("no"))
                    assert all(await source.ack(incoming))
                    taken += 1
        return list(await self.letters.list())

    async def brought_back(self) -> Letter:
        """The one letter that there is, in its queue."""
        for kept in await self.letters.discarded():
            await self.letters.restore(kept.id)
        [letter] = await self.letters.list()
        return letter

    async def forget_ids(self) -> None:
        """Have the queue forget the ids of what it has stored."""
        probe = Message(f"{self.context}.dlq.probe", b"", {"Nats-Msg-Id": "probe"})
        places: list[int] = []
        async with asyncio.timeout(30):
            while len(places) < 2:
                [outcome] = await self.broker.publish(self.queue, [probe], timeout=TIMEOUT)
                assert isinstance(outcome, Stored)
                places += [] if outcome.duplicate else [outcome.stream_seq]
        for place in places:
            assert await self.broker.admin.delete_message(self.queue, place)

    async def configure(self, **changed: Any) -> None:
        """Change how the queue is made."""
        info = await self.broker.admin.stream(self.queue)
        assert info is not None
        await self.broker.admin.update_stream({**info.config, **changed})

    async def reword(self, letter: Letter, reason: str) -> None:
        """Have it be a letter of another reason, behind all others."""
        headers = {**letter.stored.message.headers, "X-Dlq-Reason": reason, "Nats-Msg-Id": "again"}
        message = Message(letter.stored.message.subject, letter.payload, headers)
        await self.broker.admin.delete_message(*letter.stored.place)
        [outcome] = await self.broker.publish(self.queue, [message], timeout=TIMEOUT)
        assert isinstance(outcome, Stored)

    async def is_noted(self, letter: Letter) -> bool:
        """Whether the inbox says that somebody gave it up."""
        _, row = letter_row(letter.consumer, letter.place, letter.event_id)
        return bool(await self.store.claimed(f"{letter.consumer} letters discarded", [row]))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(f"sqlite:///{tmp_path}/app.db")
    await opened.schema.upgrade()
    yield opened
    await opened.close()


@pytest.fixture
async def desk(broker: JetStreamBroker, store: Store, context_name: str) -> Desk:
    made = Desk(broker, store, context_name)
    await made.open()
    return made


def content(letter: Letter) -> tuple[Any, ...]:
    """All that a letter is, but for its place."""
    headers = {k: v for k, v in letter.stored.message.headers.items() if k != "Nats-Msg-Id"}
    return letter.stored.message.subject, letter.payload, headers, letter.event_id, letter.problem


async def test_a_discarded_letter_comes_back_as_it_was(desk: Desk) -> None:
    stays, goes = await desk.bury(b"{}", ODD)
    assert await desk.letters.discard(goes, why="a test order", by="ann@host")
    assert [one.id for one in await desk.letters.list()] == [stays.id]
    assert await desk.is_noted(goes)
    [kept] = await desk.letters.discarded()
    assert (kept.id, kept.by, kept.why, kept.bare) == (goes.id, "ann@host", "a test order", True)
    assert not await desk.letters.discard(goes)

    [restored] = await desk.letters.restore(goes.event_id, by="bob@host")
    assert (restored.letter.id, restored.late) == (goes.id, 0)
    _, back = await desk.letters.list()
    assert back.id == restored.id != goes.id
    assert content(back) == content(goes)
    assert not await desk.is_noted(goes)
    assert list(await desk.letters.discarded()) == []

    newest, oldest = await desk.letters.changes(goes.id)
    assert (newest.action, newest.by, newest.about) == ("restored", "bob@host", desk.queue)
    assert newest.detail["ids"] == [[back.id, goes.event_id, goes.id]]
    assert (oldest.action, oldest.by, oldest.detail["why"]) == (
        *("discarded", "ann@host", "a test order"),
    )
    assert list(await desk.store.unseen()) == []
    with pytest.raises(NotFound, match=rf"{goes.id} was restored .* by bob@host"):
        await desk.letters.restore(goes.id)
    with pytest.raises(NotFound, match="no discarded letter SEA_DLQ:999"):
        await desk.letters.restore("SEA_DLQ:999")
    # And again, in its new place.
    assert await desk.letters.discard(back)
    [again] = await desk.letters.restore(back.id)
    assert again.id not in (goes.id, back.id)
    assert len(await desk.letters.list()) == 2


async def test_what_was_kept_for_its_time_is_gone(desk: Desk) -> None:
    [letter] = await desk.bury(b"{}")
    assert await desk.mending(restore_for=timedelta(microseconds=1)).discard(letter, by="ann@host")
    with pytest.raises(NotFound, match=r"discarded .* by ann@host, and is kept no more"):
        await desk.letters.restore(letter.id)
    assert list(await desk.letters.list()) == []
    [letter] = await desk.bury(b"{}")
    assert await desk.mending(restore_for=timedelta()).discard(letter)
    assert await desk.is_noted(letter)
    newest, _ = await desk.letters.changes()
    assert newest.detail["for_good"] is True


async def test_whoever_discards_may_die_at_any_step(desk: Desk) -> None:
    """Nothing is lost: the letter is in its queue, or kept. The same again goes on."""
    steps = Steps()
    [letter] = await desk.bury(ODD)
    await desk.mending(steps).discard(letter)
    assert {"keep_discarded", "delete_message", "note"} <= set(steps.names)
    for after in (False, True):
        for ends_at in range(1, steps.taken + 1):
            back = await desk.brought_back()
            assert content(back) == content(letter)
            with pytest.raises(Killed):
                await desk.mending(Steps(ends_at, after)).discard(back)
            for one in await desk.letters.list():  # The same command again.
                assert await desk.letters.discard(one)
            assert list(await desk.letters.list()) == []
            assert len(await desk.letters.discarded()) == 1
    assert content(await desk.brought_back()) == content(letter)


async def test_whoever_brings_a_letter_back_may_die_at_any_step(desk: Desk) -> None:
    """It is there once in the end, however long after that the same is done again."""
    await desk.configure(duplicate_window=100_000_000)
    [letter] = await desk.bury(ODD)
    steps, was = Steps(), content(letter)
    await desk.letters.discard(letter)
    await desk.mending(steps).restore(letter.id)
    assert {"publish", "unclaim", "take_discarded", "note"} <= set(steps.names)
    for after in (False, True):
        for ends_at in range(1, steps.taken + 1):
            [letter] = await desk.letters.list()
            await desk.letters.discard(letter)
            with pytest.raises(Killed):
                await desk.mending(Steps(ends_at, after)).restore(letter.id)
            if await desk.letters.list():
                await desk.forget_ids()
            assert content(await desk.brought_back()) == was
            assert list(await desk.letters.discarded()) == []
            assert not await desk.is_noted(letter)


async def test_a_letter_that_is_still_in_its_queue_is_brought_back_once(desk: Desk) -> None:
    """Whoever was about to take it out does so later, and takes out nothing else."""
    steps = Steps()
    [letter] = await desk.bury(ODD)
    await desk.mending(steps).discard(letter)
    letter = await desk.brought_back()
    at = steps.names.index("delete_message") + 1
    with pytest.raises(Killed):
        await desk.mending(Steps(ends_at=at)).discard(letter)
    assert len(await desk.letters.list()) == 1
    [restored] = await desk.letters.restore(letter.id)
    assert not await desk.broker.admin.delete_message(*letter.stored.place)
    [back] = await desk.letters.list()
    assert (back.id, content(back)) == (restored.id, content(letter))


async def test_two_operators_at_once_make_one_letter(desk: Desk) -> None:
    letters = await desk.bury(*(b"%d" % n for n in range(60)))
    both = [desk.mending(), desk.mending()]

    async def discard(mending: Mending) -> int:
        return sum([one.removed async for one in mending.discard_all(letters)])

    async def restore(mending: Mending) -> None:
        kept = await mending.discarded(limit=1000)
        assert [one async for one in mending.restore_all(kept)]

    assert sum(await asyncio.gather(*map(discard, both))) == 60
    assert len(await desk.letters.discarded()) == 60
    await asyncio.gather(*map(restore, both))
    assert sorted(one.payload for one in await desk.letters.list()) == sorted(
        one.payload for one in letters
    )
    assert list(await desk.letters.discarded()) == []

    # One brings back what another takes out: each is in the queue, or kept.
    letters = list(await desk.letters.list())
    await asyncio.gather(discard(both[0]), *(restore_what_is_there(desk) for _ in range(5)))
    left = [one.event_id for one in await desk.letters.list()]
    kept = [one.event_id for one in await desk.letters.discarded(limit=1000)]
    assert len(left) == len(set(left))
    assert {*left, *kept} == {one.event_id for one in letters}


async def restore_what_is_there(desk: Desk) -> None:
    kept = await desk.letters.discarded(limit=1000)
    assert [one async for one in desk.letters.restore_all(kept)] or not kept


async def test_what_had_waited_has_gone_on_and_is_told(desk: Desk) -> None:
    first, second = await desk.bury(b"1", b"2")
    async with desk.store.transaction() as tx:
        for letter, failed in ((first, True), (second, False)):
            row = letter.consumer, letter.event_id, letter.key
            await tx.park(*row, place=letter.stream_seq, failed=failed)
            await tx.set_letter(*row[:2], letter.stored.stream_seq)
    await desk.reword(second, "parked")
    [first, second] = await desk.letters.list()
    assert second.waits

    async def head() -> tuple[str, int | None, bool]:
        [found] = await desk.store.parked_heads(desk.durable)
        return found.event_id, found.letter, found.failed

    # In time: it holds up the other, which still waits.
    assert await desk.letters.discard(first)
    [kept] = await desk.letters.discarded()
    assert (kept.holds, kept.behind) == (True, 1)
    [restored] = await desk.letters.restore(first.id)
    back = await desk.letters.get(first.event_id)
    assert restored.late == 0
    assert await head() == (first.event_id, back.stored.stream_seq, True)

    # Too late: the other was let go.
    assert await desk.letters.discard(back)
    [first_row] = await desk.store.parked_heads(desk.durable)
    assert await desk.store.drop_parked(first_row)
    await desk.letters.redrive(second)
    [restored] = await desk.letters.restore(first.event_id)
    assert restored.late == 1
    back = await desk.letters.get(first.event_id)
    assert await head() == (first.event_id, back.stored.stream_seq, True)


async def test_what_is_away_leaves_every_letter_where_it_is(desk: Desk) -> None:
    stays, goes = await desk.bury(b"1", b"2")
    assert await desk.letters.discard(goes)

    async def away() -> Store:
        raise StoreUnavailable("app.db is locked")

    without = Mending(desk.broker, queues=[desk.queue], opening=away)
    for call in (without.discard(stays), without.restore(goes.id), without.changes()):
        with pytest.raises(StoreUnavailable):
            await call
    await desk.configure(max_msgs=1, discard="new")
    with pytest.raises(BrokerUnavailable, match="maximum messages"):
        await desk.letters.restore(goes.id)
    assert [one.id for one in await desk.letters.list()] == [stays.id]
    assert await without.discard(stays, for_good=True)
    [restored] = await desk.letters.restore(goes.id)
    assert (await desk.letters.get(restored.id)).event_id == goes.event_id

    assert await desk.letters.discard(await desk.letters.get(restored.id))
    assert await desk.broker.admin.delete_stream(desk.queue)
    with pytest.raises(BrokerUnavailable, match=f"no stream {desk.queue}"):
        await desk.letters.restore(goes.event_id)
    await desk.open()
    assert await desk.letters.restore(goes.event_id)


async def test_what_somebody_else_put_there_comes_back_with_its_id(desk: Desk) -> None:
    headers = {"Nats-Msg-Id": "own-1", "X-Dlq-Reason": "whatever", "X-Odd": "\ufffd '; --"}
    foreign = Message(f"{desk.context}.dlq.anything", ODD, headers)
    for one in (foreign, Message(foreign.subject, b"")):
        [outcome] = await desk.broker.publish(desk.queue, [one], timeout=TIMEOUT)
        assert isinstance(outcome, Stored)
    before = await desk.letters.list()
    assert all([one.removed async for one in desk.letters.discard_all(before)])
    kept = await desk.letters.discarded()
    assert [one.error async for one in desk.letters.restore_all(kept)] == [None, None]
    after = await desk.letters.list()
    [named, _] = sorted(after, key=lambda one: -len(one.payload))
    assert named.event_id == "own-1"
    assert named.stored.message.headers["X-Odd"] == headers["X-Odd"]
    assert {(one.payload, one.subject) for one in after} == {
        (one.payload, one.subject) for one in before
    }
    assert all(one.problem for one in after)


async def test_many_letters_are_noted_in_entries_of_a_size(desk: Desk) -> None:
    @dataclass
    class Named:
        id: str
        event_id: str = "e"
        consumer: str = "c__d"

    many = [Named(f"SEA_DLQ:{n}") for n in range(2 * MOST_IDS + 1)]
    other = Named("ORDER_DLQ:1", "e2")
    await note_changes(desk.store, "redriven", [*many, other], by="ann", why="mended", run="r1")
    await note_changes(desk.store, "redriven", [], by="ann")
    entries = list(reversed(await desk.letters.changes()))
    assert [one.detail["letters"] for one in entries] == [MOST_IDS, MOST_IDS, 1, 1]
    assert {one.detail["run"] for one in entries} == {"r1"}
    assert [one.about for one in await desk.letters.changes("e2")] == ["ORDER_DLQ"]
    [found] = await desk.letters.changes(many[-1].id)
    assert found.detail["ids"] == [[many[-1].id, "e"]]
