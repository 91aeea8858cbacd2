"""Handlers are checked when they are registered, and refused in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from seaway.consumer import Consumer, Delivery
from seaway.errors import ConfigError
from seaway.events import RawEvent, Registry, event
from seaway.naming import Durable

registry = Registry()


@event(context="sea", registry=registry)
@dataclass
class CaseOpened:
    case_id: str


@event(context="sea", registry=registry)
@dataclass
class CaseShut:
    case_id: str


@pytest.fixture
def consumer() -> Consumer:
    return Consumer(Durable("case_mgmt", "from_sea"), stream="SEA_EVENTS")


def test_the_function_is_returned_as_it_is(consumer: Consumer) -> None:
    async def handle(event: CaseOpened, delivery: Delivery) -> None: ...

    assert consumer.handler(CaseOpened)(handle) is handle


def test_two_handlers_for_one_event(consumer: Consumer) -> None:
    @consumer.handler(CaseOpened)
    async def first(event: CaseOpened, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match=r"two handlers for sea\.event\.case_opened\.v1.*first"):

        @consumer.handler(CaseOpened)
        async def second(event: CaseOpened, delivery: Delivery) -> None: ...


def test_a_plain_function(consumer: Consumer) -> None:
    def handle(event: CaseOpened, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match="is not async"):
        consumer.handler(CaseOpened)(cast(Any, handle))


def test_another_annotation(consumer: Consumer) -> None:
    async def handle(event: CaseShut, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match="annotated CaseShut, but is given CaseOpened"):
        consumer.handler(CaseOpened)(cast(Any, handle))


def test_too_few_parameters(consumer: Consumer) -> None:
    async def handle(event: CaseOpened) -> None: ...

    with pytest.raises(ConfigError, match="takes 1 parameters"):
        consumer.handler(CaseOpened)(cast(Any, handle))


def test_a_class_that_is_no_event(consumer: Consumer) -> None:
    async def handle(event: int, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match="is not an event"):
        consumer.handler(int)(handle)


def test_raw_takes_what_is_left(consumer: Consumer) -> None:
    @consumer.handler(CaseOpened)
    async def typed(event: CaseOpened, delivery: Delivery) -> None: ...

    @consumer.handler(RawEvent)
    async def raw(event: RawEvent, delivery: Delivery) -> None: ...

    table = consumer._handlers
    assert (found := table.find("sea.event.case_opened.v1")) is not None
    assert found.handler is typed
    assert (other := table.find("sea.event.anything.v9")) is not None
    assert other.handler is raw


@pytest.mark.parametrize("options", [{"batch": 0}, {"workers": 0}, {"ordering": "some"}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Consumer(Durable("a", "b"), stream="SEA_EVENTS", **options)
