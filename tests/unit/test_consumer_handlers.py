"""What is refused when a handler is registered, and which handler takes which subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pytest

from seaway.consumer import Consumer, Delivery
from seaway.consumer.handlers import HandlerTable
from seaway.errors import ConfigError
from seaway.events import RawEvent, event
from seaway.naming import Durable

if TYPE_CHECKING:
    from collections.abc import Mapping


@event(context="handlers", version=1)
@dataclass
class CaseOpened:
    case_id: str


@event(context="handlers", version=1)
@dataclass
class CaseShut:
    case_id: str


class NotAnEvent: ...


def consumer(**options: Any) -> Consumer:
    return Consumer(
        Durable.from_context("case_mgmt", "handlers"), stream="HANDLERS_EVENTS", **options
    )


def test_the_function_comes_back_as_it_was() -> None:
    async def handle(event: CaseOpened, delivery: Delivery) -> None: ...

    assert consumer().handler(CaseOpened)(handle) is handle


def test_each_subject_finds_its_handler_and_the_raw_one_takes_the_rest() -> None:
    async def opened(event: CaseOpened, delivery: Delivery) -> None: ...
    async def rest(event: RawEvent, delivery: Delivery) -> None: ...

    table = HandlerTable("case_mgmt__from_handlers")
    table.register(CaseOpened, opened)
    assert table.find("handlers.event.case_shut.v1") is None
    table.register(RawEvent, rest)

    found = {
        subject: registration.handler
        for subject in ("handlers.event.case_opened.v1", "handlers.event.case_opened.v2", "x")
        if (registration := table.find(subject))
    }
    assert found == {
        "handlers.event.case_opened.v1": opened,
        "handlers.event.case_opened.v2": rest,
        "x": rest,
    }


@pytest.mark.parametrize("kind", [CaseOpened, RawEvent])
def test_a_second_handler_is_refused_and_both_are_named(kind: type[Any]) -> None:
    async def first(event: Any, delivery: Delivery) -> None: ...
    async def second(event: Any, delivery: Delivery) -> None: ...

    declared = consumer()
    declared.handler(kind)(first)
    with pytest.raises(ConfigError) as refused:
        declared.handler(kind)(second)
    here = re.escape(__file__)
    assert re.search(rf"first \({here}:\d+\) and .*second \({here}:\d+\)", str(refused.value))


def test_a_consumers_handlers_are_all_of_one_kind() -> None:
    def plain(event: CaseOpened, delivery: Delivery) -> None: ...
    async def other(event: RawEvent, delivery: Delivery) -> None: ...

    one, two = consumer(), consumer()
    assert one.handler(CaseOpened)(plain) is plain
    with pytest.raises(ConfigError, match=r"plain \(.*:\d+\) is plain, .*other \(.*\) is async"):
        one.handler(RawEvent)(other)
    two.handler(RawEvent)(other)
    with pytest.raises(ConfigError, match=r"plain \(.*:\d+\) is plain, .*other \(.*\) is async"):
        two.handler(CaseOpened)(plain)
    assert (one.plain, two.plain) == (True, False)


def test_a_function_that_yields_handles_nothing() -> None:
    def handle(event: CaseOpened, delivery: Delivery) -> Any:
        yield

    with pytest.raises(ConfigError, match=r"handle \(.*:\d+\) yields"):
        consumer().handler(CaseOpened)(handle)


async def none() -> None: ...
async def three(event: CaseOpened, delivery: Delivery, more: str) -> None: ...
async def keyword(*, event: CaseOpened, delivery: Delivery) -> None: ...
async def rest(*args: Any) -> None: ...


@pytest.mark.parametrize(
    ("handle", "says"),
    [
        (none, "takes no event"),
        (three, "nobody fills more: str"),
        (keyword, "takes no event"),
        (rest, "takes no event"),
    ],
)
def test_a_handler_whose_parameters_nobody_fills_is_refused(handle: Any, says: str) -> None:
    wanted = f"{handle.__name__} .*{says} .a handler takes .event: CaseOpened, delivery: Delivery"
    with pytest.raises(ConfigError, match=wanted):
        consumer().handler(CaseOpened)(handle)


def test_a_wrong_event_is_refused_by_mypy_and_at_import() -> None:
    async def handle(event: CaseShut, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match="event is annotated CaseShut, but is given CaseOpened"):
        consumer().handler(CaseOpened)(handle)  # type: ignore[arg-type]


def test_a_wrong_delivery_is_refused() -> None:
    async def handle(event: CaseOpened, delivery: str) -> None: ...

    with pytest.raises(ConfigError, match="delivery is annotated str, but is given Delivery"):
        consumer().handler(CaseOpened)(handle)


def test_annotations_that_only_the_type_checker_sees_are_left_to_it() -> None:
    async def handle(event: CaseOpened, delivery: Delivery) -> Mapping[str, str] | None:
        return None

    assert consumer().handler(CaseOpened)(cast("Any", handle)) is handle


def test_a_bound_method_and_unannotated_parameters_are_fine() -> None:
    class Service:
        async def handle(self, event, delivery) -> None: ...  # type: ignore[no-untyped-def]

    service = Service()
    method = service.handle
    assert consumer().handler(CaseOpened)(method) is method


def test_what_is_not_an_event_is_refused() -> None:
    async def handle(event: NotAnEvent, delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match=r"NotAnEvent is not an event .*@event"):
        consumer().handler(NotAnEvent)(handle)
