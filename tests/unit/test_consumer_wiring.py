"""Handlers as people write them: what fills their parameters, what is opened and closed when."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import pytest

from seaway.consumer import Delivery, Depends
from seaway.consumer.handlers import HandlerTable
from seaway.consumer.wiring import Wired, wire
from seaway.errors import AlreadyProcessed, ConfigError, Poison
from seaway.events import RawEvent, event

if TYPE_CHECKING:
    from seaway.outbox import Outbox


@event(context="wiring", version=1)
@dataclass
class Opened:
    case_id: str


@event(context="wiring", version=1)
@dataclass
class Shut:
    case_id: str


seen: list[Any] = []
EVENT = Opened("case-1")


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def delivery(tx: object = "tx") -> Delivery:
    return Delivery(cast("Any", None), cast("Any", None), tx=tx)


DELIVERY = delivery()


def wired(handler: Callable[..., Any], **options: Any) -> Wired:
    return wire(handler, (Opened, Delivery), **options)


async def call(handler: Callable[..., Any], **options: Any) -> Any:
    """As a consumer calls it, whichever kind it is."""
    made = wired(handler, **options)
    given = ([EVENT], [DELIVERY]) if options.get("takes_lists") else (EVENT, DELIVERY)
    done = made.call(*given)
    return done if made.plain else await done


# ---------------------------------------------------------------------- as people write them


async def both(event: Opened, delivery: Delivery) -> None:
    seen.append((event, delivery))


def both_plain(event: Opened, delivery: Delivery) -> None:
    seen.append((event, delivery))


async def with_more(name: str, event: Opened, delivery: Delivery, *, kind: str = "x") -> None:
    assert (name, kind) == ("n", "k")
    seen.append((event, delivery))


class Service:
    async def handle(self, event: Opened, delivery: Delivery) -> None:
        seen.append((event, delivery))

    @staticmethod
    async def static(event, delivery) -> None:  # type: ignore[no-untyped-def]
        seen.append((event, delivery))


class Async:
    async def __call__(self, event: Opened, delivery: Delivery) -> None:
        seen.append((event, delivery))


class Plain:
    def __call__(self, event: Opened, delivery: Delivery) -> None:
        seen.append((event, delivery))


async def defaults(event: Opened, kind: str = "x", delivery: Delivery | None = None) -> None:
    assert kind == "x"
    seen.append((event, delivery))


async def by_keyword(event: Opened | Shut, *, delivery: Delivery, kind: str = "x") -> None:
    seen.append((event, delivery))


async def named(event, kind="x", delivery=None) -> None:  # type: ignore[no-untyped-def]
    assert kind == "x"
    seen.append((event, delivery))


async def only_typed(event: Opened, delivery: Outbox) -> None:
    seen.append((event, delivery))


@pytest.mark.parametrize(
    ("handler", "as_it_is"),
    [
        (both, True),
        (both_plain, True),
        (partial(with_more, "n", kind="k"), True),
        (partial(partial(with_more, "n"), kind="k"), True),
        (Service().handle, True),
        (Service.static, True),
        (Async(), True),
        (Plain(), True),
        (partial(Plain()), True),
        (only_typed, True),
        (defaults, False),
        (by_keyword, False),
        (named, False),
    ],
)
async def test_each_kind_of_callable_is_given_event_and_delivery(
    handler: Any, as_it_is: bool
) -> None:
    await call(handler)
    assert seen == [(EVENT, DELIVERY)]
    made = wired(handler)
    assert made.plain is (handler is both_plain or "Plain" in repr(handler))
    # Nothing stands between where nothing is needed.
    assert (made.call is handler) is as_it_is


async def test_the_delivery_may_be_left_out() -> None:
    async def alone(event: Opened) -> None:
        seen.append(event)

    def plain(event, kind=1) -> None:  # type: ignore[no-untyped-def]
        seen.append((event, kind))

    await call(alone)
    await call(plain)
    assert seen == [EVENT, (EVENT, 1)]


# ---------------------------------------------------------------------- dependencies


class Cases:
    def __init__(self, delivery: Delivery) -> None:
        self.tx = delivery.tx
        seen.append("made")


@dataclass
class Known:
    """Made of what its fields say."""

    event: Opened
    delivery: Delivery
    kind: str = "x"


def tenant(event: Opened | Shut, cases: Annotated[Cases, Depends(Cases)]) -> tuple[str, Cases]:
    return event.case_id, cases


def audit(cases: Annotated[Cases, Depends(Cases)]) -> Iterator[str]:
    seen.append("audit opened")
    try:
        yield "audit"
    except BaseException as error:
        seen.append(f"audit sees {type(error).__name__}")
        raise
    finally:
        seen.append("audit closed")


@contextmanager
def unit(audit: Annotated[str, Depends(audit)]) -> Iterator[str]:
    seen.append("unit opened")
    yield f"unit of {audit}"
    seen.append("unit closed")


async def later(delivery: Delivery) -> object:
    return delivery.tx


@asynccontextmanager
async def channel() -> AsyncIterator[str]:
    yield "channel"
    seen.append("channel closed")


async def stream(channel: Annotated[str, Depends(channel)]) -> AsyncIterator[str]:
    yield f"stream on {channel}"
    seen.append("stream closed")


Tenant = Annotated[tuple[str, Cases], Depends(tenant)]


def plain_one(
    event: Opened,
    cases: Annotated[Cases, Depends(Cases)],
    of: Tenant,
    unit: Annotated[str, Depends(unit)],
    *,
    again: Annotated[Cases, Depends(Cases)],
    known: Annotated[Known, Depends(Known)],
    kind: str = "x",
) -> None:
    assert of == (event.case_id, cases)
    assert again is cases
    assert known == Known(event, DELIVERY)
    assert cases.tx == "tx"
    seen.append((unit, kind))


async def test_dependencies_are_made_once_and_closed_last_opened_first() -> None:
    await call(plain_one)
    opened = ["made", "audit opened", "unit opened"]
    assert seen == [*opened, ("unit of audit", "x"), "unit closed", "audit closed"]
    assert wired(plain_one).used == (Cases, tenant, audit, unit, Known)


async def test_those_of_an_async_handler_may_be_async() -> None:
    async def handle(
        event: Any, one: Any, two: Any, cases: Any, delivery: Any = None, bound: Any = None
    ) -> None:
        seen.append((one, two, cases.tx, delivery, bound))

    handle.__annotations__ |= {
        "one": Annotated[str, Depends(stream)],
        "two": Annotated[object, Depends(later)],
        "cases": Annotated[Cases, Depends(Cases)],
        "delivery": Delivery,
        "bound": Annotated[object, Depends(later)],
    }
    await call(partial(handle, bound="by the partial"))
    said = ("stream on channel", "tx", "tx", DELIVERY, "by the partial")
    assert seen == ["made", said, "stream closed", "channel closed"]


async def test_a_batch_handlers_dependencies_are_given_lists() -> None:
    await call(listed, takes_lists=True)
    assert seen == [(["case-1"], [EVENT], [DELIVERY])]
    with pytest.raises(ConfigError, match=r"delivery is annotated Delivery, but .*list\[Delivery"):
        wired(listed_wrong, takes_lists=True)


def ids(events: list[Opened]) -> list[str]:
    return [one.case_id for one in events]


async def listed(
    events: list[Opened], ids: Annotated[list[str], Depends(ids)], deliveries: list[Delivery]
) -> None:
    seen.append((ids, events, deliveries))


async def listed_wrong(events: list[Opened], cases: Annotated[Cases, Depends(Cases)]) -> None: ...


# ---------------------------------------------------------------------- where it goes wrong


def boom() -> str:
    raise Poison("no such tenant")


def fails_closing() -> Iterator[str]:
    yield "it"
    raise KeyError("not to be closed")


def hushes() -> Iterator[str]:
    with pytest.raises(Exception) as caught:
        yield "it"
    seen.append(f"hushed {caught.value}")


def translates() -> Iterator[str]:
    try:
        yield "it"
    except ValueError as error:
        raise Poison("translated") from error


def calls_it_processed() -> Iterator[str]:
    try:
        yield "it"
    except ValueError as error:
        raise AlreadyProcessed from error


def yields_twice() -> Iterator[str]:
    yield "one"
    yield "two"


async def opens_badly(
    event: Opened, audit: Annotated[str, Depends(audit)], it: Annotated[str, Depends(boom)]
) -> None:
    seen.append("called")


async def closes_badly(
    event: Opened, audit: Annotated[str, Depends(audit)], it: Annotated[str, Depends(fails_closing)]
) -> None:
    seen.append("called")


async def hushed(event: Opened, it: Annotated[str, Depends(hushes)]) -> None:
    raise ValueError("the handler's")


def translated(event: Opened, it: Annotated[str, Depends(translates)]) -> None:
    raise ValueError("the handler's")


def called_processed(event: Opened, it: Annotated[str, Depends(calls_it_processed)]) -> None:
    raise ValueError("the handler's")


def twice(event: Opened, it: Annotated[str, Depends(yields_twice)]) -> None: ...


async def processed(event: Opened, audit: Annotated[str, Depends(audit)]) -> None:
    raise AlreadyProcessed


@pytest.mark.parametrize(
    ("handler", "error", "note", "after"),
    [
        (
            opens_badly,
            Poison("no such tenant"),
            "while dependency boom .* of handler opens_badly .* was made",
            ["made", "audit opened", "audit sees Poison", "audit closed"],
        ),
        (
            closes_badly,
            KeyError("not to be closed"),
            "while dependency fails_closing .* of handler closes_badly .* was closed",
            ["made", "audit opened", "called", "audit sees KeyError", "audit closed"],
        ),
        (hushed, ValueError("the handler's"), "", ["hushed the handler's"]),
        (translated, Poison("translated"), "while dependency translates .* was closed", []),
        (called_processed, ValueError("the handler's"), "", []),
        (twice, RuntimeError("generator didn't stop"), "while dependency yields_twice", []),
        (
            processed,
            AlreadyProcessed(),
            "",
            ["made", "audit opened", "audit sees AlreadyProcessed", "audit closed"],
        ),
    ],
)
async def test_what_is_raised_keeps_its_type_and_names_the_dependency(
    handler: Any, error: Exception, note: str, after: list[str]
) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))) as raised:
        await call(handler)
    notes = "\n".join(getattr(raised.value, "__notes__", []))
    assert re.search(note, notes) if note else not notes
    assert seen == after


def unannotated(what) -> str:  # type: ignore[no-untyped-def]
    return str(what)


def of_another(event: Shut) -> str:
    return event.case_id


def ring_a(b: Annotated[str, Depends(lambda: ring_b)]) -> str:
    return b


def ring_b(a: Annotated[str, Depends(ring_a)]) -> str:
    return a


ring_a.__annotations__["b"] = Annotated[str, Depends(ring_b)]


class ForeignDepends:
    def __init__(self, dependency: Any) -> None:
        self.dependency = dependency


ForeignDepends.__name__ = "Depends"


async def h_unannotated(event: Opened, it: Annotated[str, Depends(unannotated)]) -> None: ...
async def h_another(event: Opened, it: Annotated[str, Depends(of_another)]) -> None: ...
async def h_ring(event: Opened, it: Annotated[str, Depends(ring_a)]) -> None: ...
def h_async(event: Opened, it: Annotated[object, Depends(later)]) -> None: ...
def h_channel(event: Opened, it: Annotated[str, Depends(channel)]) -> None: ...
async def h_builtin(event: Opened, it: Annotated[dict[str, str], Depends(dict)]) -> None: ...
async def h_two(event: Opened, it: Annotated[str, Depends(boom), Depends(ids)]) -> None: ...
async def h_foreign(event: Opened, it: Annotated[str, ForeignDepends(boom)]) -> None: ...
async def h_default(event: Opened, it: Any = Depends(boom)) -> None: ...  # noqa: B008
async def h_unread(event: Opened, d: Delivery, it: Annotated[Outbox, Depends(boom)]) -> None: ...
async def h_text(event: Opened, it: str) -> None: ...
async def h_late(event: Opened, it: str, delivery: Delivery) -> None: ...
async def h_yields(event: Opened, delivery: Delivery) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (h_unannotated, r"dependency unannotated .* of handler h_unannotated .*: nobody fills "
         r"what, which has no annotation .it may ask for Opened, Delivery, Annotated"),
        (h_another, "dependency of_another .* of handler h_another .*: nobody fills event: Shut"),
        (h_ring, "h_ring .* in a circle: ring_a .* -> ring_b .* -> ring_a"),
        (h_async, "dependency later .* of handler h_async .* is async, and the handler is plain"),
        (h_channel, "dependency channel .* is async, and the handler is plain"),
        (h_builtin, "dependency dict of handler h_builtin .*: its parameters cannot be read"),
        (h_two, "h_two .*: it has more than one Depends"),
        (h_foreign, "h_foreign .*: the Depends of it is .*'s .from seaway import Depends"),
        (h_default, r"h_default .*: it has Depends as its default .write it: Annotated\["),
        (h_unread, "h_unread .*: nobody fills it, whose annotation .*Outbox.* cannot be read"),
        (h_text, "h_text .*: it is annotated str, but is given Delivery; a dependency is Annotat"),
        (h_late, "h_late .*: nobody fills it: str .*, or a default"),
        (h_yields, "h_yields .* yields"),
        (Async, "handler Async is a class"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_when_the_handler_is_registered(handler: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        wired(handler)


def test_what_fills_a_parameter_is_a_function() -> None:
    with pytest.raises(ConfigError, match=r"Depends.'x'.: what fills a parameter is a function"):
        Depends(cast("Any", "x"))


async def hangs(event: Opened, audit: Annotated[str, Depends(audit)]) -> None:
    seen.append("hangs")
    await asyncio.Event().wait()


async def test_what_is_open_is_closed_when_the_handler_is_cancelled() -> None:
    running = asyncio.create_task(call(hangs))
    while "hangs" not in seen:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    opened = ["made", "audit opened", "hangs"]
    assert seen == [*opened, "audit sees CancelledError", "audit closed"]


# ---------------------------------------------------------------------- in tests


async def test_another_stands_in_for_a_provider_until_it_is_taken_away() -> None:
    table = HandlerTable("case_mgmt__from_wiring")
    table.register(Opened, said)
    table.register(RawEvent, nothing)
    subject = "wiring.event.opened.v1"

    async def handled() -> list[Any]:
        found = table.find(subject)
        assert found is not None
        seen.clear()
        await found.handler(EVENT, DELIVERY)
        return list(seen)

    assert await handled() == ["made", ("case-1", "tx")]
    assert table.override({Cases: lambda: Cases(delivery("another"))}) == [Cases, tenant]
    assert await handled() == ["made", ("case-1", "another")]
    assert table.override({}) == [Cases, tenant]
    assert await handled() == ["made", ("case-1", "tx")]


async def said(event: Opened, of: Tenant) -> None:
    case_id, cases = of
    seen.append((case_id, cases.tx))


async def nothing(event: RawEvent) -> None: ...
