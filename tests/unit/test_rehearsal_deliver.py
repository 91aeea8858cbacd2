"""One message given to a consumer by hand, as whichever delivery of it: what fails is raised."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from seaway import AlreadyProcessed, Delivery, Poison, Seaway, event
from seaway.errors import ConfigError, DecodeError, Unavailable
from seaway.stores.sqlite import SqliteStore
from seaway.testing.memory_store import MemoryStore
from seaway.testing.rehearsal import rehearsal

SUBJECT = "rehearsed.event.bin_emptied.v1"
STOCK = "stock__from_rehearsed"


@event(context="rehearsed")
@dataclass
class BinEmptied:
    bin: str


class Broken(Exception):
    pass


def an_app(seen: list[Delivery], *, parks: bool = False) -> Seaway:
    app = Seaway.from_config(
        {
            "streams": [{"name": "REHEARSED_EVENTS", "replicas": 1}],
            "consumers": [
                {"stream": "REHEARSED_EVENTS", "durable": name, "max_deliver": 40}
                for name in (STOCK, "other__from_rehearsed")
            ],
        }
    )
    on_failure: Literal["park", "continue"] = "park" if parks else "continue"

    @app.consumer("stock", from_context="rehearsed", on_failure=on_failure).handler(BinEmptied)
    async def handle(event: BinEmptied, delivery: Delivery) -> None:
        seen.append(delivery)
        match event.bin:
            case "broken":
                raise Broken(f"try {delivery.deliveries}")
            case "poison":
                raise Poison("never")
            case "known":
                raise AlreadyProcessed
            case "away":
                raise Unavailable("the scales are away")
            case "hangs":
                await asyncio.Event().wait()

    @app.consumer("other", from_context="rehearsed").handler(BinEmptied)
    async def never(event: BinEmptied, delivery: Delivery) -> None:
        raise AssertionError("it is not told to run")

    return app


async def test_the_number_of_the_delivery_and_what_is_known_of_it() -> None:
    seen: list[Delivery] = []
    async with rehearsal(an_app(seen), MemoryStore(), consumers=[STOCK]) as stage:
        headers = {"Nats-Msg-Id": "e-1", "X-Ordering-Key": "bin-1", "X-Tenant": "t"}
        await stage.deliver(STOCK, SUBJECT, {"bin": "a"}, headers=headers, deliveries=20)
        await stage.deliver(STOCK, SUBJECT, b'{"bin":"known"}')
        again = {"X-Event-Id": "e-2"}
        await stage.deliver(STOCK, SUBJECT, {"bin": "b"}, headers=again, redriven=True)
        await stage.settled()
        assert stage.outcomes == {"handled": 2, "already_processed": 1}
        with pytest.raises(ConfigError, match="is there already"):
            await stage.deliver(STOCK, SUBJECT, {"bin": "a"}, headers=headers)
    first, unnamed, redriven = seen
    assert (first.event_id, first.key, first.deliveries) == ("e-1", "bin-1", 20)
    assert (first.headers, first.subject, first.redriven) == (headers, SUBJECT, False)
    assert (unnamed.event_id, unnamed.deliveries) == ("REHEARSED_EVENTS:2", 1)
    assert (redriven.event_id, redriven.subject, redriven.redriven) == ("e-2", SUBJECT, True)


async def test_what_fails_is_raised_at_once_as_it_was() -> None:
    seen: list[Delivery] = []
    async with rehearsal(an_app(seen), MemoryStore(), consumers=[STOCK]) as stage:
        for deliveries in (1, 17, 40):  # The last one becomes a letter, the others come again.
            own = {"X-Ordering-Key": str(deliveries)}
            with pytest.raises(Broken, match=f"^try {deliveries}$") as caught:
                await stage.deliver(
                    STOCK, SUBJECT, {"bin": "broken"}, headers=own, deliveries=deliveries
                )
            frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert frames == [frames[0], "deliver", "handle"]
        with pytest.raises(Poison, match="never"):
            await stage.deliver(STOCK, SUBJECT, {"bin": "poison"})
        with pytest.raises(DecodeError, match="bin"):
            await stage.deliver(STOCK, SUBJECT, {})
        with pytest.raises(DecodeError, match="X-Event-Version"):
            await stage.deliver(STOCK, SUBJECT, b"", headers={"X-Event-Version": "x"})
        with pytest.raises(DecodeError, match="version 2 is unknown here"):
            await stage.deliver(STOCK, SUBJECT.replace("v1", "v2"), b"")


async def test_what_cannot_be_delivered_or_does_not_end_is_said() -> None:
    soon = timedelta(milliseconds=300)
    async with rehearsal(an_app([]), MemoryStore(), consumers=[STOCK]) as stage:
        with pytest.raises(ConfigError, match=f"no consumer other.* runs here .these do: {STOCK}"):
            await stage.deliver("other__from_rehearsed", SUBJECT, {"bin": "a"})
        with pytest.raises(ConfigError, match="has no handler for rehearsed"):
            await stage.deliver(STOCK, "rehearsed.event.nothing.v1", {})
        with pytest.raises(TimeoutError, match=r"not done after 0.3 s .the scales are away"):
            await stage.deliver(STOCK, SUBJECT, {"bin": "away"}, within=soon)


async def test_what_waits_behind_a_failed_one_is_not_handled() -> None:
    seen: list[Delivery] = []
    app = an_app(seen, parks=True)
    async with rehearsal(app, MemoryStore(), consumers=[STOCK]) as stage:
        key = {"X-Ordering-Key": "bin-1"}
        with pytest.raises(Poison):
            await stage.deliver(STOCK, SUBJECT, {"bin": "poison"}, headers=key)
        with pytest.raises(Exception, match="it is parked"):
            await stage.deliver(STOCK, SUBJECT, {"bin": "a"}, headers=key)
    assert len(seen) == 1


async def test_a_url_is_opened_and_given_its_tables(tmp_path: Path) -> None:
    app = an_app([])
    path = tmp_path / "100% mine.db"

    async with rehearsal(app, f"sqlite:///{tmp_path}/100%25%20mine.db", consumers=[STOCK]) as stage:
        assert isinstance(stage.store, SqliteStore)
        await stage.deliver(STOCK, SUBJECT, {"bin": "a"}, headers={"Nats-Msg-Id": "e-1"})
    async with await SqliteStore.open(path) as store:
        assert await store.claimed(STOCK, ["e-1"]) == {"e-1"}


async def test_a_handler_that_commits_is_raised_where_it_was_delivered(tmp_path: Path) -> None:
    app = Seaway.from_config(
        {"consumers": [{"stream": "REHEARSED_EVENTS", "durable": STOCK}], "contexts": ["rehearsed"]}
    )

    @app.consumer("stock", from_context="rehearsed").handler(BinEmptied)
    async def handle(event: BinEmptied, delivery: Delivery) -> None:
        await delivery.tx.commit()

    with pytest.raises(ConfigError, match="handle"):
        async with rehearsal(app, f"sqlite:///{tmp_path}/mine.db") as stage:
            await stage.deliver(STOCK, SUBJECT, {"bin": "a"})
