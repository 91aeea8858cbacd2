"""Middleware: what stands around a handler, and what it cannot do to a delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeAlias, cast

import pytest

from seaway import Seaway
from seaway.consumer import Delivery, Depends
from seaway.consumer.middleware import check, surrounded
from seaway.consumer.wiring import wire
from seaway.errors import AlreadyProcessed, ConfigError, Poison, SeawayError
from seaway.events import event

Next: TypeAlias = Callable[[], Awaitable[None]]

seen: list[Any] = []
DELIVERY = cast("Any", object())


@event(context="around", version=1)
@dataclass
class Opened:
    case_id: str


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def audit() -> Iterator[str]:
    seen.append("opened")
    yield "audit"
    seen.append("closed")


async def handle(event: Opened, audit: Annotated[str, Depends(audit)]) -> None:
    seen.append(event.case_id)
    raise_if_wanted(event)


def handle_plain(event: Opened, delivery: Delivery) -> None:
    seen.append(event.case_id)
    raise_if_wanted(event)


async def handle_lists(events: list[Opened], deliveries: list[Delivery]) -> None:
    seen.append(len(events))


def raise_if_wanted(event: Opened) -> None:
    if event.case_id == "bad":
        raise ValueError("the handler's")
    if event.case_id == "known":
        raise AlreadyProcessed


class Logging:
    async def __call__(self, delivery: Delivery | list[Delivery], call_next: Next) -> None:
        seen.append("logging")
        await call_next()
        seen.append("logged")


async def tenant(name: str, delivery: Delivery, call_next: Next) -> None:
    seen.append(name)
    try:
        await call_next()
    except ValueError as error:
        raise Poison(f"{name}: {error}") from error
    finally:
        seen.append(f"{name} left")


def around_plain(delivery: Delivery, call_next: Callable[[], None]) -> None:
    seen.append("plain")
    call_next()
    seen.append("plain left")


async def call(handler: Any, *middleware: Any, case_id: str = "good") -> None:
    lists = handler is handle_lists
    wired = wire(handler, (Opened, Delivery), takes_lists=lists)
    place = f"handler {handler.__name__}"
    for one in middleware:
        check(one)
    whole = surrounded(
        *(wired.call, middleware), place=place, plain=wired.plain, delivery=Delivery,
        takes_lists=lists,
    )  # fmt: skip
    done = whole([Opened(case_id)] if lists else Opened(case_id), DELIVERY)
    if not wired.plain:
        await done


async def test_the_first_is_outermost_and_dependencies_are_within() -> None:
    await call(handle, Logging(), partial(tenant, "t"))
    assert seen == ["logging", "t", "opened", "good", "closed", "t left", "logged"]


async def test_around_plain_handlers_both_kinds_stand() -> None:
    await call(handle_plain, Logging(), around_plain, partial(tenant, "t"))
    assert seen == ["logging", "plain", "t", "good", "t left", "plain left", "logged"]
    await call(handle_plain, around_plain)


async def test_what_a_plain_handler_returns_reaches_its_caller_who_looks_at_it() -> None:
    wired = wire(lambda event: event.case_id, (Opened, Delivery))
    layers: Any = (Logging(), around_plain)
    whole = surrounded(wired.call, layers, place="handler", plain=True, delivery=Delivery)
    assert whole(Opened("returned"), DELIVERY) == "returned"


async def test_around_batch_handlers_it_is_given_the_list() -> None:
    await call(handle_lists, Logging())
    assert seen == ["logging", 1, "logged"]


@pytest.mark.parametrize("handler", [handle, handle_plain])
async def test_an_error_passes_and_may_be_another_afterwards(handler: Any) -> None:
    with pytest.raises(Poison, match="t: the handler's"):
        await call(handler, Logging(), partial(tenant, "t"), case_id="bad")
    assert seen[0] == "logging"
    assert "logged" not in seen
    with pytest.raises(AlreadyProcessed):
        await call(handler, Logging(), case_id="known")


# ---------------------------------------------------------------------- what it cannot do


async def hushes(delivery: Delivery, call_next: Next) -> None:
    try:
        await call_next()
    except ValueError:
        seen.append("hushed")


async def calls_it_processed(delivery: Delivery, call_next: Next) -> None:
    try:
        await call_next()
    except ValueError as error:
        raise AlreadyProcessed from error


async def never(delivery: Delivery, call_next: Next) -> None: ...


async def twice(delivery: Delivery, call_next: Next) -> None:
    await call_next()
    try:
        await call_next()
    except SeawayError:
        seen.append("hushed")


async def skips(delivery: Delivery, call_next: Next) -> None:
    raise AlreadyProcessed("another tenant's")


async def leaves_it_running(delivery: Delivery, call_next: Next) -> None:
    seen.append(asyncio.ensure_future(call_next()))
    await asyncio.sleep(0)


async def waits(delivery: Delivery, call_next: Next) -> None:
    await call_next()
    await asyncio.sleep(0)


def hushes_plain(delivery: Delivery, call_next: Callable[[], None]) -> None:
    try:
        call_next()
    except ValueError:
        seen.append("hushed")


def never_plain(delivery: Delivery, call_next: Callable[[], None]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "middleware", "case_id", "error", "says"),
    [
        (handle, hushes, "bad", ValueError, "the handler's"),
        (handle_plain, hushes, "bad", ValueError, "the handler's"),
        (handle_plain, hushes_plain, "bad", ValueError, "the handler's"),
        (handle, calls_it_processed, "bad", ValueError, "the handler's"),
        (handle, never, "good", SeawayError, "middleware never returned without calling the handl"),
        (handle_plain, never_plain, "good", SeawayError, "never_plain returned without calling"),
        (handle, twice, "good", SeawayError, "middleware twice called call_next twice"),
        (handle_plain, twice, "good", SeawayError, "middleware twice called call_next twice"),
        (handle, skips, "good", AlreadyProcessed, "another tenant's"),
        (handle_plain, waits, "good", SeawayError, "middleware waits waited for something: in "),
    ],
)
async def test_no_delivery_counts_as_handled_whose_handler_was_not(
    handler: Any, middleware: Any, case_id: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        await call(handler, Logging(), middleware, case_id=case_id)
    if error is ValueError:
        assert raised.value.__notes__ == [
            f"middleware {middleware.__name__} passed over this error: it counts"
        ]


async def test_a_handler_that_is_left_running_is_no_handled_delivery() -> None:
    reached = asyncio.Event()

    async def slow(event: Opened, delivery: Delivery) -> None:
        await reached.wait()

    with pytest.raises(SeawayError, match=r"returned while the handler was running: await call"):
        await call(slow, leaves_it_running)
    reached.set()
    await seen[0]


# ---------------------------------------------------------------------- when it is registered


def one_parameter(delivery: Delivery) -> None: ...
async def three(delivery: Delivery, call_next: Next, more: str) -> None: ...
async def keywords(*, delivery: Delivery, call_next: Next) -> None: ...
async def yields(delivery: Delivery, call_next: Next) -> Any:
    yield


@pytest.mark.parametrize(
    ("middleware", "says"),
    [
        (one_parameter, r"one_parameter .* takes .delivery. .a middleware is async def"),
        (three, "three .* takes .delivery, call_next, more"),
        (keywords, "keywords .* takes .delivery, call_next."),
        (yields, r"yields .* is a generator .*awaits call_next"),
        (Logging, "middleware Logging is a class"),
    ],
)
def test_what_is_no_middleware_is_refused(middleware: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        application().middleware(middleware)


def application() -> Seaway:
    consumers = [{"stream": "AROUND_EVENTS", "durable": "case_mgmt__from_around"}]
    return Seaway.from_config({"contexts": ["around"], "consumers": consumers})


@pytest.mark.parametrize("first", ["middleware", "handler"])
@pytest.mark.parametrize(
    ("middleware", "batch", "says"),
    [
        (around_plain, False, "around_plain .* is plain, and handler handle .* is async"),
        (hushes, True, r"hushes .* takes Delivery, and batch handler handle_lists .* is given a "
         r"list .annotate its first parameter Delivery . list\[Delivery\]"),
    ],
)  # fmt: skip
def test_one_that_cannot_stand_around_a_handler_is_refused_in_either_order(
    first: str, middleware: Any, batch: bool, says: str
) -> None:
    app = application()
    if first == "middleware":
        app.middleware(middleware)
    consumer = app.consumer("case_mgmt", from_context="around")

    def handler() -> None:
        if batch:
            consumer.batch_handler(Opened)(handle_lists)
        else:
            consumer.handler(Opened)(handle)

    if first == "middleware":
        with pytest.raises(ConfigError, match=says):
            handler()
    else:
        handler()
        assert app.middleware(Logging())
        with pytest.raises(ConfigError, match=says):
            app.middleware(middleware)
