"""What code names and the configuration does not: found, filled in, and written as a file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import Delivery, RawEvent, Seaway, event
from seaway.config import Lacking, completed, load_settings, settings_from_mapping, written
from seaway.errors import ConfigError
from seaway.testing.memory_store import MemoryStore
from seaway.testing.rehearsal import rehearsal


@event(context="harbour", version=1)
@dataclass
class ShipCame:
    name: str


@event(context="customs", version=1)
@dataclass
class GoodsSeen:
    name: str


async def take(event: Any, delivery: Delivery) -> None: ...


def app_with(*events: type[object], **mapping: object) -> Seaway:
    app = Seaway.from_config(mapping)
    tolls = app.consumer("tolls", purpose="dues")
    for one in events:
        tolls.handler(one)(take)
    return app


def test_a_purpose_is_on_the_stream_of_the_events_that_it_handles() -> None:
    app = app_with(ShipCame, RawEvent)
    missing = app.lacking()
    assert missing.consumers == (("HARBOUR_EVENTS", "tolls__dues"),)
    assert {"HARBOUR_EVENTS", "CUSTOMS_EVENTS"} <= set(missing.streams)
    assert app.complete() == missing
    assert app.consumers["tolls__dues"].stream == "HARBOUR_EVENTS"
    app.refuse_undeclared()
    assert not app.lacking()


@pytest.mark.parametrize("events", [(ShipCame, GoodsSeen), (RawEvent,), ()])
def test_a_purpose_of_which_the_stream_is_not_told_is_an_error(events: tuple[type, ...]) -> None:
    with pytest.raises(ConfigError, match=r"tolls__dues: on which stream.*from_context="):
        app_with(*events).lacking()


def test_what_is_filled_in_is_as_a_file_would_have_it(tmp_path: Path) -> None:
    given = settings_from_mapping(
        {
            "nats": {"url": "nats://me:secret@127.0.0.1:4333"},
            "database": "sqlite:///a${b}.db",
            "streams": [{"name": "SHOP_EVENTS", "max_age": "1d"}],
            "profile": "small",
            "profiles": {"small": {"max_bytes": "1GB"}},
            "outbox": {"max_attempts": 3},
        },
        environ={},
    )
    assert given.inbox.retention == timedelta(days=8)
    missing = Lacking(("SEA_EVENTS",), (("SEA_EVENTS", "a__from_sea"), ("SHOP_EVENTS", "b__c")))
    whole = completed(given, missing)
    assert [stream.max_bytes for stream in whole.streams] == [1 << 30, 1 << 30]
    assert [one.filters for one in whole.consumers] == [("sea.event.>",), ("shop.event.>",)]
    # As long as an event can come again: seven days on the stream that was added.
    assert whole.inbox.retention == timedelta(days=14)

    file = tmp_path / "seaway.yaml"
    file.write_text(written(whole))
    assert "secret" not in file.read_text()
    read = load_settings(file, environ={})
    assert read.nats.url == "nats://127.0.0.1:4333"
    for name in ("database", "contexts", "streams", "consumers", "outbox", "inbox"):
        assert getattr(read, name) == getattr(whole, name), name


async def test_a_rehearsal_needs_a_configuration_only_where_there_is_one() -> None:
    store = MemoryStore()
    await store.schema.upgrade()
    async with rehearsal(app_with(ShipCame), store) as stage:
        await stage.publish(ShipCame("Argo"))
        await stage.settled()
        assert stage.outcomes == {"handled": 1}
    with pytest.raises(ConfigError, match="tolls__dues is not in the configuration"):
        async with rehearsal(app_with(ShipCame, contexts=["harbour"]), store):
            pass
